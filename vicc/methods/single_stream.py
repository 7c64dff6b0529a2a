"""ViCC, first stage: one stream learns from two views of each video (paper, section 3.1)."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import nn

from vicc.batch import Batch, Stream
from vicc.distributed import world_size
from vicc.methods.batchnorm import encode_shuffled
from vicc.methods.configs import MethodSettings, SingleStreamSettings, ViewsWithGradient
from vicc.methods.contrast import ContrastTerm
from vicc.methods.encoder import Encoder
from vicc.methods.loss import assign_views, swapped_prediction_loss
from vicc.methods.prototypes import Prototypes
from vicc.methods.queue import EmbeddingQueue
from vicc.methods.registry import register_method
from vicc.methods.statistics import effective_rank, prototype_statistics, queue_statistics
from vicc.methods.task import Task


@register_method("single_stream", settings=SingleStreamSettings)
class SingleStream(Task):
    """Swapped prediction between the views of one stream, and a contrast of them, each with a
    weight.

    Published is swapped prediction alone. Without it there are no prototypes and no queue.

    Args:
        encoder: the encoder to train; its stream is the task's stream.
        num_prototypes: K; several numbers make several heads, whose losses are averaged.
        epsilon, num_iterations: of Sinkhorn.
        temperature: of the softmax of predictions.
        queue_length: rows of each process; 0 for no queue.
        queue_from_epoch: epoch from which the queue collects.
        freeze_prototypes_epochs: number of epochs, from the start, in which prototypes are frozen.
        views_for_assign: views whose assignment is predicted. Small views of a batch come after the
            full ones and are predicted only (SwAV, Caron et al., NeurIPS 2020, section 3.2).
        views_with_gradient: "both", or "one" as the published code trains: the second view is
            encoded without gradient.
        shuffled_batchnorm: encode views without gradient among the clips of other processes.
        swap_weight, contrast_weight: of the two terms in the loss; 0 leaves one out.
        contrast_temperature: of the contrast's softmax over views.
        contrast_memory: past embeddings that are further negatives, those of all processes
            together; 0 for none.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        num_prototypes: int | Sequence[int] = 300,
        epsilon: float = 0.05,
        num_iterations: int = 3,
        temperature: float = 0.1,
        queue_length: int = 0,
        queue_from_epoch: int = 0,
        freeze_prototypes_epochs: int = 0,
        views_for_assign: Sequence[int] = (0, 1),
        views_with_gradient: ViewsWithGradient = "both",
        shuffled_batchnorm: bool = False,
        swap_weight: float = 1.0,
        contrast_weight: float = 0.0,
        contrast_temperature: float = 0.1,
        contrast_memory: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.streams: tuple[Stream, ...] = (encoder.config.stream,)
        dim = encoder.config.embedding_dim
        sizes = (num_prototypes,) if isinstance(num_prototypes, int) else num_prototypes
        self.prototypes = nn.ModuleList(Prototypes(dim, size) for size in (sizes if swap_weight else ()))
        self.epsilon = epsilon
        self.num_iterations = num_iterations
        self.temperature = temperature
        self.queue = EmbeddingQueue(len(views_for_assign), queue_length if swap_weight else 0, dim)
        self.queue_from_epoch = queue_from_epoch
        self.freeze_prototypes_epochs = freeze_prototypes_epochs
        self.views_for_assign = tuple(views_for_assign)
        self.views_with_gradient = views_with_gradient
        self.shuffled_batchnorm = shuffled_batchnorm
        self.swap_weight = swap_weight
        self.contrast_weight = contrast_weight
        self.contrast = (
            ContrastTerm(temperature=contrast_temperature, memory_length=contrast_memory, embedding_dim=dim)
            if contrast_weight
            else None
        )

    @classmethod
    def from_settings(
        cls, settings: MethodSettings, encoder: Encoder, teacher: Encoder | None, *, batch_size: int
    ) -> Self:
        assert isinstance(settings, SingleStreamSettings)
        return cls(
            *(encoder,) if teacher is None else (encoder, teacher),
            num_prototypes=settings.num_prototypes,
            epsilon=settings.epsilon,
            num_iterations=settings.sinkhorn_iterations,
            temperature=settings.temperature,
            queue_length=settings.queue_length // batch_size * batch_size // world_size(),
            queue_from_epoch=settings.queue_from_epoch,
            freeze_prototypes_epochs=settings.freeze_prototypes_epochs,
            views_with_gradient=settings.views_with_gradient,
            views_for_assign=settings.views_for_assign or range(settings.num_full_views),
            shuffled_batchnorm=settings.batchnorm == "shuffled",
            swap_weight=settings.swap_weight,
            contrast_weight=settings.contrast_weight,
            contrast_temperature=settings.contrast_temperature,
            contrast_memory=settings.contrast_memory,
        )

    def embed(self, batch: Batch) -> list[torch.Tensor]:
        """Embeddings (B, D) of each view: the full ones, then the small ones."""
        return self._in_order(self.embed_trained(batch), self.embed_fixed(batch), batch)

    def embed_trained(self, batch: Batch) -> list[torch.Tensor]:
        """Embeddings (B, D) of the full views that train, then of the small ones."""
        # One pass a view, in order, as published: BatchNorm sees the views apart, the last one
        # last.
        views = batch.clips[self.encoder.config.stream].unbind(1)
        embeddings = [self.encoder(view) for view in views[: self._num_trained(batch)]]
        for clips in batch.small_clips:  # one pass for all views of one resolution
            small = clips[self.encoder.config.stream]
            embeddings += self.encoder(small.flatten(0, 1)).unflatten(0, small.shape[:2]).unbind(1)
        return embeddings

    @torch.no_grad()
    def embed_fixed(self, batch: Batch) -> list[torch.Tensor]:
        """Embeddings (B, D) of the full views that do not train."""
        views = batch.clips[self.encoder.config.stream].unbind(1)
        encode = encode_shuffled if self.shuffled_batchnorm else Encoder.__call__
        return [encode(self.encoder, view) for view in views[self._num_trained(batch) :]]

    def outputs(
        self, trained: list[torch.Tensor], fixed: list[torch.Tensor], batch: Batch, epoch: int
    ) -> dict[str, torch.Tensor]:
        """The weighted sum of the terms under "loss", and what each of them logs."""
        views = self._in_order(trained, fixed, batch)
        if self.contrast is None:
            swapped = self.loss(views, epoch)
            return {**swapped, "loss": self.swap_weight * swapped["loss"]}
        contrast = self._contrast(self.contrast, views, batch)
        loss = self.contrast_weight * contrast["contrast_loss"]
        if not self.swap_weight:
            return {"loss": loss, **contrast, "effective_rank": effective_rank(views[0])}
        swapped = self.loss(views, epoch)
        loss = loss + self.swap_weight * swapped["loss"]
        return {**swapped, "loss": loss, "swapped_loss": swapped["loss"], **contrast}

    def _contrast(self, term: ContrastTerm, views: list[torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        """What the contrast term gives for the embeddings (B, D) of all views, in the order of the
        loss.
        """
        full = batch.clips[self.encoder.config.stream].shape[1]
        return term.among_views(views[:full], views[full:], batch.index)

    def _num_trained(self, batch: Batch) -> int:
        """Full views with gradient."""
        return 1 if self.views_with_gradient == "one" else batch.clips[self.encoder.config.stream].shape[1]

    def _in_order(self, trained: list[torch.Tensor], fixed: list[torch.Tensor], batch: Batch) -> list[torch.Tensor]:
        """Views as the loss counts them: full ones, with gradient first, then small ones."""
        full = self._num_trained(batch)
        return [*trained[:full], *fixed, *trained[full:]]

    def loss(self, embeddings: list[torch.Tensor], epoch: int) -> dict[str, torch.Tensor]:
        """Swapped prediction loss between views, given their embeddings (B, D)."""
        queue = self.queue if self.queue.length and epoch >= self.queue_from_epoch else None
        if queue is not None:
            queue.open(embeddings[0])
        losses = []
        statistics: dict[str, torch.Tensor] = {}
        for head in self.prototypes:
            scores = [head(view) for view in embeddings]
            assignments = assign_views(
                scores,
                head,  # type: ignore[arg-type]
                queue,
                views_for_assign=self.views_for_assign,
                epsilon=self.epsilon,
                num_iterations=self.num_iterations,
            )
            losses.append(swapped_prediction_loss(scores, assignments, temperature=self.temperature))
            if not statistics:  # the first head speaks for all
                view = self.views_for_assign[0]
                statistics = prototype_statistics(scores[view], assignments[view], temperature=self.temperature)
        for line, view in enumerate(self.views_for_assign):
            self.queue.put(line, embeddings[view])
        return {
            "loss": torch.stack(losses).mean(),
            **statistics,
            "effective_rank": effective_rank(embeddings[0]),
            **queue_statistics(self.queue, embeddings[0]),
        }

    def before_step(self) -> None:
        for head in self.prototypes:
            head.normalize()  # type: ignore[operator]

    def cancel_gradients(self, epoch: int) -> None:
        if epoch < self.freeze_prototypes_epochs:
            for weight in self.prototypes.parameters():
                weight.grad = None

    def rank_state(self) -> dict[str, Any]:
        contrast = {} if self.contrast is None else {"contrast": self.contrast.state_dict()}
        return {"queue": self.queue.state_dict(), **contrast}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        device = next(self.encoder.parameters()).device
        self.queue.load_state_dict(state["queue"], device)
        if self.contrast is not None:
            self.contrast.load_state_dict(state["contrast"], device)

    def redistribute(self, states: list[dict[str, Any]], rank: int, processes: int) -> dict[str, Any]:
        queue = self.queue.redistribute([state["queue"] for state in states], rank, processes)
        return {**states[0], "queue": queue}  # the contrast's memory is the same in all processes
