"""LARC: SGD with a learning rate for every tensor (You et al., 2017), as the paper trains."""

from collections.abc import Callable, Iterable
from typing import Any

import torch


class LARC(torch.optim.Optimizer):
    """SGD with momentum whose step for a tensor w with gradient g is scaled by

        trust * |w| / (|g| + weight_decay * |w| + 1e-8)

    so that every layer moves by a like share of its own size. The factor is not clipped at 1. Tensors whose weight or
    gradient is zero take a plain step without weight decay: BatchNorm's shifts start at zero and take one such step.

    Args:
        lr: global learning rate.
        trust: trust coefficient; published 0.001.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust: float = 0.001,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})
        self.ratios = torch.empty(0)
        """What the last step scaled the learning rate of each tensor by, nan where it took a plain step; to be read."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Make one step. A closure is not supported."""
        if closure is not None:
            raise ValueError("LARC does not evaluate a closure; call backward() before step().")
        ratios = []
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            grads = [weight.grad for weight in weights]
            # Norms on their device in two fused calls; no value comes back to the CPU.
            weight_norms = torch.stack(torch._foreach_norm(weights))
            grad_norms = torch.stack(torch._foreach_norm(grads))
            adapts = (weight_norms > 0) & (grad_norms > 0)
            # A product, not torch.where of two numbers, which would round the decay to float32.
            decay = adapts.to(weight_norms.dtype) * group["weight_decay"]
            rates = torch.where(
                adapts,
                group["trust"] * weight_norms / (grad_norms + group["weight_decay"] * weight_norms + 1e-8),
                1.0,
            )
            ratios.append(rates.where(adapts, torch.nan))
            updates = torch._foreach_add(grads, torch._foreach_mul(weights, list(decay.unbind())))
            torch._foreach_mul_(updates, list(rates.unbind()))
            momenta = [self.state[weight].get("momentum") for weight in weights]
            for weight, update, number in zip(weights, updates, range(len(weights)), strict=True):
                if momenta[number] is None:
                    momenta[number] = self.state[weight]["momentum"] = torch.zeros_like(update)
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, updates)
            torch._foreach_add_(weights, momenta, alpha=-group["lr"])
        self.ratios = torch.cat(ratios) if ratios else self.ratios
