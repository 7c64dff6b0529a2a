"""Prototypes: K directions of the embedding space that stand for what videos have in common (paper,
section 3).
"""

import torch
import torch.nn.functional as F
from torch import nn


class Prototypes(nn.Module):
    """Scores of embeddings against K unit vectors.

    Args:
        embedding_dim: D.
        num_prototypes: K.
    """

    def __init__(self, embedding_dim: int, num_prototypes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_prototypes, embedding_dim))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.normalize()

    @torch.no_grad()
    def normalize(self) -> None:
        """Bring every prototype to unit length; called before every forward."""
        self.weight.copy_(F.normalize(self.weight, dim=1))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D) to scores (B, K): cosines, since both have unit length."""
        return embeddings @ self.weight.t()
