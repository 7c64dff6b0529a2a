"""Rows of numbers by video, in a folder that grows by appending; read mapped from the disk.

FOLDER/rows.f32       the rows one after another, float32, little-endian
FOLDER/videos.jsonl   a line for each row, in the same order: the video's id and a fingerprint of its content
FOLDER/state.json     how many rows and how many bytes of videos.jsonl count, and what the rows are of

A write appends to the first two, waits until they are on the disk, and then replaces the third,
which is small. What lies behind the end that state.json names was being written when its process
was killed: nobody reads it, and the next write takes its place. So a row is written once and never
moved, and nothing is left to join when all parts are there.
"""

import hashlib
import json
import os
import uuid
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vicc.errors import ViccError
from vicc.files import exclusive_folder, read_json, write_json

_VERSION = 2
_ROWS, _VIDEOS, _STATE = "rows.f32", "videos.jsonl", "state.json"
_PATIENCE_SECONDS = 60.0  # for another process, whose write of a part takes a fraction of one
# 128 bits each: strings of a million videos would take 200 MB, these take 32.
_Digests = np.dtype([("id", "S16"), ("content", "S16")])

VideoContent = tuple[str, str]
"""A video's id and a fingerprint of its content."""


@dataclass(frozen=True)
class _State:
    """What state.json says. `about` is what the rows are of, plain values; `made` tells this file
    from a later one.
    """

    made: str
    rows: int
    width: int
    video_bytes: int
    about: dict[str, Any]


class FeatureRows:
    """The rows in a folder, which need not be there yet.

    Any number of processes may read while one writes; those that write take turns, a part at a
    time.

    Args:
        folder: holds these rows and nothing else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: str | None = None  # of the rows that were seen first: numbers of rows mean nothing in others

    def find(self, videos: Iterable[VideoContent]) -> np.ndarray:
        """The number of each video's row, int64; -1 where there is none, or its last one is of
        another content.

        Raises:
            ViccError: the folder is damaged, or of another version.
        """
        wanted = _digests(videos)
        state = self._state()
        if state is None:
            return np.full(len(wanted), -1)
        known = _digests(self._videos(state))
        order = np.argsort(known["id"], kind="stable")
        places = np.searchsorted(known["id"], wanted["id"], side="right", sorter=order) - 1  # of equal ids the last
        numbers = order[np.maximum(places, 0)]
        return np.where((places >= 0) & (known[numbers] == wanted), numbers, -1)

    def append(self, videos: Sequence[VideoContent], rows: torch.Tensor, about: dict[str, Any]) -> int:
        """Add the rows (N, D) of some videos; they are there whole, and on the disk, or not at all.

        Args:
            about: what all rows of this folder are of, plain values.

        Returns:
            The number of the first one.

        Raises:
            ViccError: the folder is damaged, has rows of another width, or another process does not
                finish its write.
        """
        values = np.ascontiguousarray(rows.detach().float().cpu().numpy(), "<f4")
        lines = "".join(json.dumps(video) + "\n" for video in videos).encode("ascii")
        with exclusive_folder(self.folder, what="folder of features", patience_seconds=_PATIENCE_SECONDS):
            state = self._state() or _State(uuid.uuid4().hex, 0, values.shape[1], 0, about)
            if state.width != values.shape[1]:
                raise self._unreadable(f"its rows have {state.width} values, those to be added {values.shape[1]}")
            _write_at(self.folder / _ROWS, state.rows * state.width * 4, values.data.cast("B"))
            _write_at(self.folder / _VIDEOS, state.video_bytes, lines)
            grown = replace(state, rows=state.rows + len(values), video_bytes=state.video_bytes + len(lines))
            write_json(self.folder / _STATE, {"vicc_feature_rows": _VERSION, **asdict(grown)})
        self._made = state.made
        return state.rows

    def rows(self) -> torch.Tensor:
        """All rows (N, D), float32, mapped from the disk. What is written into the tensor stays in
        memory.

        Raises:
            ViccError: there are none, or the folder is damaged.
        """
        state = self._present_state()
        shape = (state.rows, state.width)
        try:
            return torch.from_numpy(np.memmap(self.folder / _ROWS, "<f4", mode="c", shape=shape))
        except OSError:
            # Linux refuses a mapping that could be written to once it is larger than the memory;
            # this one cannot be.
            mapped = np.memmap(self.folder / _ROWS, "<f4", mode="r", shape=shape)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                return torch.from_numpy(mapped)

    def ids(self) -> list[str]:
        """The videos' ids in the order of the rows. A video whose content has changed has several;
        the last one holds.

        Raises:
            ViccError: there are none, or the folder is damaged.
        """
        return [name for name, _ in self._videos(self._present_state())]

    def about(self) -> dict[str, Any]:
        """What the rows are of.

        Raises:
            ViccError: there are none, or the folder is damaged.
        """
        return self._present_state().about

    def discard_damaged(self) -> None:
        """Delete all rows if they are damaged, which another process may have done by now. Who has
        them mapped keeps them.
        """
        with exclusive_folder(self.folder, what="folder of features", patience_seconds=_PATIENCE_SECONDS):
            try:
                self.find([])
            except ViccError:
                for name in (_STATE, _ROWS, _VIDEOS):  # without the first one there are none
                    (self.folder / name).unlink(missing_ok=True)
        self._made = None

    def _present_state(self) -> _State:
        state = self._state()
        if state is None:
            raise ViccError(f"No features in {self.folder}: it has no {_STATE}. Measure again.")
        return state

    def _state(self) -> _State | None:
        """What counts; None where nothing was written yet."""
        if not (self.folder / _STATE).exists():
            if self._made is not None:
                raise self._unreadable("they were deleted while they were used")
            return None
        content = read_json(self.folder / _STATE, what="state of the features")
        try:
            if content["vicc_feature_rows"] != _VERSION:
                raise self._unreadable(f"version {content['vicc_feature_rows']}, not {_VERSION}")
            state = _State(**{field.name: content[field.name] for field in fields(_State)})
            for name in ("rows", "width", "video_bytes"):
                if type(number := getattr(state, name)) is not int or number < 1:
                    raise self._unreadable(f"{name} is {number!r} in {_STATE}, expected a whole number above 0")
            if self._made not in (None, state.made):
                raise self._unreadable("they were deleted while they were used, and others are there now")
            expected = {_ROWS: state.rows * state.width * 4, _VIDEOS: state.video_bytes}
            for name, size in expected.items():
                found = (self.folder / name).stat().st_size
                if found < size:
                    raise self._unreadable(f"{name} has {found} bytes, expected at least {size}")
        except (KeyError, TypeError, FileNotFoundError) as error:
            raise self._unreadable(f"{type(error).__name__}: {error}") from error
        self._made = state.made
        return state

    def _videos(self, state: _State) -> Iterator[VideoContent]:
        size = 0
        with (self.folder / _VIDEOS).open("rb") as file:
            for line in islice(file, state.rows):
                size += len(line)
                try:
                    name, content = map(_text, json.loads(line))
                except (TypeError, ValueError) as error:
                    raise self._unreadable(f"{_VIDEOS}: {error}") from error
                yield name, content
        if size != state.video_bytes:
            raise self._unreadable(f"{state.rows} lines of {_VIDEOS} have {size} bytes, expected {state.video_bytes}")

    def _unreadable(self, reason: str) -> ViccError:
        return ViccError(f"The features in {self.folder} cannot be used ({reason}). Delete that folder, measure again.")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _digests(videos: Iterable[VideoContent]) -> np.ndarray:
    found = bytearray()
    for video in videos:
        for text in video:
            found += hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).digest()
    return np.frombuffer(found, _Digests)


def _write_at(path: Path, offset: int, data: bytes | memoryview) -> None:
    """Let a file end with `data` from `offset` on, and wait until that is on the disk."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with os.fdopen(descriptor, "r+b") as file:
        file.truncate(offset)
        file.seek(offset)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
