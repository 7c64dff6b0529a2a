"""Linear classifiers on an encoder's pooled features, before the projection head (paper, section 4)."""

from typing import Self

import torch
import torch.nn.functional as F
from torch import nn

from vicc.methods.encoder import Encoder


class LinearProbe(nn.Module):
    """A linear classifier on frozen features: unit length, BatchNorm, linear.

    Args:
        encoder: stands still, in eval mode, without gradient.
        num_classes: classes to tell apart.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.batchnorm = nn.BatchNorm1d(encoder.num_features)
        self.linear = nn.Linear(encoder.num_features, num_classes)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Switch mode of all but the encoder."""
        super().train(mode)
        self.encoder.eval()
        return self

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """Clips (B, C, T, H, W) to the unit-length features (B, num_features) that are classified."""
        with torch.no_grad():
            features = self.encoder.features(clips, any_size=True)
            if features.dtype in (torch.bfloat16, torch.float16):
                features = features.float()  # outside autocast's reach: a unit length in bf16 is off by a percent
            return F.normalize(features, dim=1)

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) of features."""
        return self.linear(self.batchnorm(features))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes)."""
        return self.classify(self.features(clips))


class FineTuned(nn.Module):
    """An encoder trained on with labels: dropout, linear.

    Args:
        encoder: is trained too.
        num_classes: classes to tell apart.
        dropout: of the features; published 0.9.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, dropout: float = 0.9) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(encoder.num_features, num_classes)

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """Clips (B, C, T, H, W) to features (B, num_features) as the backbone gives them."""
        return self.encoder.features(clips, any_size=True)

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) of features."""
        return self.linear(self.dropout(features))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes)."""
        return self.classify(self.features(clips))
