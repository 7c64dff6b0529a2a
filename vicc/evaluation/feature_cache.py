"""Features kept in files, so that nothing is computed twice, and nothing old is ever taken for new.

FOLDER/KEY/              a `FeatureRows`; KEY is a fingerprint of all that a row depends on but for its video: the
                         network's weights, how clips are cut, the precision, how the store's frames
                         were made
FOLDER/KEY.safetensors   the same as an earlier vicc has written it, in one file: its rows are taken over

Each row carries a fingerprint of its video's content. A row is used only if that is the same; all
others are computed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vicc.data.frame_reader import FrameReader
from vicc.data.records import Video
from vicc.data.video_folder import VideoFolder
from vicc.distributed import from_first, on_first, world_size
from vicc.errors import ViccError
from vicc.evaluation.feature_rows import FeatureRows, VideoContent
from vicc.evaluation.result import fingerprint
from vicc.evaluation.video_values import read_video_values
from vicc.progress import Advance, progress, say

Describe = Callable[[list[Video], Advance], torch.Tensor]
"""Some videos to their features (N, D)."""

# Frames between two writes: minutes of S3D on one core. By frames, not by time, so that equal runs
# compute alike.
_FRAMES_A_WRITE = 1 << 14
_ROWS_AN_EXCHANGE = 1 << 14
_ALIGNMENT_BYTES = 64  # of memory that torch allocates


class FeatureCache:
    """Features by what they depend on. Of several processes the first one reads and writes.

    Args:
        folder: where they are kept; None keeps nothing.
        source: where frames come from.
    """

    def __init__(self, folder: Path | None, source: FrameReader) -> None:
        self.folder = folder
        # A folder's frames are decoded on the fly, without the loss of a store's codec.
        self._source = {"frames": "files" if isinstance(source, VideoFolder) else "store", **asdict(source.settings)}

    def path(self, key: dict[str, Any]) -> Path | None:
        """The folder of a key's rows; None where nothing is kept."""
        return None if self.folder is None else self.folder / fingerprint([key, self._source])

    def features(
        self, key: dict[str, Any], videos: Sequence[Video], describe: Describe, *, description: str
    ) -> torch.Tensor:
        """Features (N, D) of videos, in their order, as far as possible those kept for `key`.

        What is computed is appended every few minutes, so that after a Ctrl-C or a kill the same
        call goes on from there. Features that are kept in the order of the videos, as those that
        this call has computed, are mapped from the disk and take no memory until they are used; of
        several processes each holds all of them.

        Args:
            key: plain values: everything that a feature depends on but for the video and how its
                frames were made.
            describe: computes the features of those that are not kept; called in all processes.
        """
        path = self.path(key)
        kept = None if path is None else FeatureRows(path)
        numbers = on_first(lambda: _find(kept, videos))
        loose: list[tuple[np.ndarray, torch.Tensor]] = []  # indices of videos, and rows that are in no file

        def take(indices: np.ndarray, found: torch.Tensor) -> None:
            first = on_first(lambda: _keep(kept, [videos[index] for index in indices], found, {"key": key}))
            if first is None:
                loose.append((indices, found))
            else:
                numbers[indices] = np.arange(first, first + len(indices))

        todo = np.flatnonzero(numbers < 0)
        if path is not None and len(todo):
            indices, found = on_first(lambda: _from_earlier_file(path.with_suffix(".safetensors"), videos, todo))
            if len(indices):
                take(indices, found)
                todo = np.setdiff1d(todo, indices)
        if len(todo):
            with progress(description, total=len(videos), start=len(videos) - len(todo), unit="videos") as advance:
                for part in _parts(videos, todo):
                    take(part, describe([videos[index] for index in part], advance))
        return _joined(kept, numbers, loose)


def _content(video: Video) -> VideoContent:
    source = video.source
    facts = [
        video.id,
        video.num_frames,
        video.height,
        video.width,
        source.blake2b or [source.bytes, source.modified_ns],
    ]
    return video.id, fingerprint(facts)


def _parts(videos: Sequence[Video], todo: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of the videos to do, cut after every `_FRAMES_A_WRITE` frames."""
    start = frames = 0
    for end, index in enumerate(todo, start=1):
        frames += videos[index].num_frames
        if frames >= _FRAMES_A_WRITE or end == len(todo):
            yield todo[start:end]
            start, frames = end, 0


def _find(kept: FeatureRows | None, videos: Sequence[Video]) -> np.ndarray:
    """The number of each video's row; -1 where it is to be computed."""
    if kept is None:
        return np.full(len(videos), -1)
    try:
        return kept.find(map(_content, videos))
    except ViccError as error:
        say(f"features are computed again, since those kept cannot be read: {error}")
        with suppress(OSError, ViccError):  # said when they are to be kept
            kept.discard_damaged()
        return np.full(len(videos), -1)


def _keep(kept: FeatureRows | None, videos: Sequence[Video], found: torch.Tensor, about: dict[str, Any]) -> int | None:
    """The number of the first of the rows that were added; None where nothing is kept, or cannot
    be.
    """
    if kept is None:
        return None
    try:
        return kept.append([_content(video) for video in videos], found, about)
    except OSError as error:  # of somebody else's run, or on a full disk: measured all the same
        say(f"features are not kept: {error.filename or kept.folder} cannot be written ({error.strerror})")
    except ViccError as error:
        say(f"features are not kept: {error}")
    return None


def _from_earlier_file(path: Path, videos: Sequence[Video], todo: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
    """Indices of videos whose rows an earlier vicc has written, and these rows. The file stays, for
    its results.
    """
    nothing = np.empty(0, np.int64), torch.empty(0)
    if not path.exists():
        return nothing
    try:
        table = read_video_values(path)
        rows = {video: row for row, video in enumerate(zip(table.ids, table.facts["contents"], strict=True))}
    except (ViccError, KeyError, TypeError, ValueError) as error:
        say(f"features are computed again, since those kept cannot be read: {error}")
        return nothing
    found = {index: rows[content] for index in todo if (content := _content(videos[index])) in rows}
    return np.fromiter(found, np.int64), table.values[list(found.values())]


def _joined(
    kept: FeatureRows | None, numbers: np.ndarray, loose: Sequence[tuple[np.ndarray, torch.Tensor]]
) -> torch.Tensor:
    """All rows in the order of the videos: those of the file by their numbers, the others at their
    indices.
    """
    in_file = bool(np.any(numbers >= 0))
    opened: list[torch.Tensor] = []  # of the first process alone; if it fails there, all of them end
    if in_file:
        on_first(lambda: None if kept is None else opened.append(kept.rows()))
    rows = opened[0] if opened else None
    if rows is not None and world_size() == 1 and not loose:
        return _chosen(rows, numbers)
    width = on_first(lambda: (loose[0][1] if rows is None else rows).shape[1])
    result = torch.empty(len(numbers), width)
    for begin in range(0, len(numbers) if in_file else 0, _ROWS_AN_EXCHANGE):
        block = result[begin : begin + _ROWS_AN_EXCHANGE]
        if rows is not None:
            # Those that are in no file are any row for now.
            block.copy_(_chosen(rows, np.maximum(numbers[begin : begin + len(block)], 0)))
        from_first(block)
    for indices, found in loose:
        result[torch.from_numpy(indices)] = found
    return result


def _chosen(rows: torch.Tensor, numbers: np.ndarray) -> torch.Tensor:
    """Some rows: a part of the mapping where they lie one after another, else a copy."""
    first = int(numbers[0])
    part = rows[first : first + len(numbers)]
    # Aligned as a copy would be, as products of matrices may depend on that in their last bit.
    if np.array_equal(numbers, np.arange(first, first + len(numbers))) and part.data_ptr() % _ALIGNMENT_BYTES == 0:
        return part
    return rows[torch.from_numpy(numbers)]
