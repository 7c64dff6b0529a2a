"""torchvision's weights of its video models, learned with the labels of Kinetics-400, for vicc's
backbones of the same names.

The file is read here, not by torchvision, whose loader compares a file with its checksum only when
it has just been downloaded, and by default runs what a pickle holds.
"""

import hashlib
import pickle
import re
from pathlib import Path
from urllib.parse import urlparse

import torch

from vicc.batch import RgbNormalization
from vicc.errors import ViccError
from vicc.words import did_you_mean

NORMALIZATIONS: dict[str, RgbNormalization] = {
    "mc3_18": "kinetics",
    "mvit_v1_b": "slowfast",
    "mvit_v2_s": "slowfast",
    "r2plus1d_18": "kinetics",
    "r3d_18": "kinetics",
    "s3d": "kinetics",
    "swin3d_b": "imagenet",
    "swin3d_s": "imagenet",
    "swin3d_t": "imagenet",
}
"""The backbones that torchvision has weights for, and how these expect RGB to be normalised."""
LICENCE = (
    'torchvision says of its weights that they "may have their own licenses or terms and conditions derived from the '
    "dataset used for training. It is your responsibility to determine whether you have permission to use the models "
    'for your use case."'
)
"""What its README says; to be shown where its weights are taken."""

_WEIGHTS = "KINETICS400_V1"  # of swin3d_b there are others, which saw more than Kinetics-400
_CLASSIFIERS = ("classifier.", "fc.", "head.")
# What BatchNorm adds to a variance: torchvision's S3D (as TensorFlow's, from which its weights
# come) more than vicc's, which is the published one.
_S3D_EPSILON, _EPSILON = 1e-3, 1e-5
# What torch.load raises on files that are cut short or altered.
_DAMAGED = (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError)


def require_torchvision_weights(name: str) -> None:
    """Raises ViccError if torchvision has no weights of that name; with the names there are."""
    if name not in NORMALIZATIONS:
        raise ViccError(
            f"torchvision has no weights {name!r} for a backbone of vicc; it has {', '.join(NORMALIZATIONS)}."
            f"{did_you_mean(name, NORMALIZATIONS)}"
        )


def load_torchvision_weights(name: str) -> dict[str, torch.Tensor]:
    """The state dict of the backbone `name` for RGB; downloaded once, into the cache of torch.hub.

    In eval mode the backbone then gives what torchvision's model gives before its classifier.

    Raises:
        ViccError: no such weights; or they are not in the cache and cannot be downloaded, or the
            file there is another one than torchvision published.
    """
    require_torchvision_weights(name)
    from vicc.backbones.torchvision_video import get_model_weights

    path = _fetched(name, get_model_weights(name)[_WEIGHTS].url)
    try:
        # weights_only: a pickle of anything but tensors is refused before it is executed.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ViccError(
            f"{path} was refused: it holds something other than tensors, which could run code when loaded. Nothing "
            "was executed. Delete it, and give the command again."
        ) from error
    except _DAMAGED as error:
        said = " ".join(str(error).split())[:100]
        raise ViccError(f"{path} cannot be read ({said}). Delete it, and give the command again.") from error
    state = {key: value for key, value in state.items() if not key.startswith(_CLASSIFIERS)}
    if name == "s3d":
        state |= {key: value + (_S3D_EPSILON - _EPSILON) for key, value in state.items() if key.endswith("running_var")}
    return state


def without_colour(state: dict[str, torch.Tensor], *, in_channels: int) -> dict[str, torch.Tensor]:
    """A backbone's weights for input that has no colours: its first convolution sees the mean of
    its channels, in each of `in_channels`, scaled so that their sum is kept.

    What is the same in all channels then gives what a grey clip gave.
    """
    stem, weight = next((name, value) for name, value in state.items() if value.ndim == 5)  # it stands first
    mean = weight.mean(dim=1, keepdim=True) * (weight.shape[1] / in_channels)
    return {**state, stem: mean.repeat(1, in_channels, 1, 1, 1)}


def _fetched(name: str, url: str) -> Path:
    """The file of the cache, downloaded first if need be, its checksum compared."""
    file = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    match = re.search(r"-([0-9a-f]{8,})\.", file)
    assert match is not None, f"torchvision names its files by their checksums, and this one {file}"
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), match[1])
        except (OSError, RuntimeError) as error:  # no network, a full disk; another checksum
            said = " ".join(str(error).split())[:120]
            raise ViccError(
                f"The weights torchvision:{name} are not on this machine and could not be fetched ({said}). Fetch "
                f"{url} where there is a network, and put the file at {path}."
            ) from error
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if not digest.startswith(match[1]):
        raise ViccError(
            f"{path} is not the file that torchvision published: its SHA-256 begins with {digest[: len(match[1])]}, "
            f"expected {match[1]}. Delete it, and give the command again, or fetch {url}."
        )
    return path
