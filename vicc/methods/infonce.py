"""InfoNCE on video: one view's query against the other's key and a queue of past keys (He et al.,
MoCo, CVPR 2020).
"""

from copy import deepcopy
from typing import Any, Self

import torch

from vicc.batch import Batch
from vicc.distributed import all_gather
from vicc.methods.batchnorm import encode_shuffled
from vicc.methods.configs import InfoNCESettings, MethodSettings
from vicc.methods.contrast import positive_first
from vicc.methods.encoder import Encoder
from vicc.methods.queue import KeyQueue
from vicc.methods.registry import register_method
from vicc.methods.statistics import effective_rank, queue_statistics
from vicc.methods.task import Task


def any_positive_loss(logits: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """Mean of -log of the softmax's share that falls on positives (Han et al., CoCLR, NeurIPS 2020,
    equation 2).

    It is low as soon as one positive is found; with one positive a row it is the cross-entropy of
    InfoNCE.

    Args:
        logits: (B, N), already divided by the temperature.
        positives: (B, N) bool, at least one a row.
    """
    return (logits.logsumexp(1) - logits.masked_fill(~positives, -torch.inf).logsumexp(1)).mean()


@register_method("infonce", settings=InfoNCESettings)
class InfoNCE(Task):
    """Contrastive learning with a queue (MoCo): a query must find its own key among past ones.

    The first view of a video is encoded by the encoder that is trained, the second by a key encoder
    that follows it slowly.

    Args:
        encoder: the encoder to train.
        queue_length: past keys, those of all processes.
        temperature: of the softmax over keys.
        key_momentum: share of itself that the key encoder keeps at each step.
        shuffled_batchnorm: encode keys among the clips of other processes.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        queue_length: int = 2048,
        temperature: float = 0.07,
        key_momentum: float = 0.999,
        shuffled_batchnorm: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.streams = (encoder.config.stream,)
        self.key_encoder = deepcopy(encoder).requires_grad_(False)
        self.queue = self._new_queue(queue_length, encoder.config.embedding_dim)
        self.temperature = temperature
        self.key_momentum = key_momentum
        self.shuffled_batchnorm = shuffled_batchnorm

    @classmethod
    def from_settings(
        cls, settings: MethodSettings, encoder: Encoder, teacher: Encoder | None, *, batch_size: int
    ) -> Self:
        return cls(encoder, **cls._options(settings))

    @staticmethod
    def _options(settings: MethodSettings) -> dict[str, Any]:
        assert isinstance(settings, InfoNCESettings)
        return {
            "queue_length": settings.queue_length,
            "temperature": settings.temperature,
            "key_momentum": settings.key_momentum,
            "shuffled_batchnorm": settings.batchnorm == "shuffled",
        }

    def _new_queue(self, length: int, embedding_dim: int) -> KeyQueue:
        return KeyQueue(length, {"key": (embedding_dim,)})

    def embed_trained(self, batch: Batch) -> list[torch.Tensor]:
        """The queries (B, D), of the first view."""
        return [self.encoder(batch.clips[self.encoder.config.stream][:, 0])]

    @torch.no_grad()
    def embed_fixed(self, batch: Batch) -> list[torch.Tensor]:
        """The keys (B, D), of the second view."""
        second = batch.clips[self.encoder.config.stream][:, 1]
        return [encode_shuffled(self.key_encoder, second) if self.shuffled_batchnorm else self.key_encoder(second)]

    def outputs(
        self, trained: list[torch.Tensor], fixed: list[torch.Tensor], batch: Batch, epoch: int
    ) -> dict[str, torch.Tensor]:
        """Loss and statistics. Without gradient nothing enters the queue."""
        (queries,), keys = trained, fixed[0]
        rows = {"key": keys, **self.facts(batch, fixed)}
        self.queue.place(keys)
        logits = self.logits(queries, keys)
        positives = self.positives(rows)
        if torch.is_grad_enabled():
            self.queue.put({name: all_gather(values) for name, values in rows.items()})
        return {
            "loss": self.loss(logits, positives),
            "positive_first": positive_first(logits, positives),
            "positives": positives.sum(1).float().mean(),
            "effective_rank": effective_rank(queries),
            **queue_statistics(self.queue, queries),
        }

    def loss(self, logits: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
        """The loss, from logits and positives (B, 1 + queue)."""
        return any_positive_loss(logits, positives)

    def logits(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """(B, 1 + queue): each query with its own key, then with the queue."""
        own = (queries * keys).sum(1, keepdim=True)
        return torch.cat((own, queries @ self.queue.columns["key"].t()), dim=1) / self.temperature

    def facts(self, batch: Batch, fixed: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the queue keeps of a batch beside its keys, by column; `fixed` is what `embed_fixed`
        gave.
        """
        return {}

    def positives(self, rows: dict[str, torch.Tensor]) -> torch.Tensor:
        """(B, 1 + queue) bool: which keys a query should find; its own, and `past_positives`."""
        own = torch.ones(len(rows["key"]), 1, dtype=torch.bool, device=rows["key"].device)
        return torch.cat((own, self.past_positives(rows)), dim=1)

    def past_positives(self, rows: dict[str, torch.Tensor]) -> torch.Tensor:
        """(B, queue) bool: which past keys a query should find; none here."""
        keys = rows["key"]
        return torch.zeros(len(keys), self.queue.length, dtype=torch.bool, device=keys.device)

    @torch.no_grad()
    def before_step(self) -> None:
        for key, weight in zip(self.key_encoder.parameters(), self.encoder.parameters(), strict=True):
            key.lerp_(weight, 1 - self.key_momentum)

    def rank_state(self) -> dict[str, Any]:
        return {"queue": self.queue.state_dict()}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        self.queue.load_state_dict(state["queue"], next(self.encoder.parameters()).device)
