"""ViCC, first stage: one stream learns from two views of each video (paper, section 3.1)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from vicc.batch import Batch, Stream
from vicc.methods.encoder import Encoder
from vicc.methods.loss import assign_views, prototype_statistics, swapped_prediction_loss
from vicc.methods.prototypes import Prototypes
from vicc.methods.queue import EmbeddingQueue
from vicc.methods.task import Task

ViewsWithGradient = Literal["one", "both"]


class SingleStream(Task):
    """Swapped prediction between the views of one stream.

    Args:
        encoder: the encoder to train; its stream is the task's stream.
        num_prototypes: K.
        epsilon, num_iterations: of Sinkhorn.
        temperature: of the prediction.
        queue_length: rows a process; 0 for no queue.
        queue_from_epoch: when it opens.
        freeze_prototypes_epochs: prototypes stand still for so many epochs.
        views_for_assign: views whose assignment is predicted.
        views_with_gradient: "both", or "one" as the published code trains: the second view is encoded without gradient.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        num_prototypes: int = 300,
        epsilon: float = 0.05,
        num_iterations: int = 3,
        temperature: float = 0.1,
        queue_length: int = 0,
        queue_from_epoch: int = 0,
        freeze_prototypes_epochs: int = 0,
        views_for_assign: Sequence[int] = (0, 1),
        views_with_gradient: ViewsWithGradient = "both",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.streams: tuple[Stream, ...] = (encoder.config.stream,)
        self.prototypes = Prototypes(encoder.config.embedding_dim, num_prototypes)
        self.epsilon = epsilon
        self.num_iterations = num_iterations
        self.temperature = temperature
        self.queue = EmbeddingQueue(len(views_for_assign), queue_length, encoder.config.embedding_dim)
        self.queue_from_epoch = queue_from_epoch
        self.freeze_prototypes_epochs = freeze_prototypes_epochs
        self.views_for_assign = tuple(views_for_assign)
        self.views_with_gradient = views_with_gradient

    def forward(self, batch: Batch, epoch: int) -> dict[str, torch.Tensor]:
        """Loss and statistics for clips (B, V, C, T, H, W)."""
        return self.loss(self.embed(batch), epoch)

    def embed(self, batch: Batch) -> list[torch.Tensor]:
        """Embeddings (B, D) of each view of the trained stream."""
        first, *others = batch.clips[self.encoder.config.stream].unbind(1)
        # One pass a view, as published: BatchNorm sees the views apart.
        if self.views_with_gradient == "both":
            return [self.encoder(first), *(self.encoder(view) for view in others)]
        with torch.no_grad():
            others = [self.encoder(view) for view in others]
        return [self.encoder(first), *others]

    def loss(self, embeddings: list[torch.Tensor], epoch: int) -> dict[str, torch.Tensor]:
        """Swapped prediction loss between views, given their embeddings (B, D)."""
        if self.queue.length and epoch >= self.queue_from_epoch:
            self.queue.open(embeddings[0])
        scores = [self.prototypes(view) for view in embeddings]
        assignments = assign_views(
            embeddings,
            scores,
            self.prototypes,
            self.queue,
            views_for_assign=self.views_for_assign,
            epsilon=self.epsilon,
            num_iterations=self.num_iterations,
        )
        first = self.views_for_assign[0]
        return {
            "loss": swapped_prediction_loss(scores, assignments, temperature=self.temperature),
            **prototype_statistics(scores[first], assignments[first], temperature=self.temperature),
        }

    def before_step(self) -> None:
        self.prototypes.normalize()

    def cancel_gradients(self, epoch: int) -> None:
        if epoch < self.freeze_prototypes_epochs:
            self.prototypes.weight.grad = None

    def rank_state(self) -> dict[str, Any]:
        return {"queue": self.queue.state()}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        self.queue.load_state(state["queue"], self.prototypes.weight.device)
