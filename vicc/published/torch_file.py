"""Checkpoints that torch wrote, read without running anything that they hold."""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from vicc.errors import ViccError
from vicc.published.numpy_pickle import numpy_numbers

# What torch.load raises on files that are cut short or altered.
_DAMAGED = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError),
    *(RuntimeError, TypeError, ValueError, zipfile.BadZipFile),
)
# What torch says of the commands of pickle that came with protocol 4: FRAME, SHORT_BINUNICODE,
# MEMOIZE, STACK_GLOBAL.
_NEW_PICKLE = re.compile(r"Unsupported operand (149|140|148|147)\b")
_OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of torch before 1.6 begin."""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Tensors and plain values of a torch checkpoint, of the zip format or the older one; runs
    nothing.

    Raises:
        ViccError: no such file, damaged, holding what could run code, or without an entry
            state_dict.
    """
    try:
        _check_container(path)
        # weights_only: a pickle of anything but tensors and plain values is refused before it is
        # executed.
        with numpy_numbers():
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ViccError(f"No checkpoint at {path}: there is no such file.") from None
    except pickle.UnpicklingError as error:
        if _NEW_PICKLE.search(str(error)):
            raise ViccError(
                f"{path} was refused: it was saved with a pickle_protocol above 2, which torch does not read without "
                "running what it holds. Save it again with torch.save, without pickle_protocol. Nothing was executed."
            ) from error
        named = re.search(r"GLOBAL (\S{1,100})", str(error))
        if named is None:
            raise _damaged(path, error) from error
        raise ViccError(
            f"{path} was refused: it holds {named[1]}, which is neither a tensor nor a plain value and "
            "could run code when loaded. Nothing was executed."
        ) from error
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        entries = (
            ", ".join(map(str, list(checkpoint)[:5])) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        )
        raise ViccError(f"{path} is no published checkpoint: expected an entry state_dict, got {entries or 'nothing'}.")
    return checkpoint


def _check_container(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(_OLD_FORMAT))
    if zipfile.is_zipfile(path):
        # torch stores, it never compresses: a small file that unfolds to more than it is was not
        # written by torch.
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > size:
                raise ViccError(
                    f"{path} was refused: it is {size} bytes that unpack to more, which torch never writes."
                )
    elif start != _OLD_FORMAT:
        kind = "an empty file"
        if start[:1] == b"\x80":
            kind = "a Python pickle, which could run code when loaded; nothing was executed"
        elif size:
            kind = f"{size} bytes that are cut short or not written by torch.save"
        raise ViccError(f"{path} is no torch checkpoint: {kind}. Download it again, or give another file.")


def _damaged(path: Path, error: BaseException) -> ViccError:
    said = " ".join(str(error).split())[:120]
    return ViccError(f"{path} is damaged or cut short ({said}). Download it again, or give another file.")
