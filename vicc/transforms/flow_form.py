"""The form in which an encoder takes flow, and the way there from the form in which a store keeps
it.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from vicc.batch import FlowChannels
from vicc.errors import ViccError


@dataclass(frozen=True)
class FlowForm:
    """How displacements become the 8-bit channels that an encoder takes. With f clipped to [-bound,
    bound]:

        "uv"       u, v        each 128 + round(127 f / bound), as in a store
        "128vu"    128, v, u   each round(127.5 + 127.5 f / bound), the published image

    Attributes:
        channels: which of the two.
        bound: largest displacement, in pixels per frame.
        short_side: shorter side of the frames in whose pixels f is counted; None for the stored
            frames'.
    """

    channels: FlowChannels = "uv"
    bound: float = 20.0
    short_side: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.bound < math.inf:
            raise ViccError(f"flow_bound is {self.bound}; expected a number of pixels above 0.")
        if self.short_side is not None and self.short_side < 1:
            raise ViccError(f"flow_short_side is {self.short_side}; expected at least 1 pixel, or none.")

    @property
    def num_channels(self) -> int:
        return 2 if self.channels == "uv" else 3

    def convert(self, stored: np.ndarray, *, bound: float, short_side: int) -> np.ndarray:
        """Flow in stored form, uint8 (..., 2), to this form, uint8 (..., num_channels).

        Args:
            bound: of the store.
            short_side: shorter side of the store's frames, which may be smaller than the view at
                hand.
        """
        factor = 1.0 if self.short_side is None else self.short_side / short_side
        if self.channels == "uv":
            return stored if factor * bound == self.bound else _look_up(stored, self._table(factor * bound, 127, 128))
        values = _look_up(stored, self._table(factor * bound, 127.5, 127.5))
        image = np.full((*stored.shape[:-1], 3), 128, np.uint8)
        image[..., 1], image[..., 2] = values[..., 1], values[..., 0]
        return image

    def _table(self, largest: float, steps: float, zero: float) -> np.ndarray:
        """What each stored value becomes, uint8 (256,); `largest` is the flow of the stored value
        255.
        """
        share = (np.arange(256) - 128.0) / 127 * (largest / self.bound)
        return np.rint(zero + steps * np.clip(share, -1, 1)).astype(np.uint8)


def _look_up(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    # A tenth of the time of table[values].
    return cv2.LUT(values.reshape(len(values), -1), table).reshape(values.shape)
