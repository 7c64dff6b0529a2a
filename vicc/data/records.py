"""What a store says of its videos: how all of them were prepared, and a record of each file."""

import errno
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from vicc.data.frame_pack import Codec, StoredStream
from vicc.data.shard import blake2b, key_of, protect, record_blake2b, unprotect
from vicc.data.sides import Side

FlowAt = Literal["store", "native"]

# Errors of the system that come and go with permissions, networks, disks and other processes.
_PASSING_ERRORS = (
    *("EACCES", "EPERM", "EIO", "ESTALE", "ENOENT", "ENOTDIR", "EBUSY", "ENODEV", "EMFILE", "ENFILE", "ENOMEM"),
    *("ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENOTCONN", "EREMOTEIO"),
    *("ECONNRESET", "ECONNREFUSED", "ECONNABORTED"),
)
_PASSING = re.compile(
    "|".join(re.escape(os.strerror(getattr(errno, name))) for name in _PASSING_ERRORS if hasattr(errno, name))
    + "|memory was short|the node .+ has no file"
)
_TOO_FEW_FRAMES = re.compile(r"(\d+) frames?, fewer than \d+")


@dataclass(frozen=True)
class FileState:
    """What the file of a video was when it was read; size and time tell whether it has changed
    since.
    """

    bytes: int
    modified_ns: int
    blake2b: str = ""


@dataclass(frozen=True)
class Video:
    """One video of a store.

    Attributes:
        id: path of its file below the folder that was prepared, and which part of the file it is,
            if that was cut.
        frames_per_second: of the stored frames.
        source: size, time and checksum of the file.
        label, group, split: its class, the recording it was cut from, "train" or "test"; None where
            not known.
        num_frames: RGB frames; there is one flow frame fewer.
        height, width: of the stored frames, pixels.
        note: what is worth knowing of its preparation, for instance that the end of the file could
            not be decoded.
    """

    id: str
    num_frames: int
    height: int
    width: int
    frames_per_second: float
    source: FileState
    label: str | None = None
    group: str | None = None
    split: Side | None = None
    note: str = ""


@dataclass(frozen=True)
class SetAside:
    """A file that is not in the store, and why."""

    id: str
    reason: str
    source: FileState


@dataclass(frozen=True)
class StoreSettings:
    """How the videos of a store were prepared; the same for all of them, or their features could
    not be compared.

    Attributes:
        short_side: of the stored frames, pixels.
        flow, flow_bound: method of the optical flow, and the largest displacement kept, in pixels
            per stored frame.
        flow_at: frames that flow is computed from: the stored ones, or those of the file ("native",
            published).
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


@dataclass(frozen=True)
class PackSum:
    """What a record says of a pack: its length and its blake2b."""

    bytes: int
    blake2b: str


@dataclass(frozen=True)
class Record:
    """What a store says of one file.

    Attributes:
        packs: by the name of the stream; a file that was skipped has none.
        blake2b: of the record itself, as it is stored.
        payload: bytes of record and packs.
    """

    entry: Video | SetAside
    packs: dict[str, PackSum]
    blake2b: str
    payload: int

    def to_json(self) -> dict[str, Any]:
        """As in a manifest."""
        packs = {stream: asdict(pack) for stream, pack in self.packs.items()}
        return {"kind": self.kind, "entry": asdict(self.entry), "packs": packs}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Record":
        """Raises TypeError, KeyError or ValueError for what is no record."""
        content = {"entry": document["entry"], "packs": document["packs"]}
        return _record(document["kind"], content, protect(content))

    @property
    def kind(self) -> str:
        return "aside" if isinstance(self.entry, SetAside) else "video"

    def damage(self, stream: str, data: memoryview | None) -> str:
        """What is wrong with a pack of this record, in a few words; empty if nothing is."""
        if data is None:
            return "missing"
        if len(data) != self.packs[stream].bytes:
            return f"{len(data)} bytes of {self.packs[stream].bytes}"
        return "" if blake2b(data) == self.packs[stream].blake2b else "its checksum does not fit"

    def is_final(self, state: FileState, *, min_frames: int | None = None) -> bool:
        """Whether the same file would come to the same end again: it has the same size and time of
        change, and what was wrong with it, if anything, was not the system's fault for a time, nor
        a bound that is lower now.

        Args:
            state: of the file as it is today, of no bytes and time where it cannot be looked at.
            min_frames: the fewest that a video is kept for today; None: what was too short stays
                so.
        """
        if (self.entry.source.bytes, self.entry.source.modified_ns) != (state.bytes, state.modified_ns):
            return False
        short = _TOO_FEW_FRAMES.match(self.entry.reason) if isinstance(self.entry, SetAside) else None
        if short is not None and min_frames is not None and int(short[1]) >= min_frames:
            return False
        what = self.entry.reason if isinstance(self.entry, SetAside) else self.entry.note
        # A file that still cannot be looked at need not be tried.
        return state == FileState(0, 0) or not is_passing(what)

    def lmdb_keys(self) -> list[bytes]:
        """Everything of this file, as keys of a shard."""
        return [key_of(name, self.entry.id) for name in (self.kind, *self.packs)]


def is_passing(reason: str) -> bool:
    """Whether a reason why a file was skipped, or a note on it, speaks of the system and not of the
    file's content.

    Reasons of content stay until the file changes; these are tried again the next time.
    """
    return _PASSING.search(reason) is not None


def new_record(entry: Video | SetAside, packs: Mapping[StoredStream, bytes]) -> tuple[Record, bytes]:
    """A record for an entry and its packs, and its value in a shard."""
    return record_of(entry, {stream: PackSum(len(data), blake2b(data)) for stream, data in packs.items()})


def record_of(entry: Video | SetAside, packs: Mapping[str, PackSum]) -> tuple[Record, bytes]:
    """A record for an entry and what is known of its packs, and its value in a shard."""
    content = {"entry": asdict(entry), "packs": {stream: asdict(pack) for stream, pack in packs.items()}}
    value = protect(content)
    return _record("aside" if isinstance(entry, SetAside) else "video", content, value), value


def parse_record(kind: str, value: bytes) -> Record:
    """A record from its value. Raises ValueError, TypeError, KeyError or AttributeError for a
    damaged one.
    """
    return _record(kind, unprotect(value), value)


def _record(kind: str, content: dict[str, Any], value: bytes) -> Record:
    stored = content["entry"]
    entry = (SetAside if kind == "aside" else Video)(**{**stored, "source": FileState(**stored["source"])})
    packs = {stream: PackSum(**pack) for stream, pack in content["packs"].items()}
    return Record(entry, packs, record_blake2b(value), len(value) + sum(pack.bytes for pack in packs.values()))


def payload(records: Iterable[Record]) -> int:
    """Bytes of some records and their packs."""
    return sum(record.payload for record in records)


def settings_difference(first: StoreSettings, second: StoreSettings, about_second: str = "asked for") -> str:
    """Where two settings differ, in words: what the first has, and the second in brackets."""
    other = asdict(second)
    return ", ".join(
        f"{name} {value!r} ({about_second}: {other[name]!r})"
        for name, value in asdict(first).items()
        if value != other[name]
    )
