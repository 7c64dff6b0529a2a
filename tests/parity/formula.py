"""Weights and inputs of the published numbers, made from names alone.

The stream of `numpy.random.RandomState` is frozen by numpy's compatibility policy, so a name gives the same array
everywhere, and neither weights nor inputs have to be stored. Names of weights are the published ones. Everything is
drawn in float64 and rounded to float32.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn

Variant = Literal["rand", "init"]


def gauss(tag: str, shape: Sequence[int]) -> torch.Tensor:
    """Standard normal float32 of this tag."""
    return torch.from_numpy(_stream(tag).standard_normal(tuple(shape)).astype(np.float32))


def unif(tag: str, shape: Sequence[int]) -> torch.Tensor:
    """Uniform float32 from [0, 1) of this tag."""
    return torch.from_numpy(_stream(tag).random_sample(tuple(shape)).astype(np.float32))


def unit_rows(tag: str, shape: Sequence[int]) -> torch.Tensor:
    """Normal float32 of this tag, its last axis brought to unit length in float64."""
    return torch.from_numpy(_unit(_stream(tag).standard_normal(tuple(shape)), axis=-1).astype(np.float32))


def value(name: str, shape: Sequence[int], variant: Variant = "rand") -> torch.Tensor:
    """The parameter or buffer of that published name.

    Args:
        variant: "init" starts BatchNorm at 1 and 0, as a training does; "rand" draws it as well.
    """
    shape = tuple(shape)
    *modules, last = name.split(".")
    stream = _stream(name)
    vector = len(shape) == 1
    if last in ("num_batches_tracked", "queue_ptr"):
        return torch.zeros(shape, dtype=torch.int64)
    if last in ("queue_label", "queue_vname"):
        return torch.full(shape, -1, dtype=torch.int64)
    if variant == "init":
        if last == "running_mean" or (last == "bias" and modules and "bn" in modules[-1]):
            return torch.zeros(shape)
        if last == "running_var" or (last == "weight" and vector):
            return torch.ones(shape)
    if last in ("queue", "queue_second"):
        array = _unit(stream.standard_normal(shape), axis=0)
    elif last in ("running_mean", "bias"):
        array = 0.1 * stream.standard_normal(shape)
    elif last == "running_var" or (last == "weight" and vector):
        array = 0.5 + stream.random_sample(shape)
    elif "prototypes" in name:
        array = _unit(stream.standard_normal(shape), axis=1)
    else:
        array = stream.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(array, dtype=np.float32))


@torch.no_grad()
def fill(module: nn.Module, published_name: Callable[[str], str], variant: Variant = "rand") -> None:
    """Give every tensor of `module` the value of its published name."""
    for name, tensor in module.state_dict().items():
        tensor.copy_(value(published_name(name), tensor.shape, variant))


def _stream(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(name.encode()))


def _unit(array: np.ndarray, *, axis: int) -> np.ndarray:
    return array / np.sqrt((array**2).sum(axis, keepdims=True))
