"""The local cache of remote stores: where it lies, how large it may grow, what is removed when it
does.

VICC_CACHE/shards/STORE/*.lmdb   copies of shards; the longest unused are removed first
VICC_CACHE/shards/STORE/.used    locked by every process that reads this store: its shards are not removed
VICC_CACHE/splits/STORE          split files
VICC_CACHE/staging/STORE         stores that are prepared here and copied to their URL at the end; never removed
"""

import fcntl
import math
import os
import shutil
from contextlib import suppress
from pathlib import Path

from vicc.errors import ViccError
from vicc.progress import say

_DEFAULT_SHARE = 0.8  # of the cache and the free space beside it
_USED = ".used"

_held: dict[tuple[int, Path], int] = {}
_marked: set[tuple[int, Path]] = set()


def cache_folder() -> Path:
    """Where copies of remote shards are kept. They can be deleted at any time that nothing reads
    them.
    """
    return Path(os.environ.get("VICC_CACHE") or Path.home() / ".cache" / "vicc").expanduser()


def hold(folder: Path) -> None:
    """Keep the shards in this folder of the cache until this process ends, however full the cache
    gets.
    """
    key = os.getpid(), folder
    if key not in _held:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder / _USED, os.O_RDONLY | os.O_CREAT, 0o666)
        except OSError:  # another user's cache, or a read-only one: what is there is read, though not kept
            return
        with suppress(OSError):  # a file system without locks: then nothing there is ever removed
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        _held[key] = descriptor


def mark_used(shard: Path) -> None:
    """Note that a shard is used now; once a process."""
    key = os.getpid(), shard
    if key not in _marked:
        _marked.add(key)
        with suppress(OSError):  # of another user's cache
            os.utime(shard)


def make_room(count: int) -> None:
    """Remove the longest unused shards of stores that no process reads, so that `count` more bytes
    fit into the bound.

    Raises:
        ViccError: VICC_CACHE_GB is no number.
    """
    place = cache_folder() / "shards"
    found = {}
    for shard in place.glob("*/*.lmdb"):
        with suppress(FileNotFoundError):  # another process makes room as well
            found[shard] = shard.stat()
    size = sum(stat.st_size for stat in found.values())
    excess = size + count - cache_bound(size)
    removed = gone = 0
    for shard, stat in sorted(found.items(), key=lambda item: item[1].st_mtime_ns):
        if excess <= gone:
            break
        if _remove_unused(shard):
            removed, gone = removed + 1, gone + stat.st_size
    if removed:
        say(f"cache {place.parent}: removed {removed} shards ({gone / 1e9:.2f} GB), the longest unused (VICC_CACHE_GB)")


def cache_bound(size: int) -> float:
    """Bytes that the cached shards may take in all: VICC_CACHE_GB, or four fifths of the cache and
    the free space.

    Args:
        size: bytes that they take now.
    """
    given = os.environ.get("VICC_CACHE_GB", "")
    if not given:
        return _DEFAULT_SHARE * (size + shutil.disk_usage(cache_folder()).free)
    try:
        gigabytes = float(given)
    except ValueError:
        gigabytes = math.nan
    if not gigabytes >= 0:
        raise ViccError(f"VICC_CACHE_GB is {given!r}; expected the gigabytes that cached shards may take, such as 200.")
    return gigabytes * 1e9


def _remove_unused(shard: Path) -> bool:
    try:
        descriptor = os.open(shard.parent / _USED, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held by a reader: refused
        shard.unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
