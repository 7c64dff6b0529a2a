"""Optical flow between neighbouring frames, and its 8-bit form.

The stored form maps the displacement in pixels, clipped to [-bound, bound], linearly to 1..255 with
0 at 128:

    stored = 128 + round(127 * flow / bound)

so that no motion is exact and the negative of a stored value s is 256 - s, also exact.
"""

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np

FlowName = Literal["dis", "tvl1"]
FlowFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]


def create_flow(name: FlowName) -> FlowFunction:
    """Return a function of two grey frames, uint8 (H, W), that gives the flow from the first to the
    second.

    Its result is float32 (H, W, 2): u (to the right) and v (downwards), in pixels per frame.

    "dis" is Dense Inverse Search (Kroeger et al., ECCV 2016), fast preset but searched down to full
    resolution (scale 0) with two steps of variational refinement: at the preset's own finest scale
    (2) thin limbs vanish. "tvl1" is Dual TV-L1 (Zach et al., DAGM 2007), the published choice, and
    many times slower.
    """
    if name == "dis":
        dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        dis.setFinestScale(0)
        dis.setVariationalRefinementIterations(2)
        return lambda first, second: _with_room(dis.calc, first, second)
    tvl1 = cv2.optflow.DualTVL1OpticalFlow.create()
    return lambda first, second: tvl1.calc(first, second, None)  # type: ignore[call-overload]


def no_flow(height: int, width: int) -> np.ndarray:
    """Flow that is zero everywhere, float32 (H, W, 2): between two frames over which no motion can
    be measured.
    """
    return np.zeros((height, width, 2), np.float32)


def quantize_flow(flow: np.ndarray, *, bound: float) -> np.ndarray:
    """Flow in pixels, float (..., 2), to its stored form, uint8 (..., 2). One step is bound / 127
    pixels.
    """
    return (np.rint(np.clip(flow, -bound, bound) * (127.0 / bound)) + 128.0).astype(np.uint8)


def dequantize_flow(stored: np.ndarray, *, bound: float) -> np.ndarray:
    """The stored form, uint8 (..., 2), back to pixels, float32."""
    return (stored.astype(np.float32) - 128.0) * (bound / 127.0)


def _with_room(calc: Callable[..., np.ndarray], first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """DIS refuses images below 12 pixels (OpenCV 5; its patches are 8 x 8): repeat their border."""
    height, width = first.shape
    smallest = 12
    if min(height, width) >= smallest:
        return calc(np.ascontiguousarray(first), np.ascontiguousarray(second), None)
    border = (0, max(0, smallest - height), 0, max(0, smallest - width))
    padded = [cv2.copyMakeBorder(image, *border, borderType=cv2.BORDER_REPLICATE) for image in (first, second)]
    return calc(*padded, None)[:height, :width]
