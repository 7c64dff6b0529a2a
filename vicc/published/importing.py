"""Published checkpoints (.pth.tar) of ViCC, InfoNCE, UberNCE, CoCLR and their classifiers to
encoder folders.
"""

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from vicc.backbones import create_backbone
from vicc.batch import Stream
from vicc.errors import ViccError
from vicc.files import atomic_write, write_json
from vicc.methods.configs import EncoderConfig
from vicc.published.layout import BESIDE, FIRST_WEIGHT, IMPORT_FILE, LAYOUTS, WHOLE_NUMBERS, Contents, encoder_names
from vicc.published.numpy_pickle import PickledArray
from vicc.published.torch_file import load_checkpoint
from vicc.training.checkpoint import save_weights

_LICENCE = (
    "These weights carry the licence of whoever published them, not vicc's: those of the ViCC authors are CC BY-NC 4.0."
)


@dataclass(frozen=True)
class Imported:
    """What a published checkpoint held. `folders` are those written, by prefix in the file; None is
    "not in there".

    `left_out` names tensors of the file that are in no folder, `missing` tensors the file should
    have had; both are empty but for partial imports.
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


def import_published(
    path: Path | str, folder: Path | str, *, stream: Stream | None = None, allow_partial: bool = False
) -> Imported:
    """Read a published checkpoint into an encoder folder, with everything it holds beside the
    encoder.

    The folder appears whole or not at all. The optimiser's state is not taken over: vicc resumes no
    published training.

    Args:
        path: a .pth.tar file; read without executing anything.
        folder: where to write; must not exist, or be empty.
        stream: that of the trained encoder. Of the files, only those that vicc wrote name it.
        allow_partial: leave out tensors that are not known, and parts (projection head, prototypes,
            queue, second encoder, classifier) that are incomplete. The trained encoder's backbone
            must be complete.

    Raises:
        ViccError: not such a checkpoint, damaged, not finite, of an unknown network, with tensors
            missing or left over, or of another stream; or a folder that has something in it.
    """
    path, folder = Path(path), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ViccError(f"{folder} exists already. Give another folder, or delete that one.")
    checkpoint = load_checkpoint(path)
    tensors = _checked_tensors(path, checkpoint["state_dict"])
    found = _contents(path, tensors, checkpoint.get("vicc_encoders"), stream)
    layout = LAYOUTS[found.method]
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


def _checked_tensors(path: Path, state: dict[Any, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a state dict, dense and finite, their names without the prefix of
    DataParallel.
    """
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


def _contents(path: Path, tensors: dict[str, torch.Tensor], written: Any, stream: Stream | None) -> Contents:
    found = Contents(_method(path, tensors))
    layout = LAYOUTS[found.method]
    known = set(layout.beside)
    used: set[str] = set()
    for prefix, at in layout.encoders.items():
        config = _config(path, prefix, tensors, written, stream, found.configs.get(""))
        names = encoder_names(prefix, config)
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
            names = encoder_names(prefix, config)
        elif lacking:
            continue
        found.configs[at] = config
        found.encoders[at] = {ours: _one(path, both, tensors, like) for ours, (like, both) in names.items()}
        used.update(name for _, both in names.values() for name in both)
    for file in dict.fromkeys(BESIDE[name][0] for name in layout.beside):
        names_here = [name for name in layout.beside if BESIDE[name][0] == file]
        lacking = [name for name in names_here if name not in tensors]
        found.missing += lacking
        if not lacking:
            found.beside[file] = {BESIDE[name][1]: _fitting(path, name, tensors[name], found) for name in names_here}
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
    """What the encoder under a prefix is, by the shapes of its weights; `written` is what vicc
    noted on export.
    """
    start = prefix + ("." if prefix == "backbone" else ".0.")
    first = {name: tensors[start + weight] for name, weight in FIRST_WEIGHT.items() if start + weight in tensors}
    if not first and trained is not None:
        backbone, channels = trained.backbone, trained.in_channels
    elif not first or next(iter(first.values())).dim() != 5:
        named = [start + FIRST_WEIGHT[name] for name in first]
        example = next(name for name in [*named, *tensors] if name.startswith(f"{prefix}."))
        raise ViccError(
            f"{path} holds another network than {' or '.join(FIRST_WEIGHT)}: its {prefix} has {example} of shape "
            f"{tuple(tensors[example].shape)}, expected {start}{FIRST_WEIGHT['s3d']} of 5 dimensions."
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
        # Published flow was clipped at 20 pixels of frames 240 high and stored as an image: 128, v,
        # u.
        return replace(config, flow_channels="128vu", flow_bound=20.0, flow_short_side=240)
    return config


def _noted_config(path: Path, prefix: str, written: Any) -> EncoderConfig | None:
    if not isinstance(written, dict) or prefix not in written:
        return None
    try:
        return EncoderConfig(**written[prefix])
    except TypeError as error:
        raise ViccError(f"{path} describes its {prefix} in a way that this vicc does not read ({error}).") from error


def _one(path: Path, names: list[str], tensors: dict[str, torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """The tensor that a file holds under one or two names."""
    first, *others = (tensors[name] for name in names)
    if first.shape != like.shape or first.is_floating_point() != like.is_floating_point():
        raise _misfit(path, names[0], first, tuple(like.shape))
    if not all(other.dtype == first.dtype and torch.equal(first, other) for other in others):
        raise ViccError(f"{path} contradicts itself: {' and '.join(names)} are the same tensor, but differ in it.")
    return first


def _fitting(path: Path, name: str, tensor: torch.Tensor, found: Contents) -> torch.Tensor:
    """A tensor beside the encoders whose shape agrees with all others."""
    shape = BESIDE[name][2]
    expected = tuple(
        found.sizes.setdefault(size, actual) if isinstance(size, str) else size
        for size, actual in zip(shape, tensor.shape, strict=False)
    )
    whole = name.endswith(WHOLE_NUMBERS)
    if len(shape) != tensor.dim() or expected != tuple(tensor.shape) or tensor.is_floating_point() == whole:
        raise _misfit(path, name, tensor, shape)
    return tensor


def _misfit(path: Path, name: str, tensor: torch.Tensor, expected: Sequence[str | int]) -> ViccError:
    got = f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"
    return ViccError(f"{path} does not fit: {name} is {got}, expected ({', '.join(map(str, expected))}).")


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
