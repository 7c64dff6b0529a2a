"""What training and evaluation need to read frames: of a prepared store, or of a folder of video
files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from vicc.data.frame_pack import StoredStream
from vicc.data.records import SetAside, StoreSettings, Video


class FrameReader(Protocol):
    """Videos and their frames; `Store` and `VideoFolder` are two. Cheap to send to another process."""

    @property
    def path(self) -> Path | str: ...

    @property
    def settings(self) -> StoreSettings:
        """How frames are made: their size, and the flow's method and bound."""

    @property
    def videos(self) -> list[Video]:
        """All videos, sorted by id."""

    @property
    def set_aside(self) -> list[SetAside]:
        """Files that could not be used, with their reasons."""

    def frames(self, video_id: str, stream: StoredStream, frame_indices: Sequence[int]) -> np.ndarray:
        """Some frames of a video: uint8 (T, H, W, 3) for rgb, (T, H, W, 2) in stored form for flow.

        Args:
            stream: "rgb" or "flow".
            frame_indices: from 0, in any order and as often as wanted; flow has one frame fewer
                than rgb.

        Raises:
            ViccError: no such video, stream or frame, or data that cannot be read; the message
                names the video.
        """
