"""Hand-made baselines: descriptors of a video without training. A learned encoder is worth what it
has above them.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch

from vicc.data.frame_reader import FrameReader
from vicc.data.records import Video
from vicc.progress import Advance
from vicc.video.flow import dequantize_flow

_GRID = 32
_SPEEDS = np.array([0.25, 0.5, 1, 2, 4, 8])  # pixels a frame at the store's size; below the first is no motion
_DIRECTIONS = 8


def color_histogram(store: FrameReader, video: Video) -> np.ndarray:
    """Joint histogram of red, green and blue in 8 steps each over all frames, square root taken:
    (512,).
    """
    frames = store.frames(video.id, "rgb", _at_most(video.num_frames, 64))
    cells = (frames // 32).astype(np.int64) @ np.array([64, 8, 1])
    return np.sqrt(np.bincount(cells.ravel(), minlength=512) / cells.size)


def motion_histogram(store: FrameReader, video: Video) -> np.ndarray:
    """Joint histogram of speed in 6 steps and of 8 directions, and one cell for pixels without
    motion, over all pixels and frames, square root taken: (49,). Histograms of flow describe motion
    since Laptev et al. (CVPR 2008).
    """
    u, v = np.moveaxis(_flow(store, video), -1, 0)
    step = np.searchsorted(_SPEEDS, np.hypot(u, v), side="right")
    direction = np.floor(np.arctan2(v, u) * (_DIRECTIONS / (2 * np.pi)) + 0.5).astype(np.int64) % _DIRECTIONS
    cells = np.where(step == 0, 0, (step - 1) * _DIRECTIONS + direction + 1)
    return np.sqrt(np.bincount(cells.ravel(), minlength=len(_SPEEDS) * _DIRECTIONS + 1) / cells.size)


def mean_flow_magnitude(store: FrameReader, video: Video) -> np.ndarray:
    """Mean over time of |u| and |v| at every point of a grid of 32 x 32: (2048,)."""
    return _speed_map(_flow(store, video))


def camera_compensated_flow_magnitude(store: FrameReader, video: Video) -> np.ndarray:
    """As `mean_flow_magnitude`, but without each frame's median flow, most of which is the
    camera's: (2048,).
    """
    flow = _flow(store, video)
    return _speed_map(flow - np.median(flow, axis=(1, 2), keepdims=True))


def _flow(store: FrameReader, video: Video) -> np.ndarray:
    stored = store.frames(video.id, "flow", _at_most(video.num_frames - 1, 64))
    return dequantize_flow(stored, bound=store.settings.flow_bound)


def _speed_map(flow: np.ndarray) -> np.ndarray:
    return cv2.resize(np.abs(flow).mean(axis=0), (_GRID, _GRID), interpolation=cv2.INTER_AREA).ravel()


BASELINES: dict[str, Callable[[FrameReader, Video], np.ndarray]] = {
    "colour histogram": color_histogram,
    "motion histogram": motion_histogram,
    "mean flow magnitude": mean_flow_magnitude,
    "camera-compensated flow magnitude": camera_compensated_flow_magnitude,
}


def baselines_of(store: FrameReader) -> list[str]:
    """Names of the baselines that can be computed: those of flow need flow."""
    return [name for name in BASELINES if BASELINES[name] is color_histogram or store.settings.flow != "none"]


def baseline_features(name: str, store: FrameReader, videos: Sequence[Video], advance: Advance) -> torch.Tensor:
    """Features (N, ...) of a baseline for videos, float32."""
    rows = []
    for video in videos:
        rows.append(BASELINES[name](store, video))
        advance(1, "")
    return torch.from_numpy(np.stack(rows)).float()


def _at_most(available: int, most: int) -> list[int]:
    """Up to `most` frame indices, evenly spread."""
    return np.unique(np.linspace(0, available - 1, min(available, most)).round().astype(int)).tolist()
