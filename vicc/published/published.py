"""Published checkpoints (.pth.tar) of ViCC, InfoNCE, UberNCE, CoCLR and their classifiers: to encoder folders and back.

encoder_q.0.<backbone>, .2, .4    -> FOLDER/model.safetensors, the trained encoder (also backbone.<backbone>)
second.*, sampler.*               -> FOLDER/teacher/, the frozen encoder of the other stream
encoder_k.*                       -> FOLDER/key_encoder/, the momentum encoder
prototypes.weight                 -> FOLDER/prototypes.safetensors
queue, queue_ptr, ...             -> FOLDER/queue.safetensors
final_bn.*, final_fc.*            -> FOLDER/head.safetensors, under the names of `vicc.methods.classifier`
"""

import hashlib
import io
import json
import math
import os
import pickle
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from vicc.backbones import create_backbone
from vicc.batch import Stream
from vicc.errors import ViccError
from vicc.files import atomic_write, read_json, write_json
from vicc.methods.classifier import LinearProbe
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.published.numpy_pickle import PickledArray, numpy_numbers
from vicc.training.build import ENCODER_FOLDER
from vicc.training.checkpoint import WEIGHTS_FILE, CheckpointFolder, load_encoder, save_weights
from vicc.training.classifier_folder import is_classifier, load_classifier
from vicc.training.watch.log import read_log

IMPORT_FILE = "published.json"
"""In an imported folder: what was read, from where, and what a way back needs."""

_LICENCE = (
    "These weights carry the licence of whoever published them, not vicc's: those of the ViCC authors are CC BY-NC 4.0."
)

# Where torchvision's S3D counts its layers, the published network names them, each twice: a layer belongs to the
# network and to one of its five blocks.
_S3D_LAYERS = {
    "0": ("Conv_1a", "block1.0"),
    "2": ("Conv_2b", "block2.1"),
    "3": ("Conv_2c", "block2.2"),
    "5": ("Mixed_3b", "block3.1"),
    "6": ("Mixed_3c", "block3.2"),
    "8": ("Mixed_4b", "block4.1"),
    "9": ("Mixed_4c", "block4.2"),
    "10": ("Mixed_4d", "block4.3"),
    "11": ("Mixed_4e", "block4.4"),
    "12": ("Mixed_4f", "block4.5"),
    "14": ("Mixed_5b", "block5.1"),
    "15": ("Mixed_5c", "block5.2"),
}
_HEAD = {"projection_head.0": "2", "projection_head.2": "4"}
# Backbones with a published layout, and the published name of their first weight.
_FIRST_WEIGHT = {"s3d": "Conv_1a.conv1.weight", "r2plus1d-10": "conv1.spatial_conv.weight"}


@dataclass(frozen=True)
class _Layout:
    """A method's checkpoint: its encoders by prefix, each with the folder it goes to, and what lies beside them."""

    title: str
    encoders: dict[str, str]
    beside: tuple[str, ...]
    score: str
    """Under which name the file keeps the best value of what it was judged by."""


_QUERY, _QUEUE = {"encoder_q": ""}, ("queue", "queue_ptr")
_FINAL_BN = tuple(f"final_bn.{name}" for name in ("weight", "bias", "running_mean", "running_var"))
_LAYOUTS = {
    "single_stream": _Layout("ViCC, single-stream", _QUERY, ("prototypes.weight",), "best_loss"),
    "cross_stream": _Layout("ViCC, cross-stream", {**_QUERY, "second": "teacher"}, ("prototypes.weight",), "best_loss"),
    "infonce": _Layout("InfoNCE", {**_QUERY, "encoder_k": "key_encoder"}, _QUEUE, "best_acc"),
    "ubernce": _Layout("UberNCE", {**_QUERY, "encoder_k": "key_encoder"}, (*_QUEUE, "queue_label"), "best_acc"),
    "coclr": _Layout(
        "CoCLR",
        {**_QUERY, "encoder_k": "key_encoder", "sampler": "teacher"},
        (*_QUEUE, "queue_second", "queue_vname", "queue_label"),
        "best_acc",
    ),
    "linear_probe": _Layout(
        "linear probe",
        {"backbone": ""},
        (*_FINAL_BN, "final_bn.num_batches_tracked", "final_fc.0.weight", "final_fc.0.bias"),
        "best_acc",
    ),
    "fine_tuned": _Layout(
        "fine-tuned classifier", {"backbone": ""}, ("final_fc.1.weight", "final_fc.1.bias"), "best_acc"
    ),
    "encoder": _Layout("an encoder alone", _QUERY, (), "best_loss"),
}

# Of everything beside encoders: the file it goes to, its name there, its shape. A letter is a size: D of embeddings,
# F of features, K prototypes, N of the queue, C classes.
_BESIDE: dict[str, tuple[str, str, tuple[str | int, ...]]] = {
    "prototypes.weight": ("prototypes", "weight", ("K", "D")),
    "queue": ("queue", "queue", ("D", "N")),
    "queue_ptr": ("queue", "queue_ptr", (1,)),
    "queue_second": ("queue", "queue_second", ("D", "N")),
    "queue_label": ("queue", "queue_label", ("N",)),
    "queue_vname": ("queue", "queue_vname", ("N",)),
    **{name: ("head", name.replace("final_bn", "batchnorm"), ("F",)) for name in _FINAL_BN},
    "final_bn.num_batches_tracked": ("head", "batchnorm.num_batches_tracked", ()),
    **{f"final_fc.{place}.weight": ("head", "linear.weight", ("C", "F")) for place in (0, 1)},
    **{f"final_fc.{place}.bias": ("head", "linear.bias", ("C",)) for place in (0, 1)},
}
_WHOLE_NUMBERS = ("num_batches_tracked", "queue_ptr", "queue_label", "queue_vname")


@dataclass(frozen=True)
class Imported:
    """What a published checkpoint held. `folders` are those written, by prefix in the file; None is "not in there".

    `left_out` names tensors of the file that are in no folder, `missing` tensors the file should have had; both are
    empty but for partial imports.
    """

    file: str
    folder: str
    method: str
    title: str
    backbone: str
    features: int
    stream: Stream
    epoch: int | None
    iteration: int | None
    tensors: int
    folders: dict[str, str]
    prototypes: int | None = None
    queue: int | None = None
    classes: int | None = None
    left_out: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Exported:
    """What was written in the published layout. `lacks` names tensors of the layout that the source does not have."""

    file: str
    method: str
    title: str
    backbone: str
    tensors: int
    lacks: list[str]


def published_names(name: str, backbone: str) -> tuple[str, ...]:
    """The published names, one or two, of a tensor of `Encoder`, without the prefix that says which encoder.

    >>> published_names("backbone.features.0.1.0.weight", "s3d")
    ('0.Conv_1a.conv2.weight', '0.block1.0.conv2.weight')
    >>> published_names("projection_head.2.bias", "s3d")
    ('4.bias',)

    Raises:
        ViccError: a backbone that was never published.
    """
    if backbone not in _FIRST_WEIGHT:
        raise ViccError(
            f"The backbone {backbone} has no published layout; those of {' and '.join(_FIRST_WEIGHT)} have one."
        )
    module, leaf = name.rsplit(".", 1)
    if module in _HEAD:
        return (f"{_HEAD[module]}.{leaf}",)
    if backbone != "s3d":
        return (f"0.{name.removeprefix('backbone.')}",)
    layer, *path = module.removeprefix("backbone.features.").split(".")
    inner = ""
    if path[0].startswith("branch"):
        # A branch is a list of units; torchvision's of one unit is that unit itself.
        branch, *path = path
        inner = f"{branch}.{path.pop(0) if len(path) > 1 else 0}."
    # A unit is convolution and BatchNorm; a separable one is two of these, over space and over time.
    *half, part = path
    inner += ("conv", "bn")[int(part)] + (str(int(half[0]) + 1) if half else "")
    return tuple(f"0.{published}.{inner}.{leaf}" for published in _S3D_LAYERS[layer])


# --- reading ---------------------------------------------------------------------------------------------------------


def import_published(
    path: Path | str, folder: Path | str, *, stream: Stream | None = None, allow_partial: bool = False
) -> Imported:
    """Read a published checkpoint into an encoder folder, with everything it holds beside the encoder.

    The folder appears whole or not at all. The optimiser's state is not taken over: vicc resumes no published training.

    Args:
        path: a .pth.tar file; read without executing anything.
        folder: where to write; must not exist, or be empty.
        stream: what the trained encoder sees. Published files do not say; only those that vicc wrote do.
        allow_partial: leave out tensors that have no place here, and parts (projection head, prototypes, queue, second
            encoder, classifier) that are not whole. The trained encoder's backbone must be whole all the same.

    Raises:
        ViccError: not such a checkpoint, damaged, not finite, of an unknown network, with tensors missing or left over,
            or of another stream; or a folder that has something in it.
    """
    path, folder = Path(path), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ViccError(f"{folder} exists already. Give another folder, or delete that one.")
    checkpoint = _load(path)
    tensors = _checked_tensors(path, checkpoint["state_dict"])
    found = _sort(path, tensors, checkpoint.get("vicc_encoders"), stream)
    layout = _LAYOUTS[found.method]
    if not allow_partial and (found.missing or found.unknown or found.method == "encoder"):
        reasons = [
            *(["neither prototypes nor queue nor classifier"] if found.method == "encoder" else []),
            *([_some("missing", found.missing)] if found.missing else []),
            *([_some("unknown", found.unknown)] if found.unknown else []),
        ]
        raise ViccError(
            f"{path} does not fit {layout.title} with {found.configs[''].backbone}: {'; '.join(reasons)}. "
            "To import what does fit, give --allow-partial."
        )
    result = Imported(
        file=str(path),
        folder=str(folder),
        method=found.method,
        title=layout.title,
        backbone=found.configs[""].backbone,
        features=found.sizes["F"],
        stream=found.configs[""].stream,
        epoch=_whole_number(checkpoint, "epoch"),
        iteration=_whole_number(checkpoint, "iteration"),
        tensors=len(tensors),
        folders={prefix: str(folder / at) for prefix, at in layout.encoders.items() if at in found.configs},
        prototypes=found.sizes.get("K"),
        queue=found.sizes.get("N"),
        classes=found.sizes.get("C"),
        left_out=found.left_out,
        missing=found.missing,
    )
    with _new_folder(folder) as new:
        for at, config in found.configs.items():
            save_weights(new / at, config, found.encoders[at])
        for file, kept in found.beside.items():
            _write_tensors(new / f"{file}.safetensors", kept)
        size, digest = path.stat().st_size, _digest(path)
        (new / "README.md").write_text(_card(result, found.configs[""], size, digest), encoding="utf-8")
        best = _number(checkpoint.get(layout.score))
        score = None if best is None else float(best)
        note = {**asdict(result), "file": path.name, "bytes": size, "blake2b": digest, "best": score}
        note["folders"] = {prefix: at for prefix, at in layout.encoders.items() if at in found.configs}
        del note["folder"]  # it may be moved
        write_json(new / IMPORT_FILE, {"vicc_published": 1, **note})
    return result


def _load(path: Path) -> dict[str, Any]:
    """Tensors and plain values of a torch checkpoint, of the zip format or the older one; runs nothing."""
    try:
        _check_container(path)
        # weights_only: a pickle of anything but tensors and plain values is refused before it is executed.
        with numpy_numbers():
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ViccError(f"No checkpoint at {path}: there is no such file.") from None
    except pickle.UnpicklingError as error:
        if _NEW_PICKLE.search(str(error)):
            raise ViccError(
                f"{path} was refused: it was saved with a pickle_protocol above 2, which torch does not read without "
                "running what it holds. Save it again with torch.save, without pickle_protocol. Nothing was executed."
            ) from error
        named = re.search(r"GLOBAL (\S{1,100})", str(error))
        if named is None:
            raise _damaged(path, error) from error
        raise ViccError(
            f"{path} was refused: it holds {named[1]}, which is neither a tensor nor a plain value and "
            "could run code when loaded. Nothing was executed."
        ) from error
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        entries = (
            ", ".join(map(str, list(checkpoint)[:5])) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        )
        raise ViccError(f"{path} is no published checkpoint: expected an entry state_dict, got {entries or 'nothing'}.")
    return checkpoint


# What torch.load raises on files that are cut short or altered.
_DAMAGED = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError),
    *(RuntimeError, TypeError, ValueError, zipfile.BadZipFile),
)
# What torch says of the commands of pickle that came with protocol 4: FRAME, SHORT_BINUNICODE, MEMOIZE, STACK_GLOBAL.
_NEW_PICKLE = re.compile(r"Unsupported operand (149|140|148|147)\b")
_OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of torch before 1.6 begin."""


def _check_container(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(_OLD_FORMAT))
    if zipfile.is_zipfile(path):
        # torch stores, it never compresses: a small file that unfolds to more than it is was not written by torch.
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > size:
                raise ViccError(
                    f"{path} was refused: it is {size} bytes that unpack to more, which torch never writes."
                )
    elif start != _OLD_FORMAT:
        kind = "an empty file"
        if start[:1] == b"\x80":
            kind = "a Python pickle, which could run code when loaded; nothing was executed"
        elif size:
            kind = f"{size} bytes that are cut short or not written by torch.save"
        raise ViccError(f"{path} is no torch checkpoint: {kind}. Download it again, or give another file.")


def _damaged(path: Path, error: BaseException) -> ViccError:
    said = " ".join(str(error).split())[:120]
    return ViccError(f"{path} is damaged or cut short ({said}). Download it again, or give another file.")


def _checked_tensors(path: Path, state: dict[Any, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a state dict, dense and finite, their names without the prefix of DataParallel."""
    size = path.stat().st_size
    tensors = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise ViccError(f"{path} is no published checkpoint: {name} in its state_dict is no dense tensor.")
        # A tensor may repeat one stored number any number of times (stride 0).
        if tensor.numel() * tensor.element_size() > size:
            raise ViccError(
                f"{path} was refused: {name} claims the shape {tuple(tensor.shape)}, more than the file's {size} bytes."
            )
        if not torch.isfinite(tensor).all():
            raise ViccError(f"{path} holds weights that are not finite: NaN or infinity in {name}. It cannot be used.")
        tensors[name] = tensor.detach()
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


@dataclass
class _Sorted:
    """A state dict under our names. Encoders and configs by folder ("" is the trained one), the rest by file."""

    method: str
    configs: dict[str, EncoderConfig] = field(default_factory=dict)
    encoders: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    beside: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """The unknown ones, and those of parts that are not whole."""


def _sort(path: Path, tensors: dict[str, torch.Tensor], written: Any, stream: Stream | None) -> _Sorted:
    found = _Sorted(_method(path, tensors))
    layout = _LAYOUTS[found.method]
    known = set(layout.beside)
    used: set[str] = set()
    for prefix, at in layout.encoders.items():
        config = _config(path, prefix, tensors, written, stream, found.configs.get(""))
        names = _encoder_names(prefix, config)
        known.update(name for _, both in names.values() for name in both)
        lacking = [name for _, both in names.values() for name in both if name not in tensors]
        found.missing += lacking
        if not at:
            found.sizes = {"F": _width(config), "D": config.embedding_dim}
        if lacking and not at:
            if any(name not in tensors for ours, (_, both) in names.items() if ours.startswith("b") for name in both):
                raise ViccError(
                    f"{path} does not fit {layout.title} with {config.backbone}: {_some('missing', lacking)}. "
                    "An encoder without these cannot be used."
                )
            config = replace(config, embedding_dim=0)
            names = _encoder_names(prefix, config)
        elif lacking:
            continue
        found.configs[at] = config
        found.encoders[at] = {ours: _one(path, both, tensors, like) for ours, (like, both) in names.items()}
        used.update(name for _, both in names.values() for name in both)
    for file in dict.fromkeys(_BESIDE[name][0] for name in layout.beside):
        names_here = [name for name in layout.beside if _BESIDE[name][0] == file]
        lacking = [name for name in names_here if name not in tensors]
        found.missing += lacking
        if not lacking:
            found.beside[file] = {_BESIDE[name][1]: _fitting(path, name, tensors[name], found) for name in names_here}
            used.update(names_here)
    found.unknown = [name for name in tensors if name not in known]
    found.left_out = [name for name in tensors if name not in used]
    return found


def _method(path: Path, tensors: dict[str, torch.Tensor]) -> str:
    """Which method wrote these names."""
    starts = {name.split(".")[0] for name in tensors}
    if "backbone" in starts:
        return "linear_probe" if "final_bn" in starts or "final_fc.0.weight" in tensors else "fine_tuned"
    if "encoder_q" not in starts:
        raise ViccError(
            f"{path} is no published checkpoint: its {len(tensors)} tensors begin with "
            f"{', '.join(sorted(starts)[:5]) or 'nothing'}; expected encoder_q or backbone."
        )
    marks = {
        "sampler": "coclr",
        "second": "cross_stream",
        "queue_label": "ubernce",
        "queue": "infonce",
        "encoder_k": "infonce",
        "prototypes": "single_stream",
    }
    return next((method for mark, method in marks.items() if mark in starts), "encoder")


def _config(
    path: Path,
    prefix: str,
    tensors: dict[str, torch.Tensor],
    written: Any,
    stream: Stream | None,
    trained: EncoderConfig | None,
) -> EncoderConfig:
    """What the encoder under a prefix is, by the shapes of its weights; `written` is what vicc noted on export."""
    start = prefix + ("." if prefix == "backbone" else ".0.")
    first = {name: tensors[start + weight] for name, weight in _FIRST_WEIGHT.items() if start + weight in tensors}
    if not first and trained is not None:
        backbone, channels = trained.backbone, trained.in_channels
    elif not first or next(iter(first.values())).dim() != 5:
        named = [start + _FIRST_WEIGHT[name] for name in first]
        example = next(name for name in [*named, *tensors] if name.startswith(f"{prefix}."))
        raise ViccError(
            f"{path} holds another network than {' or '.join(_FIRST_WEIGHT)}: its {prefix} has {example} of shape "
            f"{tuple(tensors[example].shape)}, expected {start}{_FIRST_WEIGHT['s3d']} of 5 dimensions."
        )
    else:
        backbone, channels = next((name, weight.shape[1]) for name, weight in first.items())
    if prefix in ("second", "sampler") and trained is not None:
        stream = "rgb" if trained.stream == "flow" else "flow"
    elif trained is not None:
        stream = trained.stream
    last = tensors.get(f"{prefix}.4.weight")
    embedding_dim = 0 if prefix == "backbone" else 128 if last is None else len(last)
    noted = _noted_config(path, prefix, written)
    if noted is not None:
        if stream not in (None, noted.stream):
            raise ViccError(
                f"{path} says that its {prefix} sees {noted.stream}, not {stream}: give --stream accordingly."
            )
        if (noted.backbone, noted.in_channels, noted.embedding_dim) == (backbone, channels, embedding_dim):
            return noted
        raise ViccError(f"{path} contradicts itself: its {prefix} is no {noted.backbone} as it says.")
    return _published_config(path, prefix, backbone, channels, embedding_dim, stream)


def _published_config(
    path: Path, prefix: str, backbone: str, channels: int, embedding_dim: int, stream: Stream | None
) -> EncoderConfig:
    if channels == 2 and stream == "rgb":
        raise ViccError(f"{path} takes two input channels, which is flow (u, v), not rgb: give --stream flow.")
    if channels not in (2, 3):
        raise ViccError(f"{path} takes {channels} input channels; expected 3 (rgb, or flow as published) or 2 (u, v).")
    if channels == 3 and stream is None:
        raise ViccError(
            f"{path} does not say whether it was trained on rgb or flow (published encoders of both take 3 channels). "
            "Give --stream rgb or --stream flow."
        )
    config = EncoderConfig(stream or "flow", backbone=backbone, embedding_dim=embedding_dim)
    if config.stream == "flow" and channels == 3:
        # Published flow was clipped at 20 pixels of frames 240 high and stored as an image: 128, v, u.
        return replace(config, flow_channels="128vu", flow_bound=20.0, flow_short_side=240)
    return config


def _noted_config(path: Path, prefix: str, written: Any) -> EncoderConfig | None:
    if not isinstance(written, dict) or prefix not in written:
        return None
    try:
        return EncoderConfig(**written[prefix])
    except TypeError as error:
        raise ViccError(f"{path} describes its {prefix} in a way that this vicc does not read ({error}).") from error


def _encoder_names(prefix: str, config: EncoderConfig) -> dict[str, tuple[torch.Tensor, list[str]]]:
    """By our name, a tensor without data that has its shape and dtype, and its published names in full."""
    with torch.device("meta"):
        state = Encoder(config).state_dict()
    names = {}
    for name, tensor in state.items():
        published = published_names(name, config.backbone)
        if prefix == "backbone":
            published = tuple(inner.removeprefix("0.") for inner in published)
        names[name] = (tensor, [f"{prefix}.{inner}" for inner in published])
    return names


def _one(path: Path, names: list[str], tensors: dict[str, torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """The tensor that a file holds under one or two names."""
    first, *others = (tensors[name] for name in names)
    if first.shape != like.shape or first.is_floating_point() != like.is_floating_point():
        raise _misfit(path, names[0], first, tuple(like.shape))
    if not all(other.dtype == first.dtype and torch.equal(first, other) for other in others):
        raise ViccError(f"{path} contradicts itself: {' and '.join(names)} are the same tensor, but differ in it.")
    return first


def _fitting(path: Path, name: str, tensor: torch.Tensor, found: _Sorted) -> torch.Tensor:
    """A tensor beside the encoders whose shape agrees with all others."""
    shape = _BESIDE[name][2]
    expected = tuple(
        found.sizes.setdefault(size, actual) if isinstance(size, str) else size
        for size, actual in zip(shape, tensor.shape, strict=False)
    )
    whole = name.endswith(_WHOLE_NUMBERS)
    if len(shape) != tensor.dim() or expected != tuple(tensor.shape) or tensor.is_floating_point() == whole:
        raise _misfit(path, name, tensor, shape)
    return tensor


def _misfit(path: Path, name: str, tensor: torch.Tensor, expected: Sequence[str | int]) -> ViccError:
    got = f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"
    return ViccError(f"{path} does not fit: {name} is {got}, expected ({', '.join(map(str, expected))}).")


# --- writing ---------------------------------------------------------------------------------------------------------


def export_published(source: Path | str, path: Path | str) -> Exported:
    """Write the published layout: of an imported folder, a classifier, a finished stage of a run, or an encoder alone.

    Of an imported folder every tensor is what it was. `optimizer` is an empty dict, since vicc keeps no published
    optimiser's state: training cannot be resumed from such a file. An entry `vicc_encoders`, beside the published ones,
    says which stream and input the encoders have.

    Raises:
        ViccError: no such source, a backbone, stream or several prototype heads, which have no published layout, or a
            file that exists.
    """
    source, path = Path(source), Path(path)
    if path.exists():
        raise ViccError(f"{path} exists already. Give another --out, or delete that file.")
    if (source / IMPORT_FILE).exists():
        written = _from_import(source)
    elif is_classifier(source):
        written = _from_classifier(source)
    elif (trained := CheckpointFolder(source).load_newest()) is not None:
        written = _from_stage(source, trained)
    else:
        encoder = load_encoder(source)
        written = _Sorted("encoder", {"": encoder.config}, {"": encoder.state_dict()}), None, None, 0.0
    found, epoch, iteration, score = written
    if any(config.stream == "diff" for config in found.configs.values()):
        raise ViccError(
            f"{source} has an encoder of the stream diff, which the published code lacks; expected RGB and flow."
        )
    layout = _LAYOUTS[found.method]
    state: dict[str, torch.Tensor] = {}
    for prefix, at in layout.encoders.items():
        if at in found.configs:
            for ours, (_, both) in _encoder_names(prefix, found.configs[at]).items():
                state |= dict.fromkeys(both, found.encoders[at][ours].detach().cpu().contiguous())
    for name in layout.beside:
        part, ours, _ = _BESIDE[name]
        if part in found.beside:
            state[name] = found.beside[part][ours].detach().cpu().contiguous()
    content = {
        "epoch": epoch,
        "state_dict": state,
        layout.score: score,
        "optimizer": {},
        "iteration": iteration,
        "vicc_encoders": {
            prefix: asdict(found.configs[at]) for prefix, at in layout.encoders.items() if at in found.configs
        },
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_write(path, "wb") as file:
        file.write(buffer.getbuffer())
    lacks = [f"{prefix}.*" for prefix, at in layout.encoders.items() if at not in found.configs]
    lacks += [name for name in layout.beside if name not in state]
    return Exported(str(path), found.method, layout.title, found.configs[""].backbone, len(state), lacks)


def _from_import(source: Path) -> tuple[_Sorted, int | None, int | None, float]:
    note = read_json(source / IMPORT_FILE, what="note of an import")
    if note.get("vicc_published") != 1 or note.get("method") not in _LAYOUTS:
        raise ViccError(f"{source / IMPORT_FILE} is not a note of an import that this version of vicc reads.")
    found = _Sorted(note["method"])
    for at in _LAYOUTS[found.method].encoders.values():
        if not at or (source / at).exists():
            found.configs[at] = load_encoder(source / at).config  # and with it the weights are known to fit
            found.encoders[at] = safetensors.torch.load_file(source / at / WEIGHTS_FILE)
    for file in dict.fromkeys(_BESIDE[name][0] for name in _LAYOUTS[found.method].beside):
        if (source / f"{file}.safetensors").exists():
            expected = {_BESIDE[name][1] for name in _LAYOUTS[found.method].beside if _BESIDE[name][0] == file}
            found.beside[file] = _read_tensors(source / f"{file}.safetensors", expected)
    return found, note["epoch"], note["iteration"], note["best"] or 0.0


def _from_classifier(source: Path) -> tuple[_Sorted, int | None, int | None, float]:
    module = load_classifier(source).module
    method = "linear_probe" if isinstance(module, LinearProbe) else "fine_tuned"
    found = _Sorted(method, {"": module.encoder.config}, {"": module.encoder.state_dict()})
    head = {name: value for name, value in module.state_dict().items() if not name.startswith("encoder.")}
    found.beside = {"head": head}
    return found, None, None, 0.0


def _from_stage(source: Path, state: dict[str, Any]) -> tuple[_Sorted, int | None, int | None, float]:
    """A stage's task under published names: what its checkpoint holds, described by its encoders' configs."""
    stage, model = json.loads(state["stage"]), state["model"]
    layout, found = _LAYOUTS[stage["method"]], _Sorted(stage["method"])
    config = load_encoder(source / ENCODER_FOLDER).config
    for at in layout.encoders.values():
        child = at or "encoder"
        found.configs[at] = config
        if child == "teacher":
            found.configs[at] = load_encoder(source.parent / stage["teacher"] / ENCODER_FOLDER).config
        found.encoders[at] = _of_child(model, child)
    heads = _of_child(model, "prototypes")
    if len(heads) > 1:
        raise ViccError(f"{source} has {len(heads)} prototype heads; the published layout has one.")
    found.beside = {"prototypes": {"weight": heads["0.weight"]}} if heads else {"queue": _published_queue(state)}
    log = read_log(source)
    return found, log[-1]["epoch"] if log else None, state["step"] + 1, 0.0


def _of_child(model: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in model.items() if key.startswith(f"{name}.")}


def _published_queue(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A ring of past keys as published: embeddings are columns, unknown labels -1."""
    ring = state["ranks"][0]["task"]["queue"]  # the same in all processes
    columns = ring["columns"]
    unknown = torch.full((len(columns["key"]),), -1)
    queue = {
        "queue": columns["key"].t(),
        "queue_ptr": torch.tensor([ring["next"]]),
        "queue_label": columns.get("label", unknown),
        "queue_vname": columns.get("source", unknown),
    }
    return {**queue, "queue_second": columns["teacher"].t()} if "teacher" in columns else queue


# --- small things ----------------------------------------------------------------------------------------------------


def _width(config: EncoderConfig) -> int:
    with torch.device("meta"):
        return int(create_backbone(config.backbone).num_features)  # type: ignore[arg-type]


def _some(word: str, names: Sequence[str]) -> str:
    return f"{len(names)} {word} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _whole_number(checkpoint: dict[str, Any], name: str) -> int | None:
    number = _number(checkpoint.get(name))
    return int(number) if number is not None and number == int(number) else None


def _number(value: Any) -> int | float | None:
    """A finite number, also as an array or a tensor of a single one."""
    if isinstance(value, PickledArray) or (isinstance(value, torch.Tensor) and value.numel() == 1):
        value = value.item()
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def _read_tensors(path: Path, names: set[str]) -> dict[str, torch.Tensor]:
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ViccError(
            f"{path} cannot be read ({' '.join(str(error).split())[:120]}). Import the file again."
        ) from error
    if set(tensors) != names:
        raise ViccError(f"{path} holds {', '.join(sorted(tensors))}; expected {', '.join(sorted(names))}.")
    return tensors


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with atomic_write(path, "wb") as file:
        file.write(safetensors.torch.save({name: tensor.clone().contiguous() for name, tensor in tensors.items()}))


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill that takes its name only when the block ended without an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        inner = new / "folder"  # made by mkdir, so with an ordinary folder's rights
        inner.mkdir()
        yield inner
        os.replace(inner, folder)
    finally:
        shutil.rmtree(new)


def _card(imported: Imported, config: EncoderConfig, size: int, digest: str) -> str:
    channels = {"rgb": "red, green, blue", "flow": "u, v" if config.in_channels == 2 else "128, v, u"}[config.stream]
    facts = {
        "Method": imported.title,
        "Backbone": f"{imported.backbone}, {imported.features} features",
        "Stream": imported.stream,
        "Epoch": imported.epoch,
        "Iteration": imported.iteration,
        "Prototypes": imported.prototypes,
        "Queue": imported.queue,
        "Classes": imported.classes,
        "Source": f"`{Path(imported.file).name}`, {size} bytes, blake2b-256 `{digest}`",
        "Left out": ", ".join(imported.left_out),
        "Missing in the source": ", ".join(imported.missing),
    }
    lines = "\n".join(f"- {name}: {value}" for name, value in facts.items() if value not in (None, ""))
    inside = "\n".join(
        f"- `{Path(place).name}/`: `{prefix}` of the source" for prefix, place in imported.folders.items()
    )
    return f"""# A published video encoder, imported by vicc

{lines}

{_LICENCE}

## Expected input

Clips of {config.clip_frames} frames, stride {config.stride}, at {config.size} x {config.size} pixels, uint8 \
(B, {config.in_channels}, T, H, W), channels {channels}. \
`Encoder.preprocess` makes one of a video's frames.

## Use

```python
import vicc

encoder = vicc.load_encoder("{Path(imported.folder).name}")
clip = encoder.preprocess(frames)
features = encoder.features(clip)
```

`vicc retrieve --encoder {Path(imported.folder).name} --store STORE` measures retrieval;
`vicc export {Path(imported.folder).name} --out FILE.pth.tar` writes the published layout again.

## Encoders

{inside}
"""
