"""NumPy numbers in a checkpoint, read without NumPy: what many training loops leave as epoch or
best value.

torch reads tensors and plain values only, and hands everything else in a pickle to what it is told
to take for it. What it gets here are the classes below, in place of NumPy's of the same names: they
keep bytes and run nothing.
"""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

_NUMBERS = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))


class PickledDtype:
    """Stands for `numpy.dtype`: a code such as f8, and an order of bytes."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = str(code), "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1])

    @property
    def is_number(self) -> bool:
        return self.code in _NUMBERS and self.order in ("<", ">", "|", "=")


class PickledArray:
    """Stands for `numpy.ndarray`, of any shape; only what holds a single number is of use."""

    def __init__(self, *_: Any) -> None:
        self._held: tuple[Any, Any] = None, b""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, _, dtype, _, data = state
        self._held = dtype, data

    def item(self) -> int | float | None:
        """The number, if it is one."""
        number = _scalar(*self._held)
        return number if isinstance(number, int | float) else None


def numpy_numbers() -> AbstractContextManager[None]:
    """Within the block `torch.load(weights_only=True)` takes NumPy's numbers and arrays."""
    places = [f"numpy.{core}.multiarray" for core in ("core", "_core")]  # of NumPy 1 and 2
    return torch.serialization.safe_globals(
        [
            (PickledDtype, "numpy.dtype"),
            (PickledArray, "numpy.ndarray"),
            *((_scalar, f"{place}.scalar") for place in places),
            *((_reconstruct, f"{place}._reconstruct") for place in places),
        ]
    )


def _scalar(dtype: Any, data: Any = b"") -> Any:
    """Stands for `numpy.core.multiarray.scalar`: a number of Python; of a text or a date only its
    bytes.
    """
    if not (isinstance(dtype, PickledDtype) and isinstance(data, bytes) and dtype.is_number):
        return data
    numbers = np.frombuffer(data, dtype.order + dtype.code)
    return numbers[0].item() if len(numbers) == 1 else data


def _reconstruct(kind: Any, *_: Any) -> PickledArray:
    """Stands for `numpy.core.multiarray._reconstruct`: an empty array, whose content follows."""
    if kind is not PickledArray:
        raise ValueError(f"an array of {kind}")
    return PickledArray()
