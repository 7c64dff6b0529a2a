"""Frames of a file by their indices, exactly: an index of where decoding may begin, and the reader
that uses it.

Frame i is the i-th that `VideoReader` yields. A container's times are no safe way to it, so an
index is made by decoding the file once, and holds only key frames that were found to decode to the
same picture after a seek.
"""

import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import av
import numpy as np

from vicc.video.container import DECODING_ERRORS, VideoError, reason_of
from vicc.video.decode import VideoReader

_KEY_SPACING = 12  # frames; nearer key frames would make the index longer and save little
_SEARCHED = 64  # frames that are decoded after a seek, at most, to meet the one that was sought


@dataclass(frozen=True)
class FrameIndex:
    """What decoding a whole file has shown.

    Attributes:
        num_frames: frames that decode.
        height, width: of the first one, shrunk; pixels.
        keys: (number, presentation time in the stream's unit) of frames at which decoding may
            begin.
        size_changes: indices of frames whose size in the file is not that of the frame before.
        note: what a user should know, for instance that the end of the file could not be decoded.
    """

    num_frames: int
    height: int
    width: int
    frames_per_second: float
    keys: tuple[tuple[int, int], ...] = ()
    note: str = ""
    size_changes: tuple[int, ...] = ()


class IndexedReader(VideoReader):
    """A `VideoReader` that also gives frames by their indices. Arguments are those of
    `VideoReader`.
    """

    def index(self) -> FrameIndex:
        """Decode the whole file and look where decoding may begin.

        Raises:
            VideoError: the file has no video stream or no frame that decodes.
        """
        scan = _Scan(self.path, short_side=self.short_side, start=self.start, end=self.end, guard=self.guard)
        num_frames = sum(1 for _ in scan)
        keys: tuple[tuple[int, int], ...] = ()
        # Of a damaged file what is decoded may depend on what came before: it is always decoded
        # from its beginning.
        if not scan.problem and scan.keys:
            keys = tuple(self._sound(scan))
        return FrameIndex(num_frames, *scan.size, scan.frames_per_second, keys, scan.note, tuple(scan.changes))

    def frames(self, frame_indices: Sequence[int], index: FrameIndex) -> dict[int, np.ndarray]:
        """Decode some frames, uint8 (H, W, 3) each, by their indices.

        Raises:
            VideoError: the file cannot be decoded as far as it could when its index was made.
        """
        wanted = set(frame_indices)
        self._canvas = index.height, index.width
        place = bisect_right(index.keys, min(wanted), key=lambda key: key[0]) - 1
        for key in (index.keys[place], None) if place >= 0 else (None,):
            found: dict[int, np.ndarray] = {}
            try:
                for number, frame in self._from_key(key) if key else enumerate(self._frames()):
                    if number in wanted:
                        found[number] = self._to_array(frame)
                    if number >= max(wanted):
                        break
            except DECODING_ERRORS as error:
                raise VideoError(f"cannot be decoded any more ({reason_of(error)})") from error
            if len(found) == len(wanted):
                return found
        raise VideoError(
            f"has no frame {min(wanted - found.keys())} any more, of {index.num_frames} at its first reading"
        )

    def _sound(self, scan: "_Scan") -> Iterator[tuple[int, int]]:
        """The key frames that decode, with the frame after them, to what they were when decoded in
        order.
        """
        with self._opened() as (container, stream):
            for number, time in scan.keys:
                try:
                    found = [
                        _checksum(frame)
                        for _, (_, frame) in zip(
                            range(2), self._sought_frames(container, stream, (number, time)), strict=False
                        )
                    ]
                except av.FFmpegError:
                    continue
                if found and found == scan.checksums[number : number + 2]:
                    yield number, time

    def _from_key(self, key: tuple[int, int]) -> Iterator[tuple[int, av.VideoFrame]]:
        with self._opened() as (container, stream):
            yield from self._sought_frames(container, stream, key)

    def _sought_frames(
        self, container: av.container.InputContainer, stream: av.VideoStream, key: tuple[int, int]
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Numbers and frames from a key frame on; nothing if it is not met."""
        with self.guard():
            container.seek(key[1], stream=stream)
        frames = container.decode(stream)
        for _, frame in zip(range(_SEARCHED), frames, strict=False):
            if frame.pts == key[1]:
                yield key[0], frame
                yield from enumerate(frames, key[0] + 1)
                return


class _Scan(VideoReader):
    """Decodes, notes what an index needs, and converts the first frame only."""

    def _begin(self) -> None:
        super()._begin()
        self.size = (0, 0)
        self.keys: list[tuple[int, int]] = []
        self.checksums: list[int] = []
        self.changes: list[int] = []

    def _to_array(self, frame: av.VideoFrame) -> np.ndarray:
        number = len(self.checksums)
        if number == 0:
            height, width = super()._to_array(frame).shape[:2]
            self.size = height, width
        else:
            self._compare_size(frame)
            self.changes += [number] * self.size_changed
        last = self.keys[-1][0] if self.keys else 0
        if frame.key_frame and frame.pts is not None and number - last >= _KEY_SPACING:
            self.keys.append((number, frame.pts))
        self.checksums.append(_checksum(frame))
        return _NOTHING


_NOTHING = np.empty(0, np.uint8)


def _checksum(frame: av.VideoFrame) -> int:
    """Of the first plane, which is brightness in nearly all formats; bytes beyond its width are
    left out, for those that only fill a line up are whatever was there before.
    """
    plane = frame.planes[0]
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
    return zlib.crc32(lines.tobytes())
