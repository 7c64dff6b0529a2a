"""Files of a store: shards that never change, and the journal that a run under way writes.

Both are LMDB files with the keys of `vicc.data.store`. The journal takes one transaction a video. A
shard is written in one go from sorted keys, so its bytes follow from what it holds and from nothing
else: not from readers that were open, nor from a writer that was killed on the way. Since it never
changes it is read without LMDB's locks.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from weakref import WeakSet, WeakValueDictionary

import lmdb

from vicc.errors import ViccError

JOURNAL = "journal.lmdb"
_MAP_BYTES = 1 << 40  # address space only: the file grows with what is written
_TRANSACTION_BYTES = 32 << 20  # bounds the memory of a shard's writer
_DIGEST_BYTES = 16


class OpenFiles:
    """The open shards and journal of one store in one process.

    LMDB allows a file to be open only once in a process, so all holders share; a file is closed
    when the last of them lets go of it. An open file must not cross a fork: the child begins with
    none.
    """

    def __init__(self) -> None:
        self._open: dict[Path, lmdb.Environment] = {}
        self._process = os.getpid()
        _HOLDERS.add(self)

    def shard(self, path: Path) -> lmdb.Environment:
        """A shard for reading.

        Raises:
            FileNotFoundError: there is none; a writer may have moved its videos.
            ViccError: damaged, or cut short.
        """
        return self._get(path, write=False, lock=False)

    def journal(self, path: Path, *, write: bool = False) -> lmdb.Environment:
        """The journal; made if it does not exist and is opened for writing. Raises as `shard` does."""
        # Without LMDB's lock file a store on a read-only disk stays readable.
        return self._get(path, write=write, lock=write or os.access(path.parent, os.W_OK))

    def close(self) -> None:
        """Let go of all files; a later read opens them again."""
        self._open = {}  # not Environment.close(): another holder of this process may share it

    def _get(self, path: Path, *, write: bool, lock: bool) -> lmdb.Environment:
        if self._process != os.getpid():
            for (process, _, _), environment in list(_OPEN.items()):
                if process != os.getpid():
                    environment.close()  # by name: the traceback of an error may still hold it
            for holder in _HOLDERS:
                holder._open, holder._process = {}, os.getpid()
        if path not in self._open or (write and self._open[path].flags()["readonly"]):
            self._open[path] = _shared(path, write=write, lock=lock)
        return self._open[path]

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]


_OPEN: WeakValueDictionary[tuple[int, int, int], lmdb.Environment] = WeakValueDictionary()
_HOLDERS: WeakSet[OpenFiles] = WeakSet()


def _shared(path: Path, *, write: bool, lock: bool) -> lmdb.Environment:
    existed = path.exists()
    if not existed and not write:
        raise FileNotFoundError(path)
    shared = _OPEN.get(_file_key(path)) if existed else None
    if shared is not None and write and shared.flags()["readonly"]:
        shared = None
        for holder in _HOLDERS:
            holder.close()  # its next read opens the journal again, by then the writer's
    if shared is not None:
        return shared
    try:
        environment = _new_environment(path, write=write, lock=lock)
    except ViccError:
        if not existed:
            path.unlink(missing_ok=True)  # a full disk: an unfinished file would make the store unreadable
        elif not path.exists():
            raise FileNotFoundError(path) from None  # a writer has just moved its videos
        raise
    if lock:
        environment.reader_check()  # readers that were killed would keep pages from being used again
    _OPEN[_file_key(path)] = environment
    return environment


def _file_key(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return os.getpid(), stat.st_dev, stat.st_ino


def _new_environment(path: Path, *, write: bool, lock: bool) -> lmdb.Environment:
    try:
        environment = lmdb.open(
            str(path), subdir=False, readonly=not write, lock=lock, readahead=False, max_readers=512, mode=0o666,
            # A process has address space for some hundred terabytes, and a store may have many
            # shards.
            map_size=_MAP_BYTES if path.name == JOURNAL else path.stat().st_size,
        )  # fmt: skip
    except lmdb.Error as error:
        raise ViccError(
            f"The shard {path} cannot be opened: {error}. Restore it, or delete it and prepare again."
        ) from error
    # A file that was cut short would end the process with a bus error on the first missing page.
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if needed > path.stat().st_size:
        environment.close()
        raise ViccError(
            f"The shard {path} is cut short: {path.stat().st_size} bytes of {needed}. "
            "Restore it, or delete it and prepare again."
        )
    return environment


def shard_names(folder: Path) -> list[str]:
    """The shards of a store's folder, sorted."""
    return sorted(file.name for file in folder.glob("shard-*.lmdb"))


def next_shard_name(names: list[str]) -> str:
    """The name after the last of `names`, which are sorted."""
    return f"shard-{int(names[-1][6:-5]) + 1 if names else 0:05d}.lmdb"


def has_journal(folder: Path) -> bool:
    """Whether videos may lie outside of the shards. One of no bytes is of a writer killed as it
    began.
    """
    journal = folder / JOURNAL
    return journal.exists() and journal.stat().st_size > 0


def remove_journal(folder: Path) -> None:
    """Take the journal away, once all of it stands in the shards. Who has it open can read on."""
    (folder / JOURNAL).unlink(missing_ok=True)
    (folder / f"{JOURNAL}-lock").unlink(missing_ok=True)


def write_shard(path: Path, values: Mapping[bytes, lmdb.Environment | bytes]) -> str:
    """Write a shard from keys and their values, or the files where those stand; it replaces an
    older one at once or not at all.

    Returns:
        blake2b of the file.

    Raises:
        lmdb.Error, OSError: the disk is full. The older shard is still there.
        ViccError: a value is missing.
    """
    temporary = path.with_name(f".{path.name}.partial")
    temporary.unlink(missing_ok=True)
    try:
        with ExitStack() as stack:
            environment = lmdb.open(
                str(temporary), subdir=False, map_size=_MAP_BYTES, lock=False, sync=False, readahead=False, mode=0o666
            )
            stack.callback(environment.close)
            origins = {origin for origin in values.values() if not isinstance(origin, bytes)}
            read = {origin: stack.enter_context(origin.begin(buffers=True)) for origin in origins}
            transaction, size = environment.begin(write=True), 0
            try:
                for key in sorted(values):
                    origin = values[key]
                    value = origin if isinstance(origin, bytes) else read[origin].get(key)
                    if value is None:
                        raise ViccError(f"An entry of {path.parent} is damaged: its part {key.decode()} is missing.")
                    transaction.put(key, value, append=True)
                    size += len(value)
                    if size > _TRANSACTION_BYTES:
                        transaction.commit()
                        transaction, size = environment.begin(write=True), 0
                transaction.commit()
            except BaseException:
                transaction.abort()
                raise
            environment.sync(True)
        blake2b = file_blake2b(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return blake2b


def file_blake2b(path: Path) -> str:
    """blake2b of a file's content, 16 bytes as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).hexdigest()


def blake2b(data: bytes | memoryview) -> str:
    """blake2b of some bytes, 16 bytes as hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def key_of(kind: str, video_id: str) -> bytes:
    """The key of a record or a pack. LMDB's keys have at most 511 bytes; names of files may be
    longer.
    """
    return f"{kind}:{blake2b(video_id.encode('utf-8', 'surrogateescape'))}".encode()


def items_of(transaction: lmdb.Transaction, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys that begin with `prefix`, and their values."""
    cursor = transaction.cursor()
    if cursor.set_range(prefix):
        for key, value in cursor:
            if not bytes(key).startswith(prefix):
                return
            yield bytes(key), bytes(value)


def protect(content: dict[str, Any]) -> bytes:
    """A record as stored: JSON behind its own blake2b."""
    data = json.dumps(content).encode()
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest() + data


def unprotect(value: bytes) -> dict[str, Any]:
    """The content of a record.

    Raises:
        ValueError: it is damaged.
    """
    if hashlib.blake2b(value[_DIGEST_BYTES:], digest_size=_DIGEST_BYTES).digest() != value[:_DIGEST_BYTES]:
        raise ValueError("its checksum does not fit")
    content = json.loads(value[_DIGEST_BYTES:])
    if not isinstance(content, dict):
        raise ValueError("it is no record")
    return content


def record_blake2b(value: bytes) -> str:
    """The checksum that a record carries."""
    return value[:_DIGEST_BYTES].hex()
