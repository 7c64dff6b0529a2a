"""The stream `diff`: what changed from each frame to the next, in the same view as RGB."""

from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import moving_frames
from vicc.transforms.augmentation import PRESETS, Augmentation, apply_to_rgb, center_view, draw_view
from vicc.transforms.difference import apply_to_diff, frames_of_diff

FRAMES = moving_frames(12, (40, 48), seed=3)


def diff_of(frames: np.ndarray, numbers: list[int], draw: object, size: int = 24) -> np.ndarray:
    wanted = np.array(numbers)
    return apply_to_diff(frames[frames_of_diff(wanted)], wanted, draw, size=size)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "numbers",
    [[0, 1, 2, 3], [0, 0, 0, 1], [1, 4, 7, 10], [0, 0, 3, 6]],
    ids=["neighbours", "padded", "stride 3", "padded, stride 3"],
)
def test_frame_i_is_rgb_frame_i_plus_1_minus_i(numbers: list[int]) -> None:
    draw = center_view(height=40, width=48)
    view = apply_to_rgb(FRAMES, draw, size=24).astype(int)
    expected = np.stack([view[number + 1] - view[number] for number in numbers])
    np.testing.assert_array_equal(diff_of(FRAMES, numbers, draw), np.clip(128 + expected, 0, 255))


def test_no_change_is_128_and_the_largest_changes_are_cut_off() -> None:
    levels = np.array([0, 255, 255, 0, 100, 101, 100], np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (7, 24, 24, 3)).copy()
    diff = diff_of(frames, list(range(6)), center_view(height=24, width=24))
    assert [np.unique(frame).tolist() for frame in diff] == [[255], [128], [0], [228], [129], [127]]


@pytest.mark.parametrize("preset", ["default", "published"])
@pytest.mark.parametrize("seed", range(8))
def test_crop_flip_and_colour_are_those_of_rgb(preset: str, seed: int) -> None:
    """The difference of the RGB views of the same draw; blur and rounding of each step may differ by a little."""
    settings = replace(PRESETS[preset], grey=0.0, jitter=1.0)
    draw = draw_view(settings, height=40, width=48, rng=np.random.default_rng(seed))
    view = apply_to_rgb(FRAMES.copy(), draw, size=24).astype(int)
    expected = np.clip(128 + view[1:] - view[:-1], 0, 255)
    np.testing.assert_array_equal(diff_of(FRAMES.copy(), list(range(11)), draw), expected)


def test_grey_by_one_channel_takes_the_same_channel_of_both_frames() -> None:
    """A still scene has no differences, whichever channel stands for grey in which frame."""
    still = np.repeat(FRAMES[:1], 12, axis=0)
    settings = Augmentation(grey=1.0, grey_style="channel", blur=0.0, jitter=0.0)
    draw = draw_view(settings, height=40, width=48, rng=np.random.default_rng(0))
    assert np.unique(diff_of(still, list(range(11)), draw)).tolist() == [128]
    moving = diff_of(FRAMES, list(range(11)), draw)
    assert (moving == moving[..., :1]).all()
    assert moving.std() > 1
