"""Video files to frames, one at a time, so that memory does not grow with the length of a video."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from vicc.errors import ViccError

_SUFFIXES = "3gp avi flv gif m2ts m4v mkv mov mp4 mpeg mpg mts ogv ts webm wmv"
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())

_PLAYLISTS = frozenset(("concat", "dash", "hls", "imf"))  # FFmpeg's names of formats that only point to other files


class VideoError(ViccError):
    """A file that cannot be used as a video; the message is the reason."""


@dataclass(frozen=True)
class VideoInfo:
    """What a container says of its first video stream; trust none of it before decoding."""

    frames_per_second: float
    width: int
    height: int


class VideoReader:
    """Iterates over the frames of a file as uint8 RGB arrays (H, W, 3), rotation applied.

    A file that breaks in the middle yields what decodes; `broken_after` then holds the reason.

    Args:
        path: the video file.
        short_side: frames whose shorter side is longer than this are scaled down to it (area interpolation, ratio
            kept); smaller frames stay as they are, since enlarging adds bytes and no information. None: never scale.

    Raises:
        VideoError: on iteration, for a file without a readable video stream or without a single decodable frame.
    """

    def __init__(self, path: Path, *, short_side: int | None = None) -> None:
        self.path = path
        self.short_side = short_side
        self.info: VideoInfo | None = None
        self.broken_after: str | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        if self.path.stat().st_size == 0:
            raise VideoError("the file is empty (0 bytes)")
        num_frames = 0
        try:
            # Only the file itself may be opened: a playlist in disguise must not reach the network or other files. The
            # path is absolute, for a colon in a relative one reads as a protocol.
            path, options = str(self.path.absolute()), {"protocol_whitelist": "file"}
            with av.open(path, metadata_errors="ignore", options=options) as container:
                if container.format.name in _PLAYLISTS:
                    raise VideoError(f"the file is a playlist ({container.format.name}), not a video")
                if not container.streams.video:
                    raise VideoError("the file has no video stream")
                stream = container.streams.video[0]
                rate = stream.average_rate or stream.guessed_rate
                self.info = VideoInfo(
                    frames_per_second=float(rate) if rate else 25.0, width=stream.width, height=stream.height
                )
                for frame in container.decode(stream):
                    num_frames += 1
                    yield self._to_array(frame)
        except (av.FFmpegError, ValueError, RuntimeError) as error:
            reason = _reason(error)
            if num_frames == 0:
                raise VideoError(f"cannot be decoded ({reason})") from error
            self.broken_after = f"decoding stopped after {num_frames} frames ({reason})"
        if num_frames == 0:
            raise VideoError("no frame could be decoded")

    def _to_array(self, frame: av.VideoFrame) -> np.ndarray:
        image = frame.to_ndarray(format="rgb24")
        turns = round(frame.rotation / 90) % 4
        if turns:
            image = np.rot90(image, turns)
        return np.ascontiguousarray(shrink(image, self.short_side))


def shrink(image: np.ndarray, short_side: int | None) -> np.ndarray:
    """An image (H, W, ...) scaled down to this shorter side, ratio kept; None and smaller images stay as they are."""
    height, width = image.shape[:2]
    if short_side is None or min(height, width) <= short_side:
        return image
    scale = short_side / min(height, width)
    size = (max(short_side, round(width * scale)), max(short_side, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _reason(error: Exception) -> str:
    # FFmpeg's own words without its error number and the path, which the caller names anyway.
    text = error.strerror if isinstance(error, av.FFmpegError) and error.strerror else str(error)
    return " ".join(text.split())[:200]
