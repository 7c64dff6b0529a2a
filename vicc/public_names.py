"""The public names of a package, imported on first use, so that importing the package costs
nothing.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, places: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    Args:
        package: its name.
        places: the module of each public name.
    """

    def get(name: str) -> Any:
        if name not in places:
            # With name and module, Python asks for the nearest name itself.
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules[package])
        return getattr(import_module(places[name]), name)

    def names() -> list[str]:
        return sorted(sys.modules[package].__all__)

    return get, names
