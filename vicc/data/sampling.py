"""Which frames make a clip: random clips for training, sliding windows for evaluation.

A clip of T frames at a stride s spans (T - 1) s + 1 frames. Frame indices are those of both
streams: flow frame i is the motion from RGB frame i to i + 1, so a video of n frames has n - 1
indices that exist in both. A video that is too short is padded on the left with its first frame.
Padding and windows are the published ones, number for number.
"""

from typing import Literal

import numpy as np

ViewDistance = Literal["any", "far"]


def clip_frame_indices(start: int, *, available: int, clip_frames: int, stride: int = 1) -> np.ndarray:
    """Frame indices (T,) of the clip that starts at frame `start`, padded where the video ends
    before the clip does.

    >>> clip_frame_indices(2, available=9, clip_frames=4).tolist()
    [2, 3, 4, 5]
    >>> clip_frame_indices(0, available=2, clip_frames=4).tolist()
    [0, 0, 0, 1]
    >>> clip_frame_indices(1, available=6, clip_frames=4, stride=2).tolist()
    [0, 1, 3, 5]
    """
    indices = np.arange(start, available, stride)[:clip_frames]
    return np.pad(indices, (clip_frames - len(indices), 0))


def random_clips(
    available: int,
    *,
    num_views: int,
    clip_frames: int,
    stride: int,
    distance: ViewDistance,
    rng: np.random.Generator,
) -> np.ndarray:
    """Frame indices (V, T) of random clips of one video.

    Args:
        available: frames that exist in every stream (n - 1 for a video of n frames).
        distance: "any" draws every start alike (published). "far" draws the starts of the views, in
            random order, each from its own part of the video: first and last third for two views,
            so that the views differ in time.
    """
    last = available - ((clip_frames - 1) * stride + 1)
    if last < 0:
        last = stride - 1  # too short: every phase of the stride is a clip of its own
    if distance == "far" and num_views > 1:
        # View v of V starts within a third of the range around its own anchor, the anchors spread
        # from first to last.
        width = last / 3
        anchors = np.linspace(0, last - width, num_views)
        starts = rng.permutation(np.rint(anchors + width * rng.random(num_views)).astype(int))
    else:
        starts = rng.integers(0, last + 1, num_views)
    return np.stack(
        [
            clip_frame_indices(int(start), available=available, clip_frames=clip_frames, stride=stride)
            for start in starts
        ]
    )


def sliding_windows(available: int, *, clip_frames: int, stride: int, step: int) -> np.ndarray:
    """Frame indices (W, T) of windows that start every `step` frames; one padded window for a short
    video.

    A window counts `clip_frames * stride` frames, those behind its last one included (published).
    """
    last = max(0, available - clip_frames * stride)
    return np.stack(
        [
            clip_frame_indices(start, available=available, clip_frames=clip_frames, stride=stride)
            for start in range(0, last + 1, step)
        ]
    )
