"""The method against numbers of the published implementation, in float64.

The numbers and the formula that makes weights and inputs from names lie in the folder VICC_PARITY.
"""

import importlib.util
import json
import os
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from vicc.backbones import create_backbone
from vicc.batch import Batch
from vicc.methods.cross_stream import CrossStream
from vicc.methods.encoder import Encoder, EncoderConfig
from vicc.methods.single_stream import SingleStream
from vicc.methods.sinkhorn import sinkhorn
from vicc.training.optim import LARC
from vicc.training.schedule import cosine_learning_rate

FOLDER = Path(os.environ.get("VICC_PARITY", ""))
pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(
        not os.environ.get("VICC_PARITY"), reason="VICC_PARITY does not name a folder of published numbers"
    ),
]
# Published code casts assignments to float32 before the cross-entropy, which is worth about 1e-7.
LOSS_BOUND = 1e-6
# Embeddings in a queue are up to several steps old and carry that rounding through the network.
QUEUE_BOUND = 1e-5


@cache
def formula() -> ModuleType:
    spec = importlib.util.spec_from_file_location("formula", FOLDER / "formula.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def numbers(case: str) -> Any:
    return np.load(FOLDER / "fixtures" / f"{case}.npz")


def description(name: str) -> Any:
    return json.loads((FOLDER / "fixtures" / f"{name}.json").read_text())


def published_name(name: str) -> str:
    """Our name of a tensor of a single-stream task to the published one."""
    name = name.removeprefix("encoder.").replace("prototypes.0.", "prototypes.")
    if name.startswith("backbone.features."):
        names = description("s3d_torchvision_to_reference_keys")
        return "encoder_q.0." + names[name.removeprefix("backbone.features.")]
    return name.replace("projection_head.0.", "encoder_q.2.").replace("projection_head.2.", "encoder_q.4.")


@torch.no_grad()
def fill(module: torch.nn.Module, rename: Any, variant: str) -> None:
    for name, tensor in module.state_dict().items():
        tensor.copy_(torch.from_numpy(formula().value(rename(name), tensor.shape, variant)))


def single_stream_task(variant: str, **options: Any) -> SingleStream:
    task = SingleStream(Encoder(EncoderConfig("rgb")), **options)
    fill(task, published_name, variant)
    return task.double()


def batch(clips: torch.Tensor, other: torch.Tensor | None = None) -> Batch:
    streams: dict[Any, torch.Tensor] = {"rgb": clips.double()}
    return Batch(streams if other is None else {**streams, "flow": other.double()}, torch.arange(len(clips)))


def cross_batch(first: torch.Tensor, second: torch.Tensor) -> Batch:
    """The published layout, one block a moment with RGB before flow, as one block a stream."""
    rgb, flow = (torch.stack((first[:, stream], second[:, stream]), dim=1) for stream in (0, 1))
    return batch(rgb, flow)


def cross_stream_task(variant: str, **options: Any) -> CrossStream:
    student = single_stream_task(variant, **options)
    teacher = Encoder(EncoderConfig("rgb"))
    fill(teacher, lambda name: published_name(name).replace("encoder_q", "second"), variant)
    # The published flow encoder takes three channels; only its name makes it a flow encoder here.
    object.__setattr__(teacher.config, "stream", "flow")
    task = CrossStream(student.encoder, teacher, **options)
    task.prototypes.load_state_dict(student.prototypes.state_dict())
    return task.double()


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_s3d_computes_the_published_features(mode: str) -> None:
    names = description("s3d_torchvision_to_reference_keys")
    backbone = create_backbone("s3d").double().train(mode == "train")
    fill(backbone, lambda name: names[name.removeprefix("features.")], "rand")
    with torch.no_grad():
        ours = backbone(formula().gauss("x.s3d.a", (2, 3, 16, 64, 64)).double()).numpy()
    theirs = numbers("s3d.f64")[f"{mode}_a"]
    assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max()


def test_finite_sinkhorn_cases_are_equal() -> None:
    stored, cases = numbers("sinkhorn"), description("sinkhorn_meta")
    compared = 0
    for name, case in cases.items():
        if case["n_inf_in"] or case["nan_out"] or name == "zerorow":
            continue
        q, expected = torch.from_numpy(stored[f"in/{name}"]).double(), stored[f"out/{name}"]
        # Stored matrices (K, N) are exponentials already.
        ours = sinkhorn(torch.log(q).t(), epsilon=1.0, num_iterations=case["iterations"]).numpy()
        assert np.abs(ours - expected).max() <= 1e-6 * np.abs(expected).max(), name
        compared += 1
    assert compared >= 5


@pytest.mark.parametrize(("case", "gradient"), [("sync_noq", "both"), ("shuf_noq", "one")])
def test_single_stream_loss_and_prototype_gradient(case: str, gradient: Any) -> None:
    stored = numbers("vicc.f64")
    task = single_stream_task("rand", views_with_gradient=gradient).train()
    task.before_step()
    clips = formula().gauss("vicc.block", (4, 2, 3, 8, 64, 64))
    loss = task(batch(clips), 0)["loss"]
    loss.backward()
    assert abs(loss.item() - stored[f"{case}.loss"]) <= LOSS_BOUND
    expected = stored[f"{case}.grad/prototypes.weight"]
    assert task.prototypes[0].weight.grad is not None
    assert np.abs(task.prototypes[0].weight.grad.numpy() - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize(("case", "gradient"), [("sync_noq", "both"), ("shuf_noq", "one")])
def test_cross_stream_loss_and_prototype_gradient(case: str, gradient: Any) -> None:
    stored = numbers("vicc2.f64")
    task = cross_stream_task("rand", views_with_gradient=gradient).train()
    task.before_step()
    blocks = (formula().gauss(f"vicc2.block{number}", (4, 2, 3, 8, 64, 64)) for number in (1, 2))
    loss = task(cross_batch(*blocks), 0)["loss"]
    loss.backward()
    assert abs(loss.item() - stored[f"{case}.loss"]) <= LOSS_BOUND
    expected = stored[f"{case}.grad/prototypes.weight"]
    assert task.prototypes[0].weight.grad is not None
    assert np.abs(task.prototypes[0].weight.grad.numpy() - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["single", "cross"])
def test_training_trajectory(kind: str) -> None:
    """Whole steps: schedule, prototype normalisation and freezing, queue, LARC; every loss and every norm after."""
    stored, meta = numbers(f"traj_{kind}_shuf.f64"), description("traj_meta")
    run = meta["runs"][f"{kind}_shuf"]
    config, names = run["cfg"], run["names"]
    queue = stored["queue_after"].shape[1] if "queue_after" in stored else 0
    options = {
        "views_with_gradient": "one",
        "queue_length": queue,
        "queue_from_epoch": config.get("q_from", 1),
        "freeze_prototypes_epochs": config.get("freeze", 1),
    }
    task = (single_stream_task if kind == "single" else cross_stream_task)("init", **options).train()
    optimizer = LARC([weight for weight in task.parameters() if weight.requires_grad], lr=0.6)
    per_epoch = config["steps_per_epoch"]
    total = per_epoch * -(-config["nsteps"] // per_epoch)
    for step in range(config["nsteps"]):
        optimizer.param_groups[0]["lr"] = cosine_learning_rate(step, total_steps=total, base=0.6, final=0.0006)
        task.before_step()
        if kind == "single":
            clips = batch(_video_block(kind, step, "b"))
        else:
            clips = cross_batch(*(_video_block(kind, step, name) for name in ("b1", "b2")))
        loss = task(clips, step // per_epoch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        task.cancel_gradients(step // per_epoch)
        optimizer.step()
        assert abs(loss.item() - stored["loss"][step]) <= LOSS_BOUND, step
    if queue:
        assert task.queue.rows is not None
        ours_queue = task.queue.rows.numpy().reshape(stored["queue_after"].shape)
        assert np.abs(ours_queue - stored["queue_after"]).max() <= QUEUE_BOUND
    ours = {published_name(name): weight for name, weight in task.named_parameters() if not name.startswith("teacher")}
    for name, norm in zip(names, stored["param_norm"], strict=True):
        if name in ours:
            assert abs(ours[name].norm().item() - norm) <= 1e-6 * max(norm, 1.0), name


def _video_block(kind: str, step: int, name: str) -> torch.Tensor:
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    block = formula().unif(f"traj.{kind}.{step}.{name}", (4, 3, 16, 64, 64)).view(4, 3, 2, 8, 64, 64)
    return ((block.double() - mean) / std).transpose(1, 2)
