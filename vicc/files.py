"""Atomic writes and exclusive folders: what keeps a half-written file from being taken for a whole
one.
"""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from vicc.errors import ViccError

_SECONDS_OF_A_LOOK = 0.2  # `is_held` holds a folder itself for an instant, which must refuse nobody


@contextmanager
def atomic_write(path: Path, mode: str = "w", *, sync: bool = True) -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; it takes the name `path` only when the block ended
    without an error.

    The data is on disk (fsync) before the name changes, so after a power cut there is the old file
    or the new one; not so with sync=False, which is for what nobody needs after a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        # mkstemp makes files for the owner only; a result is an ordinary file.
        os.chmod(temporary, 0o666 & ~_umask())
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if sync:
            _sync_names(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def require_writable(path: Path, *, instead: str = "Give another --out") -> None:
    """Find out before long work whether `atomic_write` could write a file there; nothing is left
    behind.

    Args:
        instead: what to do where it cannot, for the error.

    Raises:
        ViccError: a folder has that name, something above it is no folder, or nothing can be
            written there (rights, a file system that is read-only, a name that is too long).
    """
    try:
        if path.is_dir():
            raise ViccError(f"{path} is a folder; expected a file to write. {instead}.")
        folder = next(above for above in path.absolute().parents if above.exists())
        if not folder.is_dir():
            raise ViccError(f"{path} cannot be written, since {folder} is a file and no folder. {instead}.")
        # Asking for rights is not enough: root has all of them on a read-only file system too.
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=folder)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ViccError(f"{path} cannot be written ({reason}). {instead}.") from error
    os.close(descriptor)
    Path(temporary).unlink()


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically. In ASCII: names of files need not be valid
    UTF-8.
    """
    with atomic_write(path) as file:
        json.dump(content, file, indent=2)
        file.write("\n")


def read_json(path: Path, *, what: str) -> Any:
    """Read a JSON file that vicc wrote; `what` names it in the error, for instance "store
    description".
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ViccError(f"No {what} at {path}: there is no such file.") from None
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # nothing is wrong with this file
        raise ViccError(f"The {what} {path} cannot be read ({error}). Restore it, or start in a new folder.") from error


@contextmanager
def exclusive_folder(folder: Path, *, what: str, patience_seconds: float = 0) -> Iterator[None]:
    """Hold `folder` for this process alone; a second process is refused, at once or after so many
    seconds of waiting.

    Raises:
        ViccError: another process holds it.
    """
    from filelock import FileLock, Timeout  # here, since help and mistakes are answered without it

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        patience = max(patience_seconds, _SECONDS_OF_A_LOOK)
        lock.acquire(timeout=patience, poll_interval=_SECONDS_OF_A_LOOK / 10)
    except Timeout:
        raise ViccError(
            f"The {what} {folder} is in use by another process. Wait until that one has ended, or give another folder."
        ) from None
    try:
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process holds `folder` now, see `exclusive_folder`."""
    from filelock import FileLock, Timeout

    if not (folder / ".lock").exists():
        return False
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # a folder that cannot be written to cannot be held either
        return False
    lock.release()
    return False


def hash_file(path: Path) -> str:
    """BLAKE2b of a file's content, 128 bits in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _sync_names(folder: Path) -> None:
    """Bring the names in a folder to the disk, so that after a power cut none is lost that an older
    one gave way to.

    Not everywhere can a folder be opened, and there the file system sees to it.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
