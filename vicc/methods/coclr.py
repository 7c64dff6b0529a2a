"""CoCLR: InfoNCE whose further positives are neighbours in the other stream (Han et al., NeurIPS
2020).
"""

from typing import Any, Self

import torch

from vicc.batch import Batch
from vicc.methods.configs import CoCLRSettings, MethodSettings
from vicc.methods.encoder import Encoder
from vicc.methods.infonce import InfoNCE
from vicc.methods.queue import KeyQueue
from vicc.methods.registry import register_method


@register_method("coclr", settings=CoCLRSettings)
class CoCLR(InfoNCE):
    """A query must find the past keys that are near its own in the other stream (co-training).

    Until the queue is full, only clips of the same recording are positives; then the `num_mined`
    nearest others in the teacher's stream as well.

    Args:
        encoder: the encoder to train.
        teacher: the encoder of the other stream; frozen.
        num_mined: positives found in the other stream for each query.
        options: of `InfoNCE`.
    """

    def __init__(self, encoder: Encoder, teacher: Encoder, *, num_mined: int = 5, **options: Any) -> None:
        super().__init__(encoder, **options)
        self.teacher: Encoder = teacher.requires_grad_(False)
        self.streams = (encoder.config.stream, teacher.config.stream)
        self.num_mined = num_mined
        self.train()

    @classmethod
    def from_settings(
        cls, settings: MethodSettings, encoder: Encoder, teacher: Encoder | None, *, batch_size: int
    ) -> Self:
        assert isinstance(settings, CoCLRSettings)
        assert teacher is not None
        return cls(encoder, teacher, num_mined=settings.num_mined, **cls._options(settings))

    def _new_queue(self, length: int, embedding_dim: int) -> KeyQueue:
        return KeyQueue(length, {"key": (embedding_dim,), "teacher": (embedding_dim,), "source": ()})

    @torch.no_grad()
    def embed_fixed(self, batch: Batch) -> list[torch.Tensor]:
        """The keys (B, D), then the teacher's embeddings (B, D) of the same clips."""
        clips = batch.clips[self.teacher.config.stream][:, 1]
        return [*super().embed_fixed(batch), self.teacher(clips)]

    def facts(self, batch: Batch, fixed: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        # Without known recordings every video is its own.
        return {"teacher": fixed[1], "source": batch.index if batch.recording is None else batch.recording}

    def past_positives(self, rows: dict[str, torch.Tensor]) -> torch.Tensor:
        past = self.queue.columns
        siblings = rows["source"][:, None] == past["source"]
        full = (past["source"] >= 0).all()  # stays on the device: to ask it would be to wait for it
        alike = (rows["teacher"] @ past["teacher"].t()).masked_fill(siblings, -torch.inf)
        mined = torch.zeros_like(siblings).scatter(1, alike.topk(min(self.num_mined, self.queue.length)).indices, True)
        return siblings | (mined & full)
