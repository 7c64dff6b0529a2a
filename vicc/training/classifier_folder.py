"""Classifiers on disk: an encoder folder with a head beside the encoder.

FOLDER/model.safetensors, config.json    the encoder, as in every encoder folder
FOLDER/head.safetensors                  the layers behind it, under the names of `vicc.methods.classifier`
FOLDER/classifier.json                   the classes and where it comes from; an imported classifier has none
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from vicc.errors import ViccError
from vicc.files import atomic_write, read_json, write_json
from vicc.methods.classifier import FineTuned, LinearProbe
from vicc.places import require_classifier
from vicc.training.build import ENCODER_FOLDER
from vicc.training.checkpoint import load_encoder, save_encoder

CLASSIFIER_STAGE = "classifier"
"""Name of the stage that trains one, and of its folder in the run."""
CLASSIFIER_FILE, HEAD_FILE = "classifier.json", "head.safetensors"
_VERSION = 1


@dataclass(frozen=True)
class Classifier:
    """A classifier that was read.

    Attributes:
        module: in eval mode; uint8 clips to logits.
        classes: in the order of the logits; None of an imported one, whose file does not say.
        label_share: of the training videos' labels that it has learned from.
        folder: where it is.
    """

    module: LinearProbe | FineTuned
    classes: list[str] | None
    label_share: float
    folder: Path

    @property
    def kind(self) -> str:
        return "linear probe" if isinstance(self.module, LinearProbe) else "fine-tuned"

    @property
    def num_classes(self) -> int:
        return self.module.linear.out_features


def save_classifier(
    folder: Path,
    module: LinearProbe | FineTuned,
    *,
    classes: list[str],
    label_share: float,
    facts: dict[str, Any],
) -> None:
    """Write a classifier folder; the encoder's config comes last and makes it complete.

    Args:
        classes: in the order of the logits.
        label_share: of the training videos' labels that it has learned from.
        facts: where it comes from, plain values.
    """
    head = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in module.state_dict().items()
        if not name.startswith("encoder.")
    }
    with atomic_write(folder / HEAD_FILE, "wb") as file:
        file.write(safetensors.torch.save(head))
    described = {"vicc_classifier": _VERSION, "classes": classes, "label_share": label_share, **facts}
    write_json(folder / CLASSIFIER_FILE, described)
    save_encoder(folder, module.encoder)


def load_classifier(place: Path) -> Classifier:
    """Read a classifier.

    Args:
        place: a run of `vicc finetune`, or a folder with a classifier in it, such as `vicc import`
            makes of a published one.

    Raises:
        ViccError: no classifier there, one of another version, or files that do not fit one
            another.
    """
    folder = _folder(place)
    encoder = load_encoder(folder)
    try:
        head = safetensors.torch.load_file(folder / HEAD_FILE)
        num_classes = len(head["linear.bias"])
        kind = LinearProbe if "batchnorm.weight" in head else FineTuned
        module = kind(encoder, num_classes)
        module.load_state_dict({**head, **{f"encoder.{name}": value for name, value in encoder.state_dict().items()}})
    except (OSError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise ViccError(f"The classifier {folder} cannot be loaded: {' '.join(str(error).split())[:300]}.") from error
    classes, label_share = _described(folder, num_classes)
    return Classifier(module.eval(), classes, label_share, folder)


def is_classifier(place: Path) -> bool:
    """Whether `load_classifier` would find one there."""
    return _find(place) is not None


def _find(place: Path) -> Path | None:
    for candidate in (place, place / ENCODER_FOLDER, place / CLASSIFIER_STAGE / ENCODER_FOLDER):
        if (candidate / HEAD_FILE).exists() and (candidate / "config.json").exists():
            return candidate
    return None


def _folder(place: Path) -> Path:
    require_classifier(place)
    return _find(place) or place


def _described(folder: Path, num_classes: int) -> tuple[list[str] | None, float]:
    """Classes and label share; what published classifiers are where nothing says so."""
    if not (folder / CLASSIFIER_FILE).exists():
        return None, 1.0
    content = read_json(folder / CLASSIFIER_FILE, what="classifier description")
    classes = content.get("classes")
    if content.get("vicc_classifier") != _VERSION or not isinstance(classes, list):
        raise ViccError(f"{folder / CLASSIFIER_FILE} is not a classifier description that this version of vicc reads.")
    if len(classes) != num_classes:
        raise ViccError(f"The classifier {folder} names {len(classes)} classes and tells {num_classes} apart.")
    return classes, content.get("label_share", 1.0)
