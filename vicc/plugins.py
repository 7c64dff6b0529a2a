"""Backbones and methods from outside the package: modules of the user's own, and installed packages
that offer some.

A module is imported by `vicc COMMAND --import MODULE`. A package names its module in the entry
points "vicc.plugins"; it is imported only where a backbone or a method is asked for that is not
known.
"""

import functools
import os
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from vicc.errors import ViccError

ENTRY_POINTS = "vicc.plugins"
_IMPORTED: list[str] = []


def import_modules(names: Iterable[str]) -> None:
    """Import modules, the current folder searched first, as `python -m` does; they register what
    they bring.

    Raises:
        ViccError: there is no such module, or importing it failed.
    """
    for name in names:
        if sys.path[:1] not in ([""], [os.getcwd()]):
            sys.path.insert(0, os.getcwd())
        try:
            import_module(name)
        except Exception as error:
            raise ViccError(f"--import {name}: {_reason(name, error)}") from error
        if name not in _IMPORTED:
            _IMPORTED.append(name)


def imported_modules() -> tuple[str, ...]:
    """What `import_modules` has imported, in its order: another process of the same command needs
    it too.
    """
    return tuple(_IMPORTED)


@functools.cache
def load_plugins() -> None:
    """Import the modules of installed packages that bring backbones or methods; once, and only when
    one is missing.

    Raises:
        ViccError: importing one of them failed.
    """
    from importlib.metadata import entry_points  # here, since it takes as long as all the rest of `vicc --help`

    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:
            package = entry.dist.name if entry.dist is not None else entry.name
            raise ViccError(
                f"The installed package {package} brings {entry.value} to vicc, which cannot be imported "
                f"({_in_short(error)}). Repair it, or uninstall it."
            ) from error


def _reason(name: str, error: Exception) -> str:
    if name.endswith(".py") or "/" in name or name.startswith("."):
        path = Path(name)
        module = path.name.removesuffix(".py")
        example = ", for instance own_method for own_method.py"
        if module.isidentifier():
            inside = not path.is_absolute() and ".." not in path.parts
            dotted = ".".join([*path.parts[:-1], module])
            example = f": --import {dotted}" if inside else f": --import {module}, in the folder {path.parent}"
        return f"expected the name of a module, not of a file{example}."
    wanted = [".".join(name.split(".")[: count + 1]) for count in range(name.count(".") + 1)]
    if isinstance(error, ModuleNotFoundError) and error.name in wanted:
        return (
            f"there is no module {error.name}, neither in the current folder ({os.getcwd()}) nor installed. Expected "
            "the name of a Python module, for instance own_method for own_method.py."
        )
    return f"the module cannot be imported ({_in_short(error)}). --debug shows where."


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
