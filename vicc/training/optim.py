"""LARC: SGD with a learning rate for every tensor (You et al., 2017), as the paper trains."""

from collections.abc import Callable, Iterable
from typing import Any

import torch


class LARC(torch.optim.Optimizer):
    """SGD with momentum whose step for a tensor w with gradient g is scaled by

        trust * |w| / (|g| + weight_decay * |w| + 1e-8)

    so that every layer moves by a like share of its own size. The factor is not clipped at 1.
    Tensors whose weight or gradient is zero take a plain step without weight decay: BatchNorm's
    shifts start at zero and take one such step.

    Args:
        lr: global learning rate.
        trust: trust coefficient; published 0.001.
    """

    # torch's GradScaler leaves it to us to pass over a step whose gradients overflowed, and says so
    # in `found_inf`: no look from the CPU, which would have to wait for the device.
    _step_supports_amp_scaling = True
    found_inf: torch.Tensor | None = None
    grad_scale: torch.Tensor | None = None

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust: float = 0.001,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})
        self.ratios = torch.empty(0)
        """What the last step scaled the learning rate of each tensor by, nan where it took a plain
        step; to be read.
        """

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
            if self.grad_scale is not None:
                torch._foreach_div_(grads, self.grad_scale)
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
            updates = list(torch._foreach_add(grads, torch._foreach_mul(weights, list(decay.unbind()))))
            torch._foreach_mul_(updates, list(rates.unbind()))
            momenta = [self._momentum(weight, update) for weight, update in zip(weights, updates, strict=True)]
            if self.found_inf is None:
                torch._foreach_mul_(momenta, group["momentum"])
                torch._foreach_add_(momenta, updates)
                torch._foreach_add_(weights, momenta, alpha=-group["lr"])
            else:
                self._step_unless_inf(weights, momenta, updates, group)
        self.ratios = torch.cat(ratios) if ratios else self.ratios

    def _momentum(self, weight: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
        if "momentum" not in self.state[weight]:
            self.state[weight]["momentum"] = torch.zeros_like(update)
        return self.state[weight]["momentum"]

    def _step_unless_inf(
        self, weights: list[torch.Tensor], momenta: list[torch.Tensor], updates: list[torch.Tensor], group: Any
    ) -> None:
        """Where a gradient overflowed, every weight and momentum stays as it is."""
        assert self.found_inf is not None
        overflowed = self.found_inf.bool()
        for weight, momentum, update in zip(weights, momenta, updates, strict=True):
            new = momentum * group["momentum"] + update
            momentum.copy_(torch.where(overflowed, momentum, new))
            weight.sub_(torch.where(overflowed, 0.0, group["lr"] * new))
