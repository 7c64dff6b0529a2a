"""vicc's networks with the weights of the published names, in float64."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from tests.parity.formula import Variant, fill
from vicc.backbones import create_backbone
from vicc.batch import Stream
from vicc.methods.configs import EncoderConfig
from vicc.methods.cross_stream import CrossStream
from vicc.methods.encoder import Encoder
from vicc.methods.single_stream import SingleStream
from vicc.methods.task import Task
from vicc.published.layout import published_names

# Networks by the names that the published implementation gives them.
BACKBONES = {"s3d": "s3d", "r21d": "r2plus1d-10"}


def backbone_key(network: str, key: str) -> str:
    """Our name of a backbone's tensor to the published one."""
    return published_names(f"backbone.{key}", BACKBONES[network])[0].removeprefix("0.")


def backbone(network: str, *, prefix: str = "") -> torch.nn.Module:
    """A backbone with the weights that stand under `prefix` in the published naming."""
    module = create_backbone(BACKBONES[network])
    fill(module, lambda key: prefix + backbone_key(network, key))
    return module.double()


def encoder_key(network: str, prefix: str) -> Callable[[str], str]:
    """Our name of an encoder's tensor to the published one."""
    return lambda key: f"{prefix}.{published_names(key, BACKBONES[network])[0]}"


def encoder(stream: Stream, prefix: str, *, variant: Variant = "rand", network: str = "s3d") -> Encoder:
    """An encoder with published weights; flow has three channels, as published."""
    module = Encoder(EncoderConfig(stream, backbone=BACKBONES[network], flow_channels="128vu"))
    fill(module, encoder_key(network, prefix), variant)
    return module.double()


def task_key(network: str) -> Callable[[str], str]:
    """Our name of a ViCC task's tensor to the published one."""
    prefixes = {"encoder": "encoder_q", "teacher": "second"}

    def rename(key: str) -> str:
        part, _, rest = key.partition(".")
        return encoder_key(network, prefixes[part])(rest) if part in prefixes else key.replace(".0.", ".", 1)

    return rename


def vicc_task(
    *, teacher: bool, reverse: bool = False, variant: Variant = "rand", network: str = "s3d", **options: Any
) -> SingleStream:
    """A single-stream task, or a cross-stream one, in training mode; `reverse` trains flow with RGB as its teacher."""
    stream: Stream = "flow" if reverse else "rgb"
    other: Stream = "rgb" if reverse else "flow"
    student = encoder(stream, "encoder_q", variant=variant, network=network)
    task = (
        CrossStream(student, encoder(other, "second", variant=variant, network=network), **options)
        if teacher
        else SingleStream(student, **options)
    )
    fill(task.prototypes, lambda key: f"prototypes.{key.removeprefix('0.')}", variant)
    return task.double().train()


def named(task: Task, tensors: Iterable[tuple[str, torch.Tensor]], *, network: str = "s3d") -> dict[str, torch.Tensor]:
    """Parameters or buffers of a task that its state dict holds, under their published names."""
    rename, kept = task_key(network), task.state_dict().keys()
    return {rename(key): tensor for key, tensor in tensors if key in kept}
