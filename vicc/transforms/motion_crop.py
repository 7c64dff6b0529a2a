"""Where in the frame the motion of a clip is: the box that a motion crop takes in place of the
frame.

An energy map says how much RGB changes at each place from a frame to the next, the first one
shifted as the camera was, in the mean over the clip. Flow would not do as well: before a camera
that pans, what has no texture seems to move (docs/decisions/transforms.md).
"""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from vicc.transforms.augmentation import ViewDraw
from vicc.transforms.difference import frames_of_diff

_MAP_SIDE = 64  # pixels of a map's shorter side, up to twice as many
_CELLS = 16  # of the shorter side: energy is averaged over so large a part of it
_QUANTILE = 0.5  # of the map: what moves a little everywhere, noise or leaves, is no more than this
_FLOOR = 1 / 3  # of the map's peak: slower motion elsewhere
_SHARE = 0.9  # of the energy that a box holds
_SMALLEST = 1 / 3  # of the frame's shorter side
_CHANGING = 1.0  # levels of 255 above that, in the mean over clip and cell: less is no motion
_PAIRS = 16  # of frames, at most, evenly spaced
_POINTS = 6  # of a grid, rows and columns, whose median motion is the camera's
_STEADY = 0.2  # pixels of a map: smaller shifts are not undone
_JITTER_SIDE, _JITTER_PLACE = 1.25, 0.1  # largest factor, up or down; share of the side


@dataclass(frozen=True)
class Box:
    """A square of a frame, in whole pixels."""

    top: int
    left: int
    side: int


def energy_frames(frame_indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which frames of a video the energy of a clip with these frame indices is computed from: the
    first ones of pairs of neighbours, at most 16, and all of them.
    """
    moments = np.unique(frame_indices)  # the padding of a short video counts once
    chosen = moments[np.unique(np.linspace(0, len(moments) - 1, min(_PAIRS, len(moments))).round().astype(int))]
    return chosen, frames_of_diff(chosen)


def motion_energy(frames: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """How much RGB changes from frames to the next ones, in levels of 255: float32 (h, w).

    Args:
        frames: uint8 (N, H, W, 3), the frames of `frames_of_diff(pairs)`.
        pairs: indices of the first frames of the pairs, each once, in rising order.
    """
    grey = np.stack([cv2.cvtColor(_shrunk(frame), cv2.COLOR_RGB2GRAY) for frame in frames])
    shown = frames_of_diff(pairs)
    before, after = (grey[np.searchsorted(shown, wanted)] for wanted in (pairs, pairs + 1))
    changes = [cv2.absdiff(_following(*pair), pair[1]) for pair in zip(before, after, strict=True)]
    return np.stack(changes).mean(axis=0, dtype=np.float32)


def motion_box(energy: np.ndarray, *, height: int, width: int) -> Box | None:
    """The smallest square of a frame of (height, width), around the energy's centre of gravity,
    that holds nine tenths of the energy; None where nothing moves more than all the rest.

    It is at least a third of the shorter side, at most the whole. What does not exceed the map's
    median, or a third of its peak, does not count.
    """
    rows, columns = energy.shape
    energy = cv2.medianBlur(np.ascontiguousarray(energy, np.float32), 3)  # a single pixel is no motion
    cell = max(1, round(min(rows, columns) / _CELLS))
    energy = cv2.blur(energy, (cell, cell))
    everywhere, peak = float(np.quantile(energy, _QUANTILE)), float(energy.max())
    if peak - everywhere < _CHANGING:
        return None
    excess = np.maximum(energy - max(everywhere, _FLOOR * peak), 0)
    total = excess.sum(dtype=np.float64)
    # Sums over squares of whole map pixels; a frame's pixel is that many of the map's.
    sums = cv2.integral(excess, sdepth=cv2.CV_64F)
    middle = (
        (excess.sum(axis=1) @ (np.arange(rows) + 0.5)) / total,
        (excess.sum(axis=0) @ (np.arange(columns) + 0.5)) / total,
    )
    short = min(height, width)
    sides = np.arange(max(1, round(short * _SMALLEST)), short + 1)
    tops = _starts(middle[0] * height / rows, sides, height)
    lefts = _starts(middle[1] * width / columns, sides, width)
    up, down = (np.rint(places * rows / height).astype(int) for places in (tops, tops + sides))
    near, far = (np.rint(places * columns / width).astype(int) for places in (lefts, lefts + sides))
    held = sums[down, far] - sums[up, far] - sums[down, near] + sums[up, near]
    enough = held >= _SHARE * total
    which = int(enough.argmax()) if enough.any() else len(sides) - 1
    return Box(int(tops[which]), int(lefts[which]), int(sides[which]))


def jittered(box: Box, *, height: int, width: int, rng: np.random.Generator) -> Box:
    """The box a little larger or smaller and a little beside its place, within the frame."""
    factor = math.exp(rng.uniform(-1, 1) * math.log(_JITTER_SIDE))
    side = min(max(1, round(box.side * factor)), height, width)
    down, right = rng.uniform(-_JITTER_PLACE, _JITTER_PLACE, 2) * box.side
    sides = np.array([side])
    top = _starts(box.top + box.side / 2 + down, sides, height)
    left = _starts(box.left + box.side / 2 + right, sides, width)
    return Box(int(top[0]), int(left[0]), side)


def within(box: Box, draw: ViewDraw) -> ViewDraw:
    """A view that was drawn for frames of the box's size, as a view of the whole frame."""
    return replace(draw, top=draw.top + box.top, left=draw.left + box.left)


def _starts(middle: float, sides: np.ndarray, length: int) -> np.ndarray:
    """Where squares around `middle` begin, moved so that they end within the frame."""
    return np.clip(np.rint(middle - sides / 2).astype(int), 0, length - sides)


def _shrunk(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    factor = max(1, min(height, width) // _MAP_SIDE)
    if factor == 1:
        return frame
    return cv2.resize(frame, (width // factor, height // factor), interpolation=cv2.INTER_AREA)


def _following(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """A grey frame moved as the camera moved from it to the next one; what came into view is that
    frame's.

    The camera's motion is the median of those of a grid of points. Where there is nothing to see, a
    point counts as still: else a single thing before a plain wall would be taken for the camera's.
    """
    height, width = before.shape
    down, right = np.meshgrid(*((np.arange(_POINTS) + 0.5) / _POINTS * side for side in (height, width)), indexing="ij")
    points = np.stack((right.ravel(), down.ravel()), axis=-1).astype(np.float32)
    moved, found, _ = cv2.calcOpticalFlowPyrLK(  # type: ignore[call-overload]
        before, after, points, None, winSize=(11, 11), maxLevel=2, criteria=(3, 5, 0.03)
    )
    shift = np.median(np.where(found > 0, moved - points, 0), axis=0)
    if np.hypot(*shift) < _STEADY:
        return before
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    return cv2.warpAffine(before, matrix, (width, height), dst=after.copy(), borderMode=cv2.BORDER_TRANSPARENT)
