"""A folder of video files that reads as a store does: frames are decoded and flow is computed when
asked for.

What is read is what `vicc prepare` would encode, bit for bit: the same decoder, the same size, the
same flow.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vicc.data.frame_pack import StoredStream, check_frame_indices
from vicc.data.records import SetAside, StoreSettings, Video
from vicc.data.video_files import VideoFile
from vicc.errors import ViccError
from vicc.video.container import VideoError
from vicc.video.flow import FlowFunction, create_flow, no_flow, quantize_flow
from vicc.video.frame_index import FrameIndex, IndexedReader

_RECENT_FRAMES = 512  # kept of the video at hand, whatever the cache holds: flow is made of the frames that RGB read
_READ_THROUGH = 24  # frames; a smaller gap is decoded, a larger one is a seek


@dataclass(frozen=True)
class IndexedVideo:
    """A video, its file or part of one, and the way to its frames."""

    video: Video
    file: VideoFile
    index: FrameIndex


class VideoFolder:
    """Read access to the videos of a folder. Cheap to send to another process; it keeps no file
    open.

    Args:
        path: the folder, for messages.
        entries: what a scan of the files has found.
        set_aside: files that could not be used.
        settings: how frames are made: `short_side` and `flow_bound`; flow is DIS.
        cache_bytes: frames kept in memory, at most. In a folder that fits, later epochs decode
            nothing.
    """

    def __init__(
        self,
        path: Path,
        entries: Sequence[IndexedVideo],
        *,
        set_aside: Sequence[SetAside] = (),
        settings: StoreSettings | None = None,
        cache_bytes: int = 0,
    ) -> None:
        self.path = path
        self.settings = settings or StoreSettings()
        self.videos = sorted((entry.video for entry in entries), key=lambda video: video.id)
        self.set_aside = sorted(set_aside, key=lambda entry: entry.id)
        self._entries = {entry.video.id: entry for entry in entries}
        self._cache_bytes = cache_bytes
        self._forget()

    def _forget(self) -> None:
        self._cache: dict[tuple[str, StoredStream], dict[int, np.ndarray]] = defaultdict(dict)
        self._cache_left = self._cache_bytes
        self._recent: dict[tuple[str, StoredStream], dict[int, np.ndarray]] = defaultdict(dict)
        self._recent_id = ""
        self._flow: FlowFunction | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}, "_recent": {}, "_flow": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def close(self) -> None:
        """Let go of the frames kept in memory."""
        self._forget()

    def file(self, video_id: str) -> VideoFile:
        """The file of a video, or its part of one."""
        return self._entries[video_id].file

    def frames(self, video_id: str, stream: StoredStream, frame_indices: Sequence[int]) -> np.ndarray:
        """Some frames of a video: uint8 (T, H, W, 3) for rgb, (T, H, W, 2) in stored form for flow.

        Raises:
            ViccError: no such video or frame, or a file that has changed or cannot be read any
                more; the message names the video.
        """
        if video_id not in self._entries:
            raise ViccError(f"{self.path} has no video {video_id!r}.")
        entry = self._entries[video_id]
        if video_id != self._recent_id or sum(map(len, self._recent.values())) > _RECENT_FRAMES:
            self._recent.clear()
            self._recent_id = video_id
        try:
            check_frame_indices(frame_indices, stream=stream, num=entry.index.num_frames - (stream == "flow"))
            found = self._known(entry, stream, sorted(set(frame_indices)))
        except (ViccError, OSError) as error:
            raise ViccError(f"Cannot read frames of {video_id!r} in {self.path}: {_reason(error)}.") from error
        return np.stack([found[index] for index in frame_indices])

    def _known(self, entry: IndexedVideo, stream: StoredStream, numbers: Sequence[int]) -> dict[int, np.ndarray]:
        """Frames by number, from memory where they are there; others are made and kept."""
        key = entry.video.id, stream
        found = {
            number: frame
            for frames in (self._cache.get(key, {}), self._recent.get(key, {}))
            for number in numbers
            if (frame := frames.get(number)) is not None
        }
        missing = [number for number in numbers if number not in found]
        make = self._decode if stream == "rgb" else self._compute_flow
        for number, frame in make(entry, missing) if missing else ():
            if number in self._cache.get(key, {}):  # one frame ahead is decoded too, and may be there
                continue
            found[number] = frame
            if frame.nbytes <= self._cache_left:
                self._cache_left -= frame.nbytes
                self._cache[key][number] = frame
            else:
                self._recent[key][number] = frame
        return found

    def _decode(self, entry: IndexedVideo, numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        stat = entry.file.path.stat()
        state = entry.video.source
        if (stat.st_size, stat.st_mtime_ns) != (state.bytes, state.modified_ns):
            raise VideoError("the file has changed since it was scanned; give the same command again, in a new --run")
        file = entry.file
        reader = IndexedReader(file.path, short_side=self.settings.short_side, start=file.start, end=file.end)
        # One frame more: the flow of the last one is likely to be asked for next.
        ahead = min(numbers[-1] + 1, entry.index.num_frames - 1)
        for part in _parts(sorted({*numbers, ahead})):
            yield from reader.frames(part, entry.index).items()

    def _compute_flow(self, entry: IndexedVideo, numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        self._flow = self._flow or create_flow("dis")
        rgb = self._known(entry, "rgb", sorted({*numbers, *(number + 1 for number in numbers)}))
        grey = {number: cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for number, frame in rgb.items()}
        changes = set(entry.index.size_changes)
        for number in numbers:
            flow = no_flow(*grey[number].shape) if number + 1 in changes else self._flow(grey[number], grey[number + 1])
            yield number, quantize_flow(flow, bound=self.settings.flow_bound)


def _parts(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Sorted numbers in parts that are each decoded in one go."""
    gaps = np.flatnonzero(np.diff(numbers) > _READ_THROUGH) + 1
    return (part.tolist() for part in np.split(np.asarray(numbers), gaps))


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is gone since it was scanned"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
