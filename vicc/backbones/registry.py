"""Backbones by name."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import nn

from vicc.errors import ViccError


class Backbone(Protocol):
    """What a backbone offers: an `nn.Module` whose output has `num_features` channels."""

    num_features: int

    def __call__(self, clips: torch.Tensor, /) -> torch.Tensor: ...


Factory = TypeVar("Factory", bound=Callable[..., nn.Module])
_FACTORIES: dict[str, Callable[..., nn.Module]] = {}


def register_backbone(name: str) -> Callable[[Factory], Factory]:
    """Decorator: make a function of `in_channels` known under a name. The module it returns has `num_features`."""

    def register(factory: Factory) -> Factory:
        if name in _FACTORIES:
            raise ValueError(f"A backbone named {name!r} is registered already.")
        _FACTORIES[name] = factory
        return factory

    return register


def create_backbone(name: str, *, in_channels: int = 3) -> nn.Module:
    """Build a backbone with random weights.

    Args:
        in_channels: 3 for RGB, 2 for flow (u, v).

    Raises:
        ViccError: no backbone of that name.
    """
    require_backbone(name)
    return _FACTORIES[name](in_channels=in_channels)


def require_backbone(name: str) -> None:
    """Refuse a name that no backbone has.

    Raises:
        ViccError: with the names there are.
    """
    if name not in _FACTORIES:
        raise ViccError(f"There is no backbone {name!r}; known are {', '.join(list_backbones())}.")


def list_backbones() -> list[str]:
    """Names that `create_backbone` knows."""
    return sorted(_FACTORIES)
