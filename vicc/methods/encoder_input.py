"""What an encoder is given, checked: whatever would be encoded without an error but mean something
else is refused.
"""

from typing import Any

import numpy as np
import torch

from vicc.batch import Stream
from vicc.errors import ViccError

_FAR = 3.0  # times the largest value that a normalised clip can have
_BOUNDS = 3.0  # times the bound at which the encoder clips flow: a median there is no motion any more


def checked_frames(frames: Any, *, stream: Stream, flow_bound: float) -> np.ndarray:
    """Frames of one video, or its flow, as an array, see `Encoder.preprocess`.

    Args:
        flow_bound: in pixels per frame, at which the encoder clips flow.

    Raises:
        ViccError: no array or tensor, or one of another shape, type or range of values.
    """
    flow = stream == "flow"
    channels, kind = (2, np.floating) if flow else (3, np.uint8)
    expected = "flow in pixels, floating (T, H, W, 2)" if flow else "frames, uint8 (T, H, W, 3)"
    array = _array(frames, f"This {stream} encoder", expected)
    got = f"This {stream} encoder got {array.dtype} {array.shape}; expected {expected}."
    if array.ndim != 4:
        more = " Give one video at a time, for instance frames[0]." if array.ndim == 5 else ""
        raise ViccError(got + (" A single frame is frames[None]." if array.ndim == 3 else more))
    if array.shape[-1] != channels:
        orders = {1: "frames.transpose(0, 2, 3, 1)", 0: "frames.transpose(1, 2, 3, 0)"}
        order = next((how for axis, how in orders.items() if array.shape[axis] == channels), None)
        raise ViccError(got + (f" Channels come last: {order} of the NumPy array." if order else ""))
    if not all(array.shape):
        raise ViccError(f"There is nothing to encode: the frames have shape {array.shape}.")
    if not np.issubdtype(array.dtype, kind):
        raise ViccError(f"{got} {_how_to_convert(array, flow=flow)}".rstrip())
    if flow:
        _require_pixels_of_flow(array, flow_bound)
    return array


def checked_clips(
    clips: Any, *, stream: Stream, shape: tuple[int, int, int, int], largest: float, any_size: bool = False
) -> torch.Tensor:
    """Clips as a tensor, see `Encoder.features`. Of uint8 clips only type and shape are looked at,
    which costs nothing.

    Args:
        shape: of a clip, (C, T, H, W).
        largest: value that a clip can have once it is normalised, up or down.
        any_size: only the channels must be those of `shape`.

    Raises:
        ViccError: no array or tensor, or one of another shape, type or range of values.
    """
    expected = f"clips, uint8 (B, {', '.join(map(str, shape))})"
    if isinstance(clips, np.ndarray):
        clips = torch.from_numpy(np.ascontiguousarray(clips))
    if not isinstance(clips, torch.Tensor):
        raise ViccError(
            f"This {stream} encoder got {type(clips).__name__}; expected {expected}, a tensor or NumPy array, as "
            "preprocess gives it."
        )
    kind = str(clips.dtype).removeprefix("torch.")
    got = f"This {stream} encoder got {kind} {tuple(clips.shape)}; expected {expected}."
    fits = tuple(clips.shape[1:]) == shape or (any_size and clips.ndim == 5 and clips.shape[1] == shape[0])
    if not fits or not all(clips.shape):
        raise ViccError(f"{got} {_what_is_wrong_with(tuple(clips.shape), shape)}")
    if clips.dtype != torch.uint8 and not clips.is_floating_point():
        raise ViccError(f"{got} Give values from 0 to 255 as uint8, as preprocess does.")
    if clips.is_floating_point():
        _require_normalised(clips, got, image=stream == "rgb", largest=largest)
    return clips


def _array(frames: Any, who: str, expected: str) -> np.ndarray:
    if isinstance(frames, torch.Tensor):
        return frames.detach().cpu().numpy()
    if not isinstance(frames, np.ndarray):
        raise ViccError(f"{who} got {type(frames).__name__}; expected {expected}, a NumPy array or a tensor.")
    return frames


def _how_to_convert(array: np.ndarray, *, flow: bool) -> str:
    if flow:
        return (
            "Flow as a store keeps it becomes pixels with vicc.video.flow.dequantize_flow(stored, bound=...)."
            if array.dtype == np.uint8
            else ""
        )
    if not np.issubdtype(array.dtype, np.number):
        return ""
    low, high = float(array.min()), float(array.max())
    values = f"Its values are from {low:g} to {high:g}"
    if low >= 0 and high <= 1:
        return f"{values}: convert them with (255 * frames).round().astype(np.uint8)."
    if low >= 0 and high <= 255:
        return f"{values}: convert them with frames.round().astype(np.uint8)."
    return f"{values}: frames that are normalised already cannot be taken; give them as they were read."


def _require_pixels_of_flow(flow: np.ndarray, bound: float) -> None:
    if not np.isfinite(flow).all():
        raise ViccError("The flow holds values that are not finite; expected pixels per frame.")
    height, width = flow.shape[1:3]
    largest = float(np.abs(flow).max())
    # Small frames may move by more than they measure; an image of flow is 128 where nothing moves.
    if flow.min() >= 0 and np.median(flow) > _BOUNDS * bound:
        raise ViccError(
            f"The flow has values from {flow.min():g} to {largest:g}, half of them above {np.median(flow):g}, as flow "
            "in the form of an image has; expected pixels per frame, 0 where nothing moves. "
            "vicc.video.flow.dequantize_flow(stored, bound=...) gives them."
        )
    if largest > 4 * max(height, width):
        raise ViccError(
            f"The flow has values up to {largest:g} in frames of {width} x {height}; expected pixels per frame, u "
            "before v."
        )


def _what_is_wrong_with(shape: tuple[int, ...], wanted: tuple[int, int, int, int]) -> str:
    if shape == wanted:
        return "The batch axis is missing: clips[None]."
    if len(shape) == 5 and (*shape[4:], *shape[1:4]) == wanted:
        return "Channels come before time: clips.permute(0, 4, 1, 2, 3)."
    if len(shape) == 5 and (shape[2], shape[1], *shape[3:]) == wanted:
        return "Channels come before time: clips.permute(0, 2, 1, 3, 4)."
    if len(shape) == 5 and shape[1] == wanted[0] and shape[2] != wanted[1] and shape[3:] == wanted[2:]:
        return f"Clips of another length than the {wanted[1]} frames it was made for give other features (any_size)."
    return "encoder.preprocess(frames) makes such a clip of the frames of a video."


def _require_normalised(clips: torch.Tensor, got: str, *, image: bool, largest: float) -> None:
    """Floating-point clips are taken as normalised already; what plainly is not would give other
    features.
    """
    low, high = (float(bound) for bound in clips.aminmax())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ViccError(f"{got} Its values are not all finite.")
    # Flow may lie in 0 to 1 where it all goes one way; a picture without one value below the mean
    # is none.
    if image and low >= 0 and 0 < high <= 1:
        raise ViccError(
            f"{got} Its values are from {low:g} to {high:g}; floating-point clips are taken as normalised already. "
            "Give (255 * clips).round() as uint8."
        )
    if (low >= 0 and high > largest) or max(-low, high) > _FAR * largest:
        raise ViccError(
            f"{got} Its values are from {low:g} to {high:g}; floating-point clips are taken as normalised already, "
            f"within {largest:.1f} of 0. Give values from 0 to 255 as uint8, or the frames to preprocess."
        )
