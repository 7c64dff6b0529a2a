"""Encoders, classifiers and stages of a run to published checkpoints (.pth.tar)."""

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from vicc.errors import ViccError
from vicc.files import atomic_write, read_json
from vicc.methods.classifier import LinearProbe
from vicc.published.layout import BESIDE, IMPORT_FILE, LAYOUTS, Contents, encoder_names
from vicc.training.build import ENCODER_FOLDER
from vicc.training.checkpoint import WEIGHTS_FILE, CheckpointFolder, load_encoder
from vicc.training.classifier_folder import is_classifier, load_classifier
from vicc.training.watch.log import read_log


@dataclass(frozen=True)
class Exported:
    """What was written in the published layout. `lacks` names tensors of the layout that were not
    there.
    """

    file: str
    method: str
    title: str
    backbone: str
    tensors: int
    lacks: list[str]


def export_published(folder: Path | str, path: Path | str) -> Exported:
    """Write the published layout: of an imported folder, a classifier, a finished stage of a run,
    or an encoder alone.

    Of an imported folder every tensor is what it was. `optimizer` is an empty dict, since vicc
    keeps no published optimiser's state: training cannot be resumed from such a file. An entry
    `vicc_encoders`, beside the published ones, says which stream and input the encoders have.

    Raises:
        ViccError: no such folder, a backbone, stream or several prototype heads, which have no
            published layout, or a file that exists.
    """
    folder, path = Path(folder), Path(path)
    if path.exists():
        raise ViccError(f"{path} exists already. Give another --out, or delete that file.")
    if (folder / IMPORT_FILE).exists():
        written = _from_import(folder)
    elif is_classifier(folder):
        written = _from_classifier(folder)
    elif (trained := CheckpointFolder(folder).load_newest()) is not None:
        written = _from_stage(folder, trained)
    else:
        encoder = load_encoder(folder)
        written = Contents("encoder", {"": encoder.config}, {"": encoder.state_dict()}), None, None, 0.0
    found, epoch, iteration, score = written
    if any(config.stream == "diff" for config in found.configs.values()):
        raise ViccError(
            f"{folder} has an encoder of the stream diff, which the published code lacks; expected RGB and flow."
        )
    layout = LAYOUTS[found.method]
    state: dict[str, torch.Tensor] = {}
    for prefix, at in layout.encoders.items():
        if at in found.configs:
            for ours, (_, both) in encoder_names(prefix, found.configs[at]).items():
                state |= dict.fromkeys(both, found.encoders[at][ours].detach().cpu().contiguous())
    for name in layout.beside:
        part, ours, _ = BESIDE[name]
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


def _from_import(folder: Path) -> tuple[Contents, int | None, int | None, float]:
    note = read_json(folder / IMPORT_FILE, what="note of an import")
    if note.get("vicc_published") != 1 or note.get("method") not in LAYOUTS:
        raise ViccError(f"{folder / IMPORT_FILE} is not a note of an import that this version of vicc reads.")
    found = Contents(note["method"])
    for at in LAYOUTS[found.method].encoders.values():
        if not at or (folder / at).exists():
            found.configs[at] = load_encoder(folder / at).config  # and with it the weights are known to fit
            found.encoders[at] = safetensors.torch.load_file(folder / at / WEIGHTS_FILE)
    for file in dict.fromkeys(BESIDE[name][0] for name in LAYOUTS[found.method].beside):
        if (folder / f"{file}.safetensors").exists():
            expected = {BESIDE[name][1] for name in LAYOUTS[found.method].beside if BESIDE[name][0] == file}
            found.beside[file] = _read_tensors(folder / f"{file}.safetensors", expected)
    return found, note["epoch"], note["iteration"], note["best"] or 0.0


def _from_classifier(folder: Path) -> tuple[Contents, int | None, int | None, float]:
    module = load_classifier(folder).module
    method = "linear_probe" if isinstance(module, LinearProbe) else "fine_tuned"
    found = Contents(method, {"": module.encoder.config}, {"": module.encoder.state_dict()})
    head = {name: value for name, value in module.state_dict().items() if not name.startswith("encoder.")}
    found.beside = {"head": head}
    return found, None, None, 0.0


def _from_stage(folder: Path, state: dict[str, Any]) -> tuple[Contents, int | None, int | None, float]:
    """A stage's task under published names: what its checkpoint holds, described by its encoders'
    configs.
    """
    stage, model = json.loads(state["stage"]), state["model"]
    layout, found = LAYOUTS[stage["method"]], Contents(stage["method"])
    config = load_encoder(folder / ENCODER_FOLDER).config
    for at in layout.encoders.values():
        child = at or "encoder"
        found.configs[at] = config
        if child == "teacher":
            found.configs[at] = load_encoder(folder.parent / stage["teacher"] / ENCODER_FOLDER).config
        found.encoders[at] = _of_child(model, child)
    heads = _of_child(model, "prototypes")
    if len(heads) > 1:
        raise ViccError(f"{folder} has {len(heads)} prototype heads; the published layout has one.")
    if heads:
        found.beside = {"prototypes": {"weight": heads["0.weight"]}}
    elif any(BESIDE[name][0] == "queue" for name in layout.beside):
        found.beside = {"queue": _published_queue(state)}
    log = read_log(folder)
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
