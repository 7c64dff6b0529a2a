"""One pretraining step of 2021 as the baseline of `benchmarks/step.py`, written from the paper's description.

float32 throughout, tensors in their default memory layout, clips normalised by the loader, LARC one tensor after the
other with a look at every norm, prototypes in an ordinary linear layer, the loss by softmax and logarithm.
"""

import torch
import torch.nn.functional as F
from torch import nn

from vicc.backbones import create_backbone


class PublishedStep:
    """Swapped prediction between two views of a stream.

    Args:
        both: the second view has gradient, too; the published scripts encode it without.
    """

    def __init__(self, *, both: bool) -> None:
        self.both = both
        self.backbone = create_backbone("s3d")  # the published network, bit for bit
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool3d(1), nn.Conv3d(1024, 1024, 1), nn.ReLU(inplace=True), nn.Conv3d(1024, 128, 1)
        )
        self.prototypes = nn.Linear(128, 300, bias=False)
        self.weights = [
            weight for module in (self.backbone, self.head, self.prototypes) for weight in module.parameters()
        ]
        self.momenta = [torch.zeros_like(weight) for weight in self.weights]

    def __call__(self, clips: torch.Tensor) -> float:
        """One step on float clips (B, 2, C, T, H, W), normalised; returns the loss."""
        with torch.no_grad():
            self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
        first, second = clips.unbind(1)
        scores = [self.scores(first.contiguous())]
        with torch.set_grad_enabled(self.both):
            scores.append(self.scores(second.contiguous()))
        assignments = [assign(view) for view in scores]
        losses = [
            -(assignments[view] * torch.log(F.softmax(scores[1 - view] / 0.1, dim=1))).sum(1).mean() for view in (0, 1)
        ]
        loss = sum(losses) / 2
        for weight in self.weights:
            weight.grad = None
        loss.backward()
        self.update()
        return loss.item()

    def scores(self, view: torch.Tensor) -> torch.Tensor:
        return self.prototypes(F.normalize(self.head(self.backbone(view)).flatten(1), dim=1))

    @torch.no_grad()
    def update(self, *, lr: float = 0.6, momentum: float = 0.9, decay: float = 1e-6, trust: float = 0.001) -> None:
        """LARC around SGD."""
        for weight, past in zip(self.weights, self.momenta, strict=True):
            grad = weight.grad
            if grad is None:
                continue
            norm, grad_norm = torch.norm(weight), torch.norm(grad)
            if norm != 0 and grad_norm != 0:
                grad = (grad + decay * weight) * (trust * norm / (grad_norm + decay * norm + 1e-8))
            past.mul_(momentum).add_(grad)
            weight.sub_(lr * past)


@torch.no_grad()
def assign(scores: torch.Tensor) -> torch.Tensor:
    """Sinkhorn's three iterations, without any care for overflow."""
    q = torch.exp(scores / 0.05).t()
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / q.shape[0]
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q / q.sum(0, keepdim=True)).t()
