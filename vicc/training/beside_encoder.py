"""What a finished stage writes beside its encoder: its prototypes, and the mean of the encoder's
features.

ENCODER/prototypes.safetensors   weight (K, D), as `vicc import` writes it; of several heads 0.weight, 1.weight, ...
ENCODER/mean.safetensors         mean (F,) of the features of training videos; the header says of how many, and of which
                                 windows of them
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from vicc.data.frame_reader import FrameReader
from vicc.data.records import Video
from vicc.device import Precision
from vicc.distributed import on_first
from vicc.errors import ViccError
from vicc.files import atomic_write
from vicc.methods.encoder import Encoder
from vicc.methods.features import Windows, extract_features
from vicc.methods.prototypes import Prototypes
from vicc.methods.task import Task
from vicc.training.checkpoint import MEAN_FILE, PROTOTYPES_FILE, encoder_folder, save_encoder

_VERSION = 1
# The standard error of a mean over so many is 1/sqrt(2,000), 2 %, of their spread; each costs one
# clip forward.
MAX_VIDEOS = 2000
_WINDOWS = Windows(one=True)
_MEAN_HEADER = "vicc_feature_mean"


@dataclass(frozen=True)
class FeatureMean:
    """The mean of an encoder's features over training videos.

    Attributes:
        mean: (F,), of features as `extract_features` gives them: of unit length for each window.
        videos: how many it was taken of, evenly spaced among all `training_videos`.
        windows: which clips of each.
    """

    mean: torch.Tensor
    videos: int
    training_videos: int
    windows: Windows


def save_stage_result(
    folder: Path,
    task: Task,
    store: FrameReader,
    videos: list[Video],
    precision: Precision,
    *,
    workers: int,
    description: str,
) -> None:
    """Write a stage's encoder, and before it, as it makes the stage finished, what goes beside it.

    Called in all processes. Weights, modes and random streams are left as they were.

    Args:
        folder: of the encoder.
        videos: the training videos.
    """
    mean = measure_feature_mean(task.encoder, store, videos, precision, workers=workers, description=description)

    def write() -> None:
        heads = [head.weight for head in task.modules() if isinstance(head, Prototypes)]
        if heads:
            names = ["weight"] if len(heads) == 1 else [f"{number}.weight" for number in range(len(heads))]
            _write(folder / PROTOTYPES_FILE, dict(zip(names, heads, strict=True)), {})
        about = {
            "version": _VERSION,
            "videos": mean.videos,
            "training_videos": mean.training_videos,
            "windows": asdict(mean.windows),
        }
        # One entry: the format keeps several in any order, and equal runs would differ in their
        # bytes.
        _write(folder / MEAN_FILE, {"mean": mean.mean}, {_MEAN_HEADER: json.dumps(about)})
        save_encoder(folder, task.encoder)

    on_first(write)


def measure_feature_mean(
    encoder: Encoder,
    store: FrameReader,
    videos: list[Video],
    precision: Precision,
    *,
    workers: int = 0,
    description: str = "feature mean",
) -> FeatureMean:
    """The mean over one window, which depends on the id alone, of each of at most `MAX_VIDEOS`
    videos.
    """
    count = min(MAX_VIDEOS, len(videos))
    chosen = [videos[place * len(videos) // count] for place in range(count)]
    # Another encoder with the same weights: the one that was trained may be compiled, or keep no
    # activations.
    with torch.random.fork_rng(devices=[]):
        copy = Encoder(encoder.config)
    copy.load_state_dict({name: weight.detach().cpu() for name, weight in encoder.state_dict().items()})
    features = extract_features(
        copy, store, chosen, windows=_WINDOWS, precision=precision, workers=workers, description=description
    )
    return FeatureMean(features.double().mean(dim=0).float(), count, len(videos), _WINDOWS)


def load_prototypes(path: Path | str) -> list[torch.Tensor]:
    """The prototypes (K, D) of each head, float32, as the last step left them: bring them to unit
    length to compare them with embeddings.

    Args:
        path: what `load_encoder` takes: a finished stage, an encoder folder, one that `vicc import`
            wrote, or one on the Hugging Face hub.

    Raises:
        ViccError: no such encoder, none beside it (methods such as InfoNCE have none), or a file
            that is damaged.
    """
    tensors, _ = _read(encoder_folder(path) / PROTOTYPES_FILE, "prototypes")
    names = ["weight"] if "weight" in tensors else [f"{number}.weight" for number in range(len(tensors))]
    if not tensors or sorted(tensors) != sorted(names) or any(tensor.ndim != 2 for tensor in tensors.values()):
        raise ViccError(f"The prototypes of {path} are damaged: they hold {', '.join(sorted(tensors)) or 'nothing'}.")
    return [tensors[name].float() for name in names]


def load_feature_mean(path: Path | str) -> FeatureMean:
    """The mean of an encoder's features over the videos that it was trained on, or some of them.

    Args:
        path: what `load_encoder` takes.

    Raises:
        ViccError: no such encoder, none beside it, or a file that is damaged or of another version.
    """
    tensors, header = _read(encoder_folder(path) / MEAN_FILE, "feature mean")
    try:
        about = json.loads(header[_MEAN_HEADER])
        if about["version"] != _VERSION:
            raise ValueError(f"version {about['version']}, expected {_VERSION}")
        windows = Windows(**about["windows"])
        return FeatureMean(tensors["mean"], about["videos"], about["training_videos"], windows)
    except (KeyError, TypeError, ValueError) as error:
        raise ViccError(f"The feature mean of {path} cannot be read ({type(error).__name__}: {error}).") from error


def _write(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, str]) -> None:
    with atomic_write(path, "wb") as file:
        plain = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
        file.write(safetensors.torch.save(plain, header))


def _read(path: Path, what: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if not path.exists():
        raise ViccError(
            f"No {what} beside the encoder {path.parent}: it has no {path.name}, which stages write when they are "
            "finished (stages of an earlier vicc did not, and imported files and methods need not have one)."
        )
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise ViccError(f"The {what} {path} cannot be read ({' '.join(str(error).split())[:120]}).") from error
