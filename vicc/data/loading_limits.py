"""What processes that load clips need beside memory: shared memory to hand clips over, and files
that may be open.

Containers have little of the first (Docker gives 64 MiB), some services little of the second. What
is too little is said before anything is loaded; what is used up on the way, by the process that
finds it.
"""

import errno
import os
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import get_worker_info

from vicc.batch import Batch
from vicc.errors import ViccError

_SHARED_MEMORY = Path("/dev/shm")
_MORE_ROOM = "Make it larger (docker run --shm-size=8g), or give --workers 0, or fewer --workers."
_MOST_PREFETCHED = 4  # batches a worker
_FILES_A_WORKER, _FILES_UNDER_WAY = 4, 32  # pipes in the main process; tensors that a worker has not handed over yet


def prefetched_batches(workers: int, batch_bytes: int) -> int | None:
    """Batches that each of some workers may load ahead: four, or as many as fit into the shared
    memory in which they are handed over; None without workers.

    Raises:
        ViccError: not even one fits, or the workers would need more open files than this process
            may have.
    """
    if workers == 0:
        return None
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < _open_files() + _FILES_A_WORKER * workers + _FILES_UNDER_WAY:
        raise too_few_files()
    free = shared_memory_free()
    if free is None or batch_bytes == 0:
        return _MOST_PREFETCHED
    # The batch that is computed with is in there as well, and processes of this machine share all
    # of it.
    fit = free // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) // batch_bytes - 1
    if fit < workers:
        needed = _size((workers + 1) * batch_bytes)
        raise ViccError(f"{_too_little_shared_memory(free)} {workers} workers need {needed} at least. {_MORE_ROOM}")
    return min(_MOST_PREFETCHED, fit // workers)


def shared_memory_free() -> int | None:
    """Bytes that processes can still share; 0 where there is no place for it; None where the system
    does not say.
    """
    if sys.platform != "linux":
        return None
    if not os.access(_SHARED_MEMORY, os.W_OK | os.X_OK):
        return 0
    found = os.statvfs(_SHARED_MEMORY)
    return found.f_bavail * found.f_frsize


def share_from_worker(item: Any) -> Any:
    """An item with its tensors in shared memory, or the error that they do not fit there; in the
    main process as it is.

    torch would put them there itself, in a thread that loses an item that does not fit and leaves
    the main process waiting for it.
    """
    if get_worker_info() is None or isinstance(item, ViccError):
        return item
    try:
        if isinstance(item, Batch):
            return item.apply(torch.Tensor.share_memory_)
        parts = item if isinstance(item, tuple) else (item,)
        for part in parts:
            if isinstance(part, torch.Tensor):
                part.share_memory_()
        return item
    except RuntimeError as error:  # torch has no type of its own for it
        if is_too_few_files(error):
            return too_few_files()
        return ViccError(f"{_too_little_shared_memory(shared_memory_free())} {_MORE_ROOM} The same command continues.")


def is_too_few_files(error: BaseException) -> bool:
    """Whether an error says that no more files may be open; torch says so in words alone."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return True
    return any(sign in str(error) for sign in ("Too many open files", "items of ancillary data"))


def too_few_files() -> ViccError:
    """The error to raise for it."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return ViccError(
        f"This process may open {limit} files, which is too few for the processes that load clips. Raise that (ulimit "
        "-n 4096), or give fewer --workers, or --workers 0. The same command continues."
    )


def _too_little_shared_memory(free: int | None) -> str:
    if not free:
        what = "is full" if free is not None and os.access(_SHARED_MEMORY, os.W_OK) else "is missing or read-only"
        return f"Processes that load clips hand them over in shared memory, and {_SHARED_MEMORY} {what}."
    found = os.statvfs(_SHARED_MEMORY)
    return (
        f"Processes that load clips hand them over in shared memory, and of {_SHARED_MEMORY} "
        f"({_size(found.f_blocks * found.f_frsize)}) {_size(free)} are free."
    )


def _size(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1024:,.0f} KiB"


def _open_files() -> int:
    """How many files this process has open; where the system does not say, as many as are usual."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 20
