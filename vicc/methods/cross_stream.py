"""ViCC, second stage: one stream learns with the help of the other, which is frozen (paper, section
3.2).
"""

from typing import Any

import torch

from vicc.batch import Batch
from vicc.methods.configs import CrossStreamSettings
from vicc.methods.contrast import ContrastTerm
from vicc.methods.encoder import Encoder
from vicc.methods.registry import register_method
from vicc.methods.single_stream import SingleStream


@register_method("cross_stream", settings=CrossStreamSettings)
class CrossStream(SingleStream):
    """Swapped prediction among four views: two of the trained stream, two of the frozen teacher's.

    The views are ordered [x1, x2, f2, f1]: the teacher encodes the second clip, then the first. All
    four are scored by the trained stream's prototypes. Small views, if there are any, are of the
    trained stream only and come last: small views of the teacher would train nothing but
    prototypes.

    The contrast is between the streams: every view of the trained stream must find both of the
    teacher's, whose past embeddings never age.

    Args:
        encoder: the encoder to train.
        teacher: the encoder of the other stream; kept in eval mode and without gradient for as long
            as this task lives.
        options: of `SingleStream`; `views_for_assign` counts all four views.
    """

    def __init__(self, encoder: Encoder, teacher: Encoder, **options: Any) -> None:
        super().__init__(encoder, **{"views_for_assign": (0, 1, 2, 3), **options})
        self.teacher: Encoder = teacher.requires_grad_(False)
        self.streams = (encoder.config.stream, teacher.config.stream)
        self.train()

    @torch.no_grad()
    def embed_fixed(self, batch: Batch) -> list[torch.Tensor]:
        """Embeddings (B, D) of the trained stream's view that does not train, if there is one, then
        the teacher's.
        """
        taught = [self.teacher(clips) for clips in reversed(batch.clips[self.teacher.config.stream].unbind(1))]
        return [*super().embed_fixed(batch), *taught]

    def _contrast(self, term: ContrastTerm, views: list[torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        own, taught = (batch.clips[stream].shape[1] for stream in self.streams)
        students = [*views[:own], *views[own + taught :]]
        return term.between_streams(students, views[own : own + taught], batch.index)
