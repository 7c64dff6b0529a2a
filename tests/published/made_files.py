"""State dicts as the published code wrote them, made from their names; files of them, and what refuses them."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.formula import value
from vicc.backbones import create_backbone
from vicc.errors import ViccError
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.published.importing import import_published
from vicc.published.layout import published_names

State = dict[str, torch.Tensor]
PARITY = os.environ.get("VICC_PARITY")
# By the names of the fixture checkpoint_keys.json: our method, its encoders, what lies beside them.
# "F" is the backbone's number of features.
METHODS: dict[str, tuple[str, tuple[str, ...], dict[str, tuple[Any, ...]]]] = {
    "vicc": ("single_stream", ("encoder_q",), {"prototypes.weight": (300, 128)}),
    "vicc2": ("cross_stream", ("encoder_q", "second"), {"prototypes.weight": (300, 128)}),
    "infonce": ("infonce", ("encoder_q", "encoder_k"), {"queue": (128, 2048), "queue_ptr": (1,)}),
    "ubernce": (
        "ubernce",
        ("encoder_q", "encoder_k"),
        {"queue": (128, 2048), "queue_ptr": (1,), "queue_label": (2048,)},
    ),
    "coclr": (
        "coclr",
        ("encoder_q", "encoder_k", "sampler"),
        {
            "queue": (128, 2048),
            "queue_ptr": (1,),
            "queue_second": (128, 2048),
            "queue_vname": (2048,),
            "queue_label": (2048,),
        },
    ),
    "lincls_last": (
        "linear_probe",
        ("backbone",),
        {
            **{f"final_bn.{name}": ("F",) for name in ("weight", "bias", "running_mean", "running_var")},
            "final_bn.num_batches_tracked": (),
            "final_fc.0.weight": (101, "F"),
            "final_fc.0.bias": (101,),
        },
    ),
    "lincls_ft": ("fine_tuned", ("backbone",), {"final_fc.1.weight": (101, "F"), "final_fc.1.bias": (101,)}),
    "vicc_r21d": ("single_stream", ("encoder_q",), {"prototypes.weight": (300, 128)}),
}


def num_features(backbone: str = "s3d") -> int:
    with torch.device("meta"):
        return int(create_backbone(backbone).num_features)  # type: ignore[arg-type]


def encoder_state(prefix: str, backbone: str = "s3d", channels: int = 3) -> State:
    """An encoder's tensors under published names; two names of one tensor share it."""
    return _encoder_state(prefix, backbone, channels, num_features(backbone))


@cache
def _encoder_state(prefix: str, backbone: str, channels: int, features: int) -> State:
    stream = "rgb" if channels == 3 else "flow"
    with torch.device("meta"):
        shapes = Encoder(EncoderConfig(stream, backbone=backbone)).state_dict()  # type: ignore[arg-type]
    state: State = {}
    for ours, like in shapes.items():
        names = published_names(ours, backbone)
        if prefix == "backbone":
            if not names[0].startswith("0."):
                continue
            names = tuple(name.removeprefix("0.") for name in names)
        state |= dict.fromkeys((f"{prefix}.{name}" for name in names), value(f"{prefix}.{names[0]}", like.shape))
    return state


def published_state(case: str) -> State:
    """A whole state dict of a method, as its published checkpoints name it."""
    _, prefixes, beside = METHODS[case]
    backbone = "r2plus1d-10" if case == "vicc_r21d" else "s3d"
    sizes = {"F": num_features(backbone)}
    state: State = {name: value(name, [sizes.get(size, size) for size in shape]) for name, shape in beside.items()}
    for prefix in prefixes:
        state |= encoder_state(prefix, backbone)
    return state


def save(path: Path, state: Any, *, old_format: bool = False, **entries: Any) -> Path:
    content = {
        "epoch": 299,
        "state_dict": state,
        "best_loss": 0.0,
        "best_acc": 0.5,
        "optimizer": {},
        "iteration": 12001,
    }
    torch.save(content | entries, path, _use_new_zipfile_serialization=not old_format)
    return path


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


def refused(path: Path, folder: Path, match: str, **options: Any) -> str:
    """Import has to be refused in one sentence or two, and to leave nothing behind."""
    before = sorted(folder.parent.iterdir())
    with pytest.raises(ViccError, match=match) as error:
        import_published(path, folder, **{"stream": "rgb", **options})
    assert sorted(folder.parent.iterdir()) == before
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    return str(error.value)


def without(*starts: str) -> Callable[[State], State]:
    return lambda state: {name: tensor for name, tensor in state.items() if not name.startswith(starts)}


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], State]:
    return lambda state: {**state, name: change(state[name])}
