"""A method of one's own in one file: SimSiam (Chen and He, CVPR 2021), on any stream.

    vicc pretrain --import own_method --recipe demo --stages flow-1 --set flow-1.method=simsiam --store STORE --run RUN

It is then what vicc's own methods are: resumed, planned, watched, measured by `vicc retrieve --import own_method`.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import nn

from vicc.batch import Batch
from vicc.methods import Encoder, MethodSettings, Task, register_method


@dataclass(frozen=True)
class SimSiamSettings(MethodSettings):
    """What --set STAGE.FIELD=VALUE can change; the facts (two clips of a video, both with gradient) are inherited."""

    hidden_dim: int = 64
    """Width of the predictor."""


@register_method("simsiam", settings=SimSiamSettings)
class SimSiam(Task):
    """Each view predicts the other's embedding, which is held fixed."""

    def __init__(self, encoder: Encoder, *, hidden_dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.streams = (encoder.config.stream,)
        dim = encoder.config.embedding_dim
        self.predictor = nn.Sequential(nn.Linear(dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, dim))

    @classmethod
    def from_settings(
        cls, settings: SimSiamSettings, encoder: Encoder, teacher: Encoder | None, *, batch_size: int
    ) -> Self:
        return cls(encoder, hidden_dim=settings.hidden_dim)

    def embed_trained(self, batch: Batch) -> list[torch.Tensor]:
        """Embeddings (B, D) of the two views (B, C, T, H, W)."""
        return [self.encoder(view) for view in batch.clips[self.streams[0]].unbind(1)]

    def outputs(
        self, trained: list[torch.Tensor], fixed: list[torch.Tensor], batch: Batch, epoch: int
    ) -> dict[str, torch.Tensor]:
        first, second = trained
        agreement = F.cosine_similarity(self.predictor(first), second.detach()).mean()
        agreement = agreement + F.cosine_similarity(self.predictor(second), first.detach()).mean()
        return {"loss": -agreement / 2, "spread": F.normalize(first, dim=1).std(0).mean()}
