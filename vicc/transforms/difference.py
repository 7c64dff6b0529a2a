"""The stream `diff`: how RGB changes from each frame to the next. It shows motion at the cost of a
subtraction.

With a the view of frame i and b that of frame i + 1, both uint8 after crop, resizing, flip and
colour:

    diff = 128 + b - a, cut off below 0 and above 255

so that 128 is no change. On real clips the root mean square of b - a is 7 (surveillance) to 26
(Kinetics, with cuts), and 0.1 to 1.2 % of the values are cut off; halving them in place of cutting
would lose a bit of all the others. Frame i of `diff` exists where flow frame i does.
"""

from dataclasses import replace

import cv2
import numpy as np

from vicc.transforms.augmentation import ViewDraw, apply_to_flow_image, apply_to_rgb


def frames_of_diff(frame_indices: np.ndarray) -> np.ndarray:
    """Indices of the RGB frames that these diff frames are made of, each once, in rising order.

    >>> frames_of_diff(np.array([0, 0, 1, 4])).tolist()
    [0, 1, 2, 4, 5]
    """
    return np.unique(np.concatenate((frame_indices, frame_indices + 1)))


def apply_to_diff(frames: np.ndarray, frame_indices: np.ndarray, draw: ViewDraw, *, size: int) -> np.ndarray:
    """A view of the diff frames `frame_indices` (T,), uint8 (T, size, size, 3).

    Args:
        frames: uint8 RGB (N, H, W, 3), the frames of `frames_of_diff(frame_indices)`.
    """
    # Grey by one channel is picked for each frame anew: both frames of a pair must get the same, so
    # it comes after.
    view = apply_to_rgb(frames, replace(draw, grey_seed=None), size=size)
    shown = frames_of_diff(frame_indices)
    before, after = (view[np.searchsorted(shown, wanted)] for wanted in (frame_indices, frame_indices + 1))
    flat = (-1, size)  # OpenCV takes an image of up to four channels: all frames below each other
    diff = cv2.addWeighted(after.reshape(*flat, 3), 1, before.reshape(*flat, 3), -1, 128).reshape(after.shape)
    if draw.grey_seed is None:
        return diff
    return apply_to_flow_image(diff, replace(draw, color=None, contrast=1.0, hue=0.0, blur_sigma=0.0))
