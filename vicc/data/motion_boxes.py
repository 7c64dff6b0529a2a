"""The boxes of motion of a video's clips, for training and for evaluation."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vicc.data.frame_pack import StoredStream
from vicc.data.frame_reader import FrameReader
from vicc.data.records import SetAside, StoreSettings, Video
from vicc.data.sampling import clip_frame_indices
from vicc.transforms.motion_crop import Box, energy_frames, motion_box, motion_energy

_VIDEOS = 24  # whose boxes say how large boxes are: a second or two


class FramesOnce:
    """A reader that reads each frame once, however often it is asked for, and keeps all of them.

    It lives as long as the clips of one video are cut: RGB is needed for boxes and for views, and
    windows overlap.
    """

    def __init__(self, reader: FrameReader) -> None:
        self._reader = reader
        self._frames: defaultdict[tuple[str, StoredStream], dict[int, np.ndarray]] = defaultdict(dict)

    @property
    def path(self) -> Path | str:
        return self._reader.path

    @property
    def settings(self) -> StoreSettings:
        return self._reader.settings

    @property
    def videos(self) -> list[Video]:
        return self._reader.videos

    @property
    def set_aside(self) -> list[SetAside]:
        return self._reader.set_aside

    def frames(self, video_id: str, stream: StoredStream, frame_indices: Sequence[int]) -> np.ndarray:
        """See `FrameReader.frames`."""
        known = self._frames[video_id, stream]
        missing = sorted({*frame_indices} - known.keys())
        if missing:
            known.update(zip(missing, self._reader.frames(video_id, stream, missing), strict=True))
        return np.stack([known[index] for index in frame_indices])


def clip_box(reader: FrameReader, video: Video, frame_indices: np.ndarray) -> Box | None:
    """The box of motion of a clip, frame indices (T,); None where nothing moves.

    It comes from RGB, whatever the stream of the encoder, so that encoders of all streams see the
    same boxes, with flow and without.
    """
    pairs, needed = energy_frames(frame_indices)
    energy = motion_energy(reader.frames(video.id, "rgb", needed.tolist()), pairs)
    return motion_box(energy, height=video.height, width=video.width)


def typical_sides(reader: FrameReader, videos: Sequence[Video], *, clip_frames: int, stride: int) -> list[int]:
    """Pixels of a side of the boxes of some videos, evenly spaced among all, of the clip in the
    middle of each; those in which nothing moves are left out.
    """
    count = min(_VIDEOS, len(videos))
    sides = []
    for place in range(count):
        video = videos[place * len(videos) // count]
        available = video.num_frames - 1
        first = max(0, available - (clip_frames - 1) * stride - 1) // 2
        clip = clip_frame_indices(first, available=available, clip_frames=clip_frames, stride=stride)
        box = clip_box(reader, video, clip)
        sides += [] if box is None else [box.side]
    return sides
