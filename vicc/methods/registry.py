"""Methods by name: the settings of each, and how it is built.

Recipes and the layouts of published files name the methods that they are about. Whoever has a stage
asks its settings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Final, TypeVar

from vicc.errors import ViccError
from vicc.methods.configs import (
    CoCLRSettings,
    CrossStreamSettings,
    FineTunedSettings,
    InfoNCESettings,
    LinearProbeSettings,
    MethodSettings,
    SingleStreamSettings,
    UberNCESettings,
)
from vicc.plugins import load_plugins
from vicc.words import did_you_mean

if TYPE_CHECKING:
    from vicc.methods.encoder import Encoder
    from vicc.methods.task import Task

    Registered = TypeVar("Registered", bound=type[Task])

# The settings are known without torch; the modules, which need it, register how their tasks are
# built.
_SETTINGS: Final[dict[str, type[MethodSettings]]] = {
    "single_stream": SingleStreamSettings,
    "cross_stream": CrossStreamSettings,
    "infonce": InfoNCESettings,
    "ubernce": UberNCESettings,
    "coclr": CoCLRSettings,
    "linear_probe": LinearProbeSettings,
    "fine_tuned": FineTunedSettings,
}
_MODULES: Final = {
    **{name: f"vicc.methods.{name}" for name in ("single_stream", "cross_stream", "infonce", "ubernce", "coclr")},
    **{"linear_probe": "vicc.methods.classifier", "fine_tuned": "vicc.methods.classifier"},
}
_TASKS: Final[dict[str, type[Task]]] = {}


def register_method(name: str, *, settings: type[MethodSettings]) -> Callable[[Registered], Registered]:
    """Decorator: register a `Task` under a name, which a stage can then have as its `method`.

    Args:
        settings: a frozen dataclass derived from `MethodSettings`: its fields are what
            STAGE.FIELD=VALUE can set, its other members are used by the plan, the alarms and the
            tables.

    Raises:
        ValueError: the name is taken by another task, `settings` is no such dataclass or has a
            field without a default, or what is registered is no `Task`.
    """
    if not (dataclasses.is_dataclass(settings) and issubclass(settings, MethodSettings)):
        raise ValueError(f"The settings of method {name!r} are {settings!r}; expected a dataclass of MethodSettings.")
    for field in dataclasses.fields(settings):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"The setting {field.name} of method {name!r} has no default; expected one for each.")

    def register(task: Registered) -> Registered:
        _require_task(name, task)
        same = name in _TASKS and (_TASKS[name].__module__, _TASKS[name].__qualname__) == (
            task.__module__,
            task.__qualname__,
        )
        built_in = name in _MODULES and task.__module__ == _MODULES[name]
        if name in _SETTINGS and not (same or built_in):  # a module that is imported again is no second method
            raise ValueError(f"A method named {name!r} is registered already.")
        _SETTINGS[name] = settings
        _TASKS[name] = task
        return task

    return register


def _require_task(name: str, task: type) -> None:
    from vicc.methods.task import Task  # here, since names and settings are known without torch

    if not (isinstance(task, type) and issubclass(task, Task)):
        raise ValueError(f"Method {name!r} is {task!r}; expected a class derived from vicc.methods.Task.")


def list_methods() -> list[str]:
    """Names that a stage's `method` can have."""
    return sorted(_SETTINGS)


def has_method(name: str) -> bool:
    """Whether there is a method of that name, be it of an installed package that was not imported
    yet.
    """
    if name not in _SETTINGS:
        load_plugins()
    return name in _SETTINGS


def method_settings(name: str) -> type[MethodSettings]:
    """The class of a method's settings.

    Raises:
        ViccError: no method has that name; with the names there are.
    """
    if not has_method(name):
        raise ViccError(
            f"There is no method {name!r}.{did_you_mean(str(name), _SETTINGS)} Known are {', '.join(list_methods())}; "
            "one of your own is made known with --import MODULE."
        )
    return _SETTINGS[name]


def row_prefix(name: str) -> str:
    """The text before a stage's name in tables: "CoCLR" in CoCLR RGB-2; empty for ViCC."""
    prefix = method_settings(name).row_prefix
    return name if prefix is None else prefix


def build_method(
    name: str, settings: MethodSettings, encoder: Encoder, teacher: Encoder | None = None, *, batch_size: int
) -> Task:
    """The task of a method on an encoder.

    Args:
        teacher: the finished encoder of the other stream, where the method needs one.
        batch_size: videos a step, those of all processes together.

    Raises:
        ViccError: no such method.
    """
    method_settings(name)
    if name not in _TASKS:
        import_module(_MODULES[name])
    return _TASKS[name].from_settings(settings, encoder, teacher, batch_size=batch_size)
