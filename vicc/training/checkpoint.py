"""Training states and encoders on disk: written atomically, read without executing anything."""

import hashlib
import io
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from vicc.errors import ViccError
from vicc.files import atomic_write, read_json, write_json
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.places import require_encoder
from vicc.progress import say

CHECKPOINT_VERSION = 2
WEIGHTS_FILE, _CONFIG = "model.safetensors", "config.json"
PROTOTYPES_FILE, MEAN_FILE = "prototypes.safetensors", "mean.safetensors"
"""Beside an encoder, where there are such, see `vicc.training.beside_encoder`."""
CHECKPOINTS_FOLDER, BEST_FILE = "checkpoints", "best.pt"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a training state of tensors and plain values; the file appears whole or not at all."""
    # Through memory: torch's own file writer turns a full disk into an error that does not say so.
    buffer = io.BytesIO()
    torch.save({"version": CHECKPOINT_VERSION, **state}, buffer)
    with atomic_write(path, "wb") as file:
        file.write(buffer.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote. Only tensors and plain values are accepted, so no file can
    run code.

    Raises:
        DamagedCheckpoint: a file that is cut short or was changed.
        ViccError: a file that would execute code, or comes from another version.
    """
    try:
        _require_whole(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ViccError(
            f"The checkpoint {path} was refused: it holds something other than tensors and plain values, which could "
            "run code when loaded. vicc never writes such a file; delete it unless you know where it comes from."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:100]
        raise DamagedCheckpoint(f"The checkpoint {path} is damaged or cut short ({reason}).") from error
    version = state.get("version") if isinstance(state, dict) else None
    if version != CHECKPOINT_VERSION:
        raise ViccError(f"The checkpoint {path} has version {version}; this vicc reads version {CHECKPOINT_VERSION}.")
    return state


def _require_whole(path: Path) -> None:
    """Compare every entry of the archive with its checksum (CRC-32), which torch writes but does
    not look at.
    """
    if not zipfile.is_zipfile(path):  # torch would go on to try older formats
        raise ValueError(f"{path.stat().st_size} bytes that are no archive")
    with zipfile.ZipFile(path) as archive:
        wrong = archive.testzip()
    if wrong is not None:
        raise ValueError(f"{wrong} does not match its checksum")


class DamagedCheckpoint(ViccError):  # noqa: N818 - reads as what it is
    """A checkpoint that is not what was written."""


class CheckpointFolder:
    """The checkpoints of a stage: the newest few, by step, and the best.

    STAGE/checkpoints/00001200.pt   after 1,200 steps
    STAGE/checkpoints/best.pt       the best by a metric, one of those above or an earlier one

    Args:
        stage_folder: folder of the stage.
        keep: how many of the newest are kept.
    """

    def __init__(self, stage_folder: Path, *, keep: int = 2) -> None:
        self.folder = stage_folder / CHECKPOINTS_FOLDER
        self.keep = keep

    def paths(self) -> list[Path]:
        """The checkpoints by step, newest first."""
        return sorted((path for path in self.folder.glob("*.pt") if path.stem.isdecimal()), reverse=True)

    def path(self, step: int) -> Path:
        """Where the state after so many steps is, or would be."""
        return self.folder / f"{step:08d}.pt"

    def newest_step(self) -> int:
        """Steps done at the newest checkpoint; 0 without one. Does not look into it."""
        return max((int(path.stem) for path in self.paths()), default=0)

    def save(self, state: dict[str, Any], *, best: bool = False) -> None:
        """Write a state with its "step"; then, not before, those that are too old go.

        Args:
            best: it is the best until now as well.
        """
        path = self.path(state["step"])
        if best:
            # Before the other name: a crash in between repeats an epoch, and does not leave an old
            # one as the best.
            save_checkpoint(self.folder / BEST_FILE, state)
            _link(self.folder / BEST_FILE, path)
        else:
            save_checkpoint(path, state)
        for old in self.paths()[self.keep :]:
            old.unlink()

    def load_newest(self) -> dict[str, Any] | None:
        """The newest state that is whole; None where no checkpoint was written yet.

        Damaged ones are put aside under another name, and that is said.

        Raises:
            ViccError: all of them are damaged, or one was refused (see `load_checkpoint`).
        """
        damaged: list[DamagedCheckpoint] = []
        paths = self.paths()
        for path in paths:
            try:
                state = load_checkpoint(path)
            except DamagedCheckpoint as error:
                damaged.append(error)
                continue
            for bad, reason in zip(paths, damaged, strict=False):
                os.replace(bad, bad.with_suffix(".damaged"))
                say(f"{reason} It was renamed to {bad.stem}.damaged; training goes on from the one before.")
            return state
        if damaged:
            raise ViccError(
                f"{damaged[-1]} There is no earlier one. Restore it, or delete {self.folder} to start afresh."
            ) from damaged[-1]
        return None


def _link(path: Path, link: Path) -> None:
    """Give the file `path` the second name `link`, which takes no room; a copy where a disk has no
    such thing.
    """
    temporary = link.with_suffix(".partial")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copyfile(path, temporary)
    os.replace(temporary, link)


def save_encoder(folder: Path, encoder: Encoder) -> None:
    """Write an encoder folder: weights (safetensors) and config (JSON). The config comes last and
    makes it complete.
    """
    save_weights(folder, encoder.config, encoder.state_dict())


def save_weights(folder: Path, config: EncoderConfig, weights: dict[str, torch.Tensor]) -> None:
    """`save_encoder` for an encoder that has not been built; `weights` are its state dict."""
    with atomic_write(folder / WEIGHTS_FILE, "wb") as file:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        file.write(safetensors.torch.save(tensors))
    write_json(folder / _CONFIG, {"vicc_encoder": 1, **asdict(config)})


def load_encoder(path: Path | str) -> Encoder:
    """Read an encoder: a ready module in eval mode that takes uint8 clips (B, C, T, H, W), see
    `Encoder.preprocess`.

    Args:
        path: an encoder folder, a stage of a run that has one, or, where a string names no folder,
            OWNER/NAME or OWNER/NAME@REVISION on the Hugging Face hub (downloaded once, then read
            from its cache).

    Raises:
        ViccError: no such encoder, a config of another version, or weights that do not fit it
            exactly.
    """
    folder = encoder_folder(path)
    content = read_json(folder / _CONFIG, what="encoder config")
    if not isinstance(content, dict) or content.pop("vicc_encoder", None) != 1:
        raise ViccError(f"{folder / _CONFIG} is not an encoder config that this version of vicc reads.")
    try:
        encoder = Encoder(EncoderConfig(**content))
        encoder.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS_FILE))
    except (OSError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise ViccError(f"The encoder {folder} cannot be loaded: {' '.join(str(error).split())[:300]}.") from error
    return encoder.eval()


def encoder_folder(path: Path | str) -> Path:
    """The folder of the encoder that `load_encoder` reads.

    Raises:
        ViccError: there is none.
    """
    folder = Path(path)
    for candidate in (folder, folder / "encoder"):
        if (candidate / _CONFIG).exists():
            return candidate
    if isinstance(path, str) and not folder.exists() and _HUB_ID.fullmatch(path):
        return _from_hub(*path.split("@"))
    require_encoder(folder)  # which says what is there in its place
    return folder


def _from_hub(name: str, revision: str | None = None) -> Path:
    """The folder of the local cache in which an encoder of the hub lies, downloaded first if need
    be.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise ViccError(
            f"No encoder at {name}: there is no such folder. If it is an encoder on the Hugging Face hub, install what "
            "reads it: pip install 'vicc[hub]'"
        ) from None
    try:
        files = [WEIGHTS_FILE, _CONFIG, PROTOTYPES_FILE, MEAN_FILE]
        return Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ViccError(
            f"No encoder at {name}: there is no such folder, and the Hugging Face hub did not give it, at revision "
            f"{revision or 'main'} ({type(error).__name__}: {' '.join(str(error).split())[:120]}). Check the name, the "
            "network, or the local cache."
        ) from error


def copy_weights(source: torch.nn.Module, target: torch.nn.Module, *, what: str) -> None:
    """Copy every tensor of `source` into `target`, or none.

    Raises:
        ViccError: names or shapes differ (the message names the first few), or streams of encoders,
            whose shapes may be the same all the same.
    """
    if isinstance(source, Encoder) and isinstance(target, Encoder) and source.config.stream != target.config.stream:
        given, wanted = source.config.stream, target.config.stream
        raise ViccError(f"{what}: weights of a {given} encoder do not fit an {wanted} encoder.")
    ours, theirs = target.state_dict(), source.state_dict()
    wrong = sorted(set(ours) ^ set(theirs)) + [n for n in ours if n in theirs and ours[n].shape != theirs[n].shape]
    if wrong:
        raise ViccError(f"{what}: weights do not fit ({', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''}).")
    target.load_state_dict(theirs)


def weights_fingerprint(state: Mapping[str, torch.Tensor]) -> str:
    """A name for the content of all weights of a state dict: 128 bits of BLAKE2b in hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
