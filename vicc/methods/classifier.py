"""Linear classifiers on an encoder's pooled features, before the projection head (paper, section
4), and their task.
"""

from collections.abc import Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import nn

from vicc.batch import Batch
from vicc.errors import ViccError
from vicc.methods.configs import ClassifierSettings, FineTunedSettings, LinearProbeSettings, MethodSettings
from vicc.methods.encoder import Encoder
from vicc.methods.registry import register_method
from vicc.methods.task import Task

_ENCODER = "classifier.encoder."


class LinearProbe(nn.Module):
    """A linear classifier on frozen features: unit length, BatchNorm, linear.

    Args:
        encoder: frozen, in eval mode, without gradient.
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


@register_method("fine_tuned", settings=FineTunedSettings)
@register_method("linear_probe", settings=LinearProbeSettings)
class Classification(Task):
    """Cross-entropy between a classifier's logits and the labels of a batch.

    Of a probe, whose encoder is frozen, the state dict holds what is trained alone: the encoder is
    where it was.

    Args:
        classifier: its encoder is the task's.
    """

    def __init__(self, classifier: LinearProbe | FineTuned) -> None:
        super().__init__()
        self.classifier = classifier
        self.streams = (classifier.encoder.config.stream,)

    @classmethod
    def from_settings(
        cls, settings: MethodSettings, encoder: Encoder, teacher: Encoder | None, *, batch_size: int
    ) -> Self:
        """With a random linear layer."""
        assert isinstance(settings, ClassifierSettings)
        if isinstance(settings, FineTunedSettings):
            return cls(FineTuned(encoder, settings.num_classes, dropout=settings.dropout))
        return cls(LinearProbe(encoder, settings.num_classes))

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]
        return self.classifier.encoder

    @property
    def _frozen(self) -> bool:
        return isinstance(self.classifier, LinearProbe)

    def embed_trained(self, batch: Batch) -> list[torch.Tensor]:
        """Features (B, num_features); none of a probe, whose features have no gradient."""
        return [] if self._frozen else [self._features(batch)]

    def embed_fixed(self, batch: Batch) -> list[torch.Tensor]:
        return [self._features(batch)] if self._frozen else []

    def _features(self, batch: Batch) -> torch.Tensor:
        return self.classifier.features(batch.clips[self.streams[0]][:, 0])

    def outputs(
        self, trained: list[torch.Tensor], fixed: list[torch.Tensor], batch: Batch, epoch: int
    ) -> dict[str, torch.Tensor]:
        """The loss, and the share of clips whose label has the highest logit.

        Raises:
            ViccError: a batch without labels.
        """
        if batch.label is None:
            raise ViccError("A classifier learns from labels, and this batch has none. Give videos in class folders.")
        (features,) = (*trained, *fixed)
        logits = self.classifier.classify(features)
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        accuracy = (logits.detach().argmax(dim=1) == batch.label).to(logits.dtype).mean()
        return {"loss": F.cross_entropy(logits, batch.label), "accuracy": accuracy}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        state = super().state_dict(*args, **kwargs)
        return {name: value for name, value in state.items() if not self._left_out(name)}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        kept = {name: value for name, value in super().state_dict().items() if self._left_out(name)}
        return super().load_state_dict({**kept, **state_dict}, strict, assign)

    def _left_out(self, name: str) -> bool:
        return self._frozen and name.startswith(_ENCODER)
