"""The interface between a method and the training loop."""

from typing import Any, Self

import torch
from torch import nn

from vicc.batch import Batch, Stream
from vicc.errors import ViccError
from vicc.methods.configs import MethodSettings
from vicc.methods.encoder import Encoder


class Task(nn.Module):
    """The base of every method: how the training loop calls it. The loop knows no method by name.

    Attributes:
        streams: streams a batch must hold.
        encoder: the encoder that is trained, the stage's result.
        teacher: the encoder of another stream, if the method has one; frozen, in eval mode, without
            gradient.
    """

    streams: tuple[Stream, ...]
    encoder: Encoder
    teacher: Encoder | None

    def __init__(self) -> None:
        super().__init__()
        self.teacher = None

    @classmethod
    def from_settings(
        cls, settings: MethodSettings, encoder: Encoder, teacher: Encoder | None, *, batch_size: int
    ) -> Self:
        """The task from the settings of a stage; `build_method` calls it.

        Args:
            settings: an instance of the class that the method was registered with.
            teacher: the finished encoder of the other stream; None where `settings.needs_teacher`
                is false.
            batch_size: videos a step, those of all processes together.
        """
        raise ViccError(f"{cls.__name__} does not define from_settings.")

    def forward(self, batch: Batch, epoch: int) -> dict[str, torch.Tensor]:
        """One step's loss under "loss"; every other scalar is logged."""
        return self.outputs(self.embed_trained(batch), self.embed_fixed(batch), batch, epoch)

    def embed_trained(self, batch: Batch) -> list[torch.Tensor]:
        """Embeddings (B, D) of the views that train the encoder."""
        raise ViccError(f"{type(self).__name__} does not define embed_trained.")

    def embed_fixed(self, batch: Batch) -> list[torch.Tensor]:
        """Embeddings (B, D) without gradient: of a teacher, of a key encoder, of a view that does
        not train.
        """
        return []

    def outputs(
        self, trained: list[torch.Tensor], fixed: list[torch.Tensor], batch: Batch, epoch: int
    ) -> dict[str, torch.Tensor]:
        """What `forward` returns, from the embeddings of a batch, whether they were made at once or
        in parts.
        """
        raise ViccError(f"{type(self).__name__} does not define outputs.")

    def train(self, mode: bool = True) -> Self:
        """Switch mode of all but the teacher, whose BatchNorm must not follow this stage's batches."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def before_step(self) -> None:
        """Called before every forward, for instance to normalise prototypes."""

    def cancel_gradients(self, epoch: int) -> None:
        """Called between backward and the optimiser's step, for instance to keep prototypes frozen."""

    def rank_state(self) -> dict[str, Any]:
        """State of this process alone that a resume needs (its queue), as tensors and plain values."""
        return {}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        """Take back what `rank_state` gave."""

    def redistribute(self, states: list[dict[str, Any]], rank: int, processes: int) -> dict[str, Any]:
        """The `rank_state` of process `rank` of `processes`, made from the states of another number
        of processes.

        By default the first of them, which is right where all processes have the same.
        """
        return states[0]
