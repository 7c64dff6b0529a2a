"""Boxes of motion: where they are, how large, and what does not move them."""

from typing import Any

import cv2
import numpy as np
import pytest

from vicc.transforms.augmentation import Augmentation, center_view, draw_view
from vicc.transforms.motion_crop import Box, energy_frames, jittered, motion_box, motion_energy, within

HEIGHT, WIDTH, SQUARE, FRAMES = 96, 144, 20, 8
SMALLEST = HEIGHT // 3


def corners(middle: tuple[int, int], frames: int) -> list[tuple[int, int]]:
    """(top, left) of a square that moves by (1, 2) pixels a frame and is at `middle` half way."""
    return [
        (round(middle[0] - SQUARE / 2 + time), round(middle[1] - SQUARE / 2 + 2 * time))
        for time in np.arange(frames) - (frames - 1) / 2
    ]


def frames_of_square(
    middle: tuple[int, int], *, pan: int = 0, noise: float = 0, wall: bool = False, frames: int = FRAMES + 1
) -> np.ndarray:
    """A textured square before a background, textured or a plain wall, that moves by `pan` pixels to the left."""
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (HEIGHT, WIDTH + 100, 3)).astype(np.uint8)
    wide = cv2.normalize(cv2.GaussianBlur(wide, (0, 0), 3.0), None, 60, 190, cv2.NORM_MINMAX)
    wide[:] = 128 if wall else wide
    square = np.random.default_rng(1).integers(0, 256, (SQUARE, SQUARE, 1)).repeat(3, axis=2)
    found = []
    for number, (top, left) in enumerate(corners(middle, frames)):
        start = 50 + number * pan
        frame = wide[:, start : start + WIDTH].astype(np.float64)
        frame[top : top + SQUARE, left : left + SQUARE] = square
        found.append(np.clip(frame + noise * rng.standard_normal(frame.shape), 0, 255).astype(np.uint8))
    return np.stack(found)


def box_of(frames: np.ndarray) -> Box | None:
    energy = motion_energy(frames, np.arange(len(frames) - 1))
    return motion_box(energy, height=frames.shape[1], width=frames.shape[2])


@pytest.mark.parametrize("middle", [(48, 72), (30, 40), (60, 110)])
@pytest.mark.parametrize(
    "options",
    [{}, {"noise": 3}, {"pan": 3}, {"pan": 2, "noise": 3}, {"pan": -4}, {"wall": True}, {"wall": True, "noise": 3}],
    ids=str,
)
def test_a_small_square_that_moves_is_found_with_noise_and_before_a_camera_that_pans(
    middle: tuple[int, int], options: dict[str, Any]
) -> None:
    """Before a plain wall, too, where the square is all there is to see."""
    box = box_of(frames_of_square(middle, **options))
    assert box is not None
    assert abs(box.top + box.side / 2 - middle[0]) <= 4
    assert abs(box.left + box.side / 2 - middle[1]) <= 4
    assert SMALLEST <= box.side <= 1.5 * SMALLEST


def test_a_box_is_a_square_of_the_frame_at_least_a_third_of_it_and_at_most_its_shorter_side() -> None:
    rng = np.random.default_rng(0)
    for number in range(200):
        energy = np.zeros((48, 72), np.float32)
        for _ in range(number % 4 + 1):
            top, left, size = rng.integers(0, 44), rng.integers(0, 68), rng.integers(4, 48)
            energy[top : top + size, left : left + size] += 5 + 20 * rng.random()
        box = motion_box(energy, height=HEIGHT, width=WIDTH)
        if box is not None:
            assert SMALLEST <= box.side <= HEIGHT
            assert 0 <= box.top <= HEIGHT - box.side
            assert 0 <= box.left <= WIDTH - box.side


def test_a_box_holds_nine_tenths_of_the_energy_and_grows_with_what_moves() -> None:
    sides = []
    for size in (20, 30, 44, 60):
        energy = np.zeros((HEIGHT, WIDTH), np.float32)
        top, left = 48 - size // 2, 72 - size // 2
        energy[top : top + size, left : left + size] = 10
        box = motion_box(energy, height=HEIGHT, width=WIDTH)
        assert box is not None
        held = energy[box.top : box.top + box.side, box.left : box.left + box.side].sum()
        assert 0.8 <= held / energy.sum() <= 1  # of the what was not smoothed yet
        sides.append(box.side)
    assert sides[0] == SMALLEST
    assert sides == sorted(sides)
    assert sides[-1] > 50


def test_a_hot_pixel_however_hot_does_not_move_the_box() -> None:
    for frames in (frames_of_square((48, 72)), frames_of_square((48, 72), wall=True)):
        before = box_of(frames)
        blinking = frames.copy()
        blinking[::2, 5, 7] = 255
        blinking[1::2, 5, 7] = 0
        assert before is not None
        assert box_of(blinking) == before
    still = frames_of_square((48, 72))[:1].repeat(FRAMES + 1, axis=0)
    still[::2, 5, 7] = 255
    assert box_of(still) is None


@pytest.mark.parametrize("noise", [0, 3])
def test_frames_that_differ_by_noise_alone_have_no_box(noise: float) -> None:
    frames = frames_of_square((48, 72))[:1].repeat(FRAMES + 1, axis=0)
    noisy = frames + noise * np.random.default_rng(0).standard_normal(frames.shape)
    assert box_of(np.clip(noisy, 0, 255).astype(np.uint8)) is None


@pytest.mark.parametrize("pan", [1, 3])
def test_a_camera_that_pans_over_what_stands_still_is_no_motion(pan: int) -> None:
    first = frames_of_square((48, 72))[0]
    frames = np.stack([np.roll(first, -pan * number, axis=1) for number in range(FRAMES + 1)])
    assert box_of(frames[:, :, : WIDTH - pan * FRAMES]) is None


def test_two_frames_are_enough() -> None:
    box = box_of(frames_of_square((48, 72))[4:6])
    assert box is not None
    assert abs(box.top + box.side / 2 - 48) <= 4
    assert abs(box.left + box.side / 2 - 72) <= 4


def test_energy_is_between_a_frame_and_the_next_whatever_the_stride() -> None:
    frames = frames_of_square((48, 72), noise=3)
    every_third = np.array([0, 3, 6])
    pairs, needed = energy_frames(every_third)
    assert (pairs.tolist(), needed.tolist()) == ([0, 3, 6], [0, 1, 3, 4, 6, 7])
    alone = [motion_energy(frames[first : first + 2], np.array([0])) for first in every_third]
    np.testing.assert_allclose(motion_energy(frames[needed], pairs), np.mean(alone, axis=0), rtol=1e-5)


def test_energy_comes_from_sixteen_pairs_at_most_over_the_whole_clip_each_once() -> None:
    pairs, needed = energy_frames(np.arange(10, 74))
    assert len(pairs) == 16
    assert (pairs[0], pairs[-1]) == (10, 73)
    assert set(np.diff(pairs)) == {4, 5}
    assert needed.tolist() == sorted({*pairs, *(pairs + 1)})
    padded, _ = energy_frames(np.array([0, 0, 0, 0, 1, 2]))
    assert padded.tolist() == [0, 1, 2]


@pytest.mark.parametrize("factor", [0.5, 2, 3])
def test_a_box_is_that_part_of_the_picture_at_any_size_of_the_frames(factor: float) -> None:
    frames = frames_of_square((30, 40))
    box = box_of(frames)
    other = box_of(
        np.stack([cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) for frame in frames])
    )
    assert box is not None
    assert other is not None
    for mine, theirs in ((box.top, other.top), (box.left, other.left), (box.side, other.side)):
        assert abs(theirs / factor - mine) <= 5


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 4), (16, 9), (40, 300)])
def test_frames_of_any_size_will_do(size: tuple[int, int]) -> None:
    box = box_of(np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8))
    if box is not None:
        assert 0 <= box.top <= size[0] - box.side
        assert 0 <= box.left <= size[1] - box.side


# --- views of a box --------------------------------------------------------------------------------------------------


def test_a_jittered_box_stays_near_its_place_and_within_the_frame() -> None:
    box, rng = Box(40, 100, 40), np.random.default_rng(0)
    found = [jittered(box, height=HEIGHT, width=WIDTH, rng=rng) for _ in range(500)]
    sides = np.array([one.side for one in found])
    assert 32 == sides.min() < 36 < 44 < sides.max() == 50
    for one in found:
        assert 0 <= one.top <= HEIGHT - one.side
        assert 0 <= one.left <= WIDTH - one.side
        middle = one.top + one.side / 2, one.left + one.side / 2
        assert abs(middle[0] - 60) <= 5
        assert 114 <= middle[1] <= 125  # a large one is moved in from the edge
    assert len(set(found)) > 300


def test_a_box_that_is_the_whole_of_a_square_frame_only_shrinks() -> None:
    rng = np.random.default_rng(0)
    sides = [jittered(Box(0, 0, 64), height=64, width=64, rng=rng).side for _ in range(50)]
    assert max(sides) == 64
    assert min(sides) < 60


def test_a_view_of_a_box_is_the_view_of_a_frame_of_its_size_at_its_place() -> None:
    box = Box(30, 50, 40)
    for seed in range(20):
        draw = draw_view(Augmentation(), height=40, width=40, rng=np.random.default_rng(seed))
        moved = within(box, draw)
        assert (moved.top, moved.left) == (draw.top + 30, draw.left + 50)
        assert 30 <= moved.top <= 70 - moved.height
        assert 50 <= moved.left <= 90 - moved.width
    whole = within(box, center_view(height=40, width=40))
    assert (whole.top, whole.left, whole.height, whole.width) == (30, 50, 40, 40)
