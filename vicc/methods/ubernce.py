"""UberNCE: InfoNCE whose positives are all keys of the class; an upper bound that needs labels
(CoCLR, section 3).
"""

import torch

from vicc.batch import Batch
from vicc.errors import ViccError
from vicc.methods.configs import UberNCESettings
from vicc.methods.contrast import every_positive_loss
from vicc.methods.infonce import InfoNCE
from vicc.methods.queue import KeyQueue
from vicc.methods.registry import register_method


@register_method("ubernce", settings=UberNCESettings)
class UberNCE(InfoNCE):
    """InfoNCE with labels: a query must find all past keys of its class; other arguments are those
    of `InfoNCE`.
    """

    def loss(self, logits: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
        return every_positive_loss(logits, positives)

    def _new_queue(self, length: int, embedding_dim: int) -> KeyQueue:
        return KeyQueue(length, {"key": (embedding_dim,), "label": ()})

    def facts(self, batch: Batch, fixed: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        if batch.label is None:
            raise ViccError(
                "ubernce learns from labels, and the store has training videos without one. Prepare videos in class "
                "folders, or train another method."
            )
        return {"label": batch.label}

    def past_positives(self, rows: dict[str, torch.Tensor]) -> torch.Tensor:
        return rows["label"][:, None] == self.queue.columns["label"]
