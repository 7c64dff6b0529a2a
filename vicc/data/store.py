"""The store: prepared frames and flow of many videos, the format's reader and writer side by side.

A store is a folder:

    store.json              format name and version, settings every video was prepared with
    shard-00000.lmdb, ...   LMDB files; a new one is begun when the last has grown to `shard_bytes`

Keys inside a shard, where h is a hash of the video's id:

    video:h                 JSON: id, label, group, split, num_frames, frames_per_second, size, source (see `Video`)
    aside:h                 JSON: id, reason, source: a file that could not be used; no file is lost silently
    rgb:h, flow:h           a frame pack, see `frame_pack`: the encoded frames of one stream, which describe themselves

All keys of one video are written in one transaction: a video is there as a whole or not at all.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from weakref import WeakSet, WeakValueDictionary

import lmdb
import numpy as np

from vicc.data.frame_pack import Codec, StoredStream, check_numbers, decode_frames, read_header
from vicc.data.sources import Split
from vicc.errors import ViccError
from vicc.files import read_json, write_json

FlowAt = Literal["store", "native"]

FORMAT = "vicc-store"
FORMAT_VERSION = 1
_STORE_FILE = "store.json"
_MAP_BYTES = 1 << 40  # address space only: the file grows with what is written


@dataclass(frozen=True)
class Source:
    """The file a video came from; size and time tell whether it has changed since."""

    bytes: int
    modified_ns: int
    blake2b: str = ""


@dataclass(frozen=True)
class Video:
    """What the store knows of one video.

    Attributes:
        num_frames: RGB frames; there is one flow frame fewer.
        height, width: of the stored frames, pixels.
        note: what a user should know of its preparation, for instance that the end of the file could not be decoded.
    """

    id: str
    num_frames: int
    height: int
    width: int
    frames_per_second: float
    source: Source
    label: str | None = None
    group: str | None = None
    split: Split | None = None
    note: str = ""


@dataclass(frozen=True)
class SetAside:
    """A file that is not in the store, and why."""

    id: str
    reason: str
    source: Source


Entry = TypeVar("Entry", Video, SetAside)


@dataclass(frozen=True)
class StoreSettings:
    """How the videos of a store were prepared; the same for all of them, or their features could not be compared.

    Attributes:
        short_side: of the stored frames, pixels.
        flow, flow_bound: method of the optical flow, and the largest displacement kept, in pixels per stored frame.
        flow_at: frames that flow is computed from: the stored ones, or those of the file ("native", published).
        codec, quality, flow_quality: how frames are encoded, see `FrameEncoder`.
        frames_per_second: rate that videos were sampled at by time; None: every frame was kept.
    """

    short_side: int = 128
    flow: str = "dis"
    flow_bound: float = 20.0
    flow_at: FlowAt = "store"
    codec: Codec = "h264"
    quality: int = 23
    flow_quality: int = 0
    frames_per_second: float | None = None
    segment_seconds: float | None = None
    shots: bool = False


class Store:
    """Read access to a prepared store. Cheap to send to another process: files are opened there, on first use.

    Args:
        path: the store's folder.
        cache_bytes: decoded frames kept in memory, at most. A stream of a video is kept as a whole when it is first
            read, until nothing more fits; in a store that fits, later epochs decode nothing.

    Raises:
        ViccError: not a store, a store of a newer format, or a damaged one.
    """

    def __init__(self, path: Path | str, *, cache_bytes: int = 0) -> None:
        self.path = Path(path)
        self._cache: dict[bytes, np.ndarray] = {}
        self._cache_left = cache_bytes
        self.settings = _read_settings(self.path)
        self._shards: dict[str, lmdb.Environment] = {}
        self._opened_by = os.getpid()
        _READERS.add(self)
        self._place: dict[str, str] = {}
        videos: list[Video] = []
        aside: list[SetAside] = []
        for name in _shard_names(self.path):
            try:
                with self._shard(name).begin() as transaction:
                    here = [_entry(Video, value) for _, value in _items(transaction, b"video:")]
                    here_aside = [_entry(SetAside, value) for _, value in _items(transaction, b"aside:")]
            except (lmdb.Error, ValueError, TypeError, KeyError) as error:
                raise ViccError(
                    f"The shard {self.path / name} holds an entry that cannot be understood ({error}): it is "
                    "damaged or of another version of vicc."
                ) from error
            videos += here
            aside += here_aside
            self._place |= dict.fromkeys([video.id for video in here] + [entry.id for entry in here_aside], name)
        self.videos = sorted(videos, key=lambda video: video.id)
        self.set_aside = sorted(aside, key=lambda entry: entry.id)

    def frames(self, video_id: str, stream: StoredStream, numbers: Sequence[int]) -> np.ndarray:
        """Decode some frames of a video: uint8 (T, H, W, 3) for rgb, (T, H, W, 2) in stored form for flow.

        Raises:
            ViccError: no such video, stream or frame, or damaged data; the message names the video.
        """
        if video_id not in self._place:
            raise ViccError(f"The store {self.path} has no video {video_id!r}.")
        with self._shard(self._place[video_id]).begin(buffers=True) as transaction:
            key = _key(stream, video_id)
            data = transaction.get(key)
            if data is None:
                raise ViccError(
                    f"The store {self.path} was prepared without flow (--flow none). Train with --motion diff, or "
                    "prepare another store with flow."
                    if stream == "flow" and self.settings.flow == "none"
                    else f"The store {self.path} has no stream {stream!r} of video {video_id!r}."
                )
            try:
                return self._decode(key, data, numbers)
            except ViccError as error:
                raise ViccError(f"Cannot read frames of {video_id!r} in {self.path}: {error}.") from error

    def _decode(self, key: bytes, data: memoryview, numbers: Sequence[int]) -> np.ndarray:
        if key not in self._cache:
            header = read_header(data)
            size = header.num * header.height * header.width * header.channels
            if size > self._cache_left:
                return decode_frames(data, numbers)
            self._cache[key] = decode_frames(data, range(header.num))
            self._cache_left -= size
        frames = self._cache[key]
        check_numbers(numbers, stream=key.partition(b":")[0].decode(), num=len(frames))
        return frames[np.asarray(numbers, dtype=int)]  # a copy: what a transform does in place stays its own

    def close(self) -> None:
        """Release the files; a later read opens them again."""
        self._shards = {}  # not Environment.close(): another Store of this process may share it

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}, "_cache": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _READERS.add(self)

    def _shard(self, name: str) -> lmdb.Environment:
        if self._opened_by != os.getpid():  # LMDB environments must not cross a fork, those of other stores included
            for (process, _, _), environment in list(_OPEN.items()):
                if process != os.getpid():
                    environment.close()  # by name: the traceback of an error may still hold it
            for reader in _READERS:
                reader._shards, reader._opened_by = {}, os.getpid()
        if name not in self._shards:
            self._shards[name] = _open_shard(self.path / name)
        return self._shards[name]


class StoreWriter:
    """Adds videos to a store, creating it if needed. Use it inside `exclusive_folder`: one writer at a time.

    Args:
        path: the store's folder.
        settings: how the videos are prepared; must equal the settings of an existing store.
        shard_bytes: size at which a new shard is begun.
    """

    def __init__(self, path: Path, settings: StoreSettings, *, shard_bytes: int = 2 << 30) -> None:
        self.path = path
        self.shard_bytes = shard_bytes
        if (path / _STORE_FILE).exists():
            existing = _read_settings(path)
            if existing != settings:
                changed = ", ".join(
                    f"{name} {old!r} (asked for: {new!r})"
                    for (name, old), new in zip(asdict(existing).items(), asdict(settings).values(), strict=True)
                    if old != new
                )
                raise ViccError(
                    f"The store {path} was prepared with {changed}. Give the same settings, or another store folder."
                )
        else:
            write_json(path / _STORE_FILE, {"format": FORMAT, "version": FORMAT_VERSION, "settings": asdict(settings)})
        reader = Store(path)
        known: list[Video | SetAside] = [*reader.videos, *reader.set_aside]
        self._known = {entry.id: (reader._place[entry.id], entry.source) for entry in known}
        reader.close()
        self._shards: dict[str, lmdb.Environment] = {}

    def has(self, video_id: str, source: Source) -> bool:
        """Whether this very file (same size and time of change) has been prepared or set aside already."""
        known = self._known.get(video_id)
        return known is not None and (known[1].bytes, known[1].modified_ns) == (source.bytes, source.modified_ns)

    def add(self, video: Video, packs: dict[StoredStream, bytes]) -> None:
        """Write one video, replacing an older one of the same id. On disk when this returns."""
        values = {_key(stream, video.id): data for stream, data in packs.items()}
        self._write(video.id, video.source, {_key("video", video.id): json.dumps(asdict(video)).encode(), **values})

    def put_aside(self, entry: SetAside) -> None:
        """Record that a file could not be used, and why."""
        self._write(entry.id, entry.source, {_key("aside", entry.id): json.dumps(asdict(entry)).encode()})

    def close(self) -> None:
        self._shards = {}

    def _write(self, video_id: str, source: Source, values: dict[bytes, bytes]) -> None:
        try:
            # A changed video stays in its shard: old keys out and new ones in are one transaction.
            name = self._known[video_id][0] if video_id in self._known else self._last_shard()
            with self._shard(name).begin(write=True) as transaction:
                for kind in ("video", "aside", "rgb", "flow"):
                    transaction.delete(_key(kind, video_id))
                for key, value in values.items():
                    transaction.put(key, value)
        except lmdb.Error as error:
            raise ViccError(
                f"Cannot write to the store {self.path}: {error}. If the disk is full, free some space and give the "
                "same command again: the videos written so far are kept."
            ) from error
        self._known[video_id] = (name, source)

    def _last_shard(self) -> str:
        names = _shard_names(self.path)
        if names and (self.path / names[-1]).stat().st_size < self.shard_bytes:
            return names[-1]
        return f"shard-{len(names):05d}.lmdb"

    def _shard(self, name: str) -> lmdb.Environment:
        if name not in self._shards:
            self._shards[name] = _open_shard(self.path / name, write=True)
        return self._shards[name]


def _read_settings(path: Path) -> StoreSettings:
    if not path.exists():
        raise ViccError(f"No such store: {path}. Make one with: vicc prepare VIDEOS --store {path}")
    if not (path / _STORE_FILE).exists():
        raise ViccError(
            f"{path} is not a store (it has no {_STORE_FILE}). Make one with: vicc prepare VIDEOS --store {path}"
        )
    description = read_json(path / _STORE_FILE, what="store description")
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ViccError(f"{path / _STORE_FILE} does not describe a vicc store.")
    version = description.get("version")
    if version != FORMAT_VERSION:
        raise ViccError(
            f"The store {path} has format version {version}; this vicc reads version {FORMAT_VERSION}. "
            + ("Update vicc." if isinstance(version, int) and version > FORMAT_VERSION else "Prepare the videos again.")
        )
    try:
        return StoreSettings(**description["settings"])
    except (KeyError, TypeError) as error:
        raise ViccError(f"The settings in {path / _STORE_FILE} cannot be understood: {error}.") from error


def _shard_names(path: Path) -> list[str]:
    # A shard of no bytes is one whose writer was killed as it began; the next writer takes it over.
    return sorted(file.name for file in path.glob("shard-*.lmdb") if file.stat().st_size)


# LMDB allows a file to be open only once in a process (its locks belong to the process): all stores share. A shard is
# closed when the last of them lets go of it.
_OPEN: WeakValueDictionary[tuple[int, int, int], lmdb.Environment] = WeakValueDictionary()
_READERS: "WeakSet[Store]" = WeakSet()


def _open_shard(path: Path, *, write: bool = False) -> lmdb.Environment:
    shared = _OPEN.get(_file_key(path)) if path.exists() else None
    if shared is not None and write and shared.flags()["readonly"]:
        shared = None
        for reader in _READERS:
            reader.close()  # its next read opens the shard again, by then the writer's
    if shared is not None:
        return shared
    existed = path.exists()
    try:
        environment = _new_environment(path, write=write)
    except ViccError:
        if not existed:
            path.unlink(missing_ok=True)  # a full disk: an unfinished shard would make the store unreadable
        raise
    _OPEN[_file_key(path)] = environment
    return environment


def _file_key(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return os.getpid(), stat.st_dev, stat.st_ino


def _new_environment(path: Path, *, write: bool) -> lmdb.Environment:
    try:
        environment = lmdb.open(
            str(path),
            subdir=False,
            map_size=_MAP_BYTES,
            readonly=not write,
            # Without LMDB's lock file a store on a read-only disk stays readable.
            lock=write or os.access(path.parent, os.W_OK),
            readahead=False,
            max_readers=512,
        )
    except lmdb.Error as error:
        raise ViccError(
            f"The shard {path} cannot be opened: {error}. Restore it, or delete it and prepare again."
        ) from error
    # A shard that was cut short would end the process with a bus error on the first missing page.
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if needed > path.stat().st_size:
        environment.close()
        raise ViccError(
            f"The shard {path} is cut short: {path.stat().st_size} bytes of {needed}. "
            "Restore it, or delete it and prepare again."
        )
    return environment


def _items(transaction: lmdb.Transaction, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    cursor = transaction.cursor()
    if cursor.set_range(prefix):
        for key, value in cursor:
            if not bytes(key).startswith(prefix):
                return
            yield bytes(key), bytes(value)


def _entry(kind: type[Entry], value: bytes) -> Entry:
    fields = json.loads(value)
    return kind(**{**fields, "source": Source(**fields["source"])})


def _key(kind: str, video_id: str) -> bytes:
    # LMDB keys have at most 511 bytes; names of files may be longer.
    return f"{kind}:{hashlib.blake2b(video_id.encode('utf-8', 'surrogateescape'), digest_size=16).hexdigest()}".encode()
