"""Backbones by name."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import nn

from vicc.errors import ViccError
from vicc.plugins import load_plugins
from vicc.words import did_you_mean


class Backbone(Protocol):
    """The interface of a backbone: an `nn.Module` whose output has `num_features` channels.

    It may also have `blocks`, an iterable of the modules it calls one after the other; then
    activations can be computed a second time in place of being kept (--checkpoint-activations).
    """

    num_features: int

    def __call__(self, clips: torch.Tensor, /) -> torch.Tensor: ...


Factory = TypeVar("Factory", bound=Callable[..., nn.Module])
_FACTORIES: dict[str, Callable[..., nn.Module]] = {}
_ALIASES: dict[str, str] = {}  # another name: the name under which the backbone is listed


def register_backbone(name: str, *, aliases: Sequence[str] = ()) -> Callable[[Factory], Factory]:
    """Decorator: register a function of `in_channels` under a name. The module it returns must have
    `num_features`.

    Args:
        aliases: other names that mean the same; a config that names one records `name`.
    """

    def register(factory: Factory) -> Factory:
        for new in (name, *aliases):
            if new in _FACTORIES or new in _ALIASES:
                raise ValueError(f"A backbone named {new!r} is registered already.")
        _FACTORIES[name] = factory
        _ALIASES.update(dict.fromkeys(aliases, name))
        return factory

    return register


def create_backbone(name: str, *, in_channels: int = 3) -> nn.Module:
    """Build a backbone with random weights.

    Args:
        name: as listed, or an alias.
        in_channels: 3 for RGB, 2 for flow (u, v).

    Raises:
        ViccError: no backbone of that name.
    """
    return _FACTORIES[require_backbone(name)](in_channels=in_channels)


def require_backbone(name: str) -> str:
    """The name under which a backbone is listed: an alias becomes what it stands for, any other
    name stays.

    Raises:
        ViccError: no backbone has that name; with the names there are.
    """
    if name not in _FACTORIES and name not in _ALIASES:
        load_plugins()
    name = _ALIASES.get(name, name)
    if name not in _FACTORIES:
        raise ViccError(
            f"There is no backbone {name!r}; known are {', '.join(list_backbones())}."
            f"{did_you_mean(name, [*_FACTORIES, *_ALIASES])} One of your own is made known with --import MODULE."
        )
    return name


def list_backbones() -> list[str]:
    """Names that `create_backbone` knows, without aliases."""
    return sorted(_FACTORIES)
