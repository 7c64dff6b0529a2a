"""Statistics of gradients and step sizes of a step, as scalars on the device; nothing here waits
for it.
"""

import torch

from vicc.training.optim import LARC


@torch.no_grad()
def gradient_norm(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Euclidean norm of all gradients together; to be asked between backward and the optimiser's
    step.
    """
    grads = [weight.grad for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
    if not grads:
        return {}
    return {"gradient_norm": torch.stack(torch._foreach_norm(grads)).norm()}


@torch.no_grad()
def trust_ratios(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """By what LARC's last step scaled the learning rates of the tensors: smallest, median, largest;
    empty for others.

    Ratios that differ by more than a thousand say that one tensor's gradient has vanished or
    exploded.
    """
    if not isinstance(optimizer, LARC) or not len(optimizer.ratios):
        return {}
    ordered = optimizer.ratios.sort().values  # nan, of the tensors that took a plain step, stands last
    last = (ordered.isfinite().sum() - 1).clamp_min(0)
    places = torch.stack((torch.zeros_like(last), last // 2, last))
    return dict(zip(("ratio_min", "ratio_median", "ratio_max"), ordered[places].unbind(), strict=True))
