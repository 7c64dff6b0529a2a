"""Which frames make a clip: never one that does not exist, and every one gets its turn."""

import doctest

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vicc.data import sampling
from vicc.data.sampling import clip_frame_indices, random_clips, sliding_windows

lengths = st.integers(1, 200)
clips = st.integers(1, 40)
strides = st.integers(1, 5)
seeds = st.integers(0, 2**32)


def test_the_examples_in_the_docstrings_are_true() -> None:
    result = doctest.testmod(sampling)
    assert result.attempted >= 2
    assert result.failed == 0


def span(clip_frames: int, stride: int) -> int:
    return (clip_frames - 1) * stride + 1


@given(lengths, clips, strides, st.integers(1, 4), st.sampled_from(["any", "far"]), seeds)
def test_a_random_clip_has_numbers_of_existing_frames_in_steps_of_the_stride(
    available: int, clip_frames: int, stride: int, num_views: int, distance: sampling.ViewDistance, seed: int
) -> None:
    numbers = random_clips(
        available,
        num_views=num_views,
        clip_frames=clip_frames,
        stride=stride,
        distance=distance,
        rng=np.random.default_rng(seed),
    )
    assert numbers.shape == (num_views, clip_frames)
    assert numbers.min() >= 0
    assert numbers.max() < available
    if available >= span(clip_frames, stride):
        assert (np.diff(numbers, axis=1) == stride).all()


@given(st.integers(1, 60), clips, strides)
def test_a_short_video_is_whole_at_the_end_and_padded_with_its_first_frame(
    available: int, clip_frames: int, stride: int
) -> None:
    numbers = clip_frame_indices(0, available=available, clip_frames=clip_frames, stride=stride)
    assert len(numbers) == clip_frames
    if available < span(clip_frames, stride):
        assert 0 <= available - 1 - numbers[-1] < stride  # no further frame of this stride
        inside = numbers[numbers > 0]
        assert (numbers[: clip_frames - len(inside)] == 0).all()
        assert (np.diff(inside) == stride).all()


@given(st.integers(40, 200), st.integers(1, 8), st.integers(1, 3), seeds)
def test_far_views_come_from_the_first_and_the_last_third(
    available: int, clip_frames: int, stride: int, seed: int
) -> None:
    starts = random_clips(
        available,
        num_views=2,
        clip_frames=clip_frames,
        stride=stride,
        distance="far",
        rng=np.random.default_rng(seed),
    )[:, 0]
    last = available - span(clip_frames, stride)
    assert min(starts) <= last / 3 + 0.5
    assert max(starts) >= last * 2 / 3 - 0.5


def draw_starts(distance: sampling.ViewDistance, *, available: int = 30, count: int = 2000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack(
        [
            random_clips(available, num_views=2, clip_frames=8, stride=1, distance=distance, rng=rng)[:, 0]
            for _ in range(count)
        ]
    )


def test_far_views_come_in_either_order_equally_often() -> None:
    starts = draw_starts("far")
    assert 0.45 < (starts[:, 0] < starts[:, 1]).mean() < 0.55


def test_every_start_is_drawn_the_first_and_the_last_too() -> None:
    counts = np.bincount(draw_starts("any").ravel(), minlength=23)
    assert len(counts) == 23
    assert counts.min() > 0.6 * counts.mean()
    far = draw_starts("far")
    assert far.min() == 0
    assert far.max() == 22


@given(lengths, clips, strides, st.integers(1, 50))
def test_windows_cover_the_video(available: int, clip_frames: int, stride: int, step: int) -> None:
    windows = sliding_windows(available, clip_frames=clip_frames, stride=stride, step=step)
    assert windows.shape[1] == clip_frames
    assert windows.min() == 0
    assert windows.max() < available
    room = available - clip_frames * stride
    if room < 0:
        assert len(windows) == 1
        assert windows.max() == min(stride * (clip_frames - 1), (available - 1) // stride * stride)
    else:
        np.testing.assert_array_equal(windows[:, 0], np.arange(0, room + 1, step))
        # Less than a step of frames at the end is not looked at (those behind a window's last frame are its own), and
        # none in between when windows overlap.
        assert available - stride - windows.max() < step
        if stride == 1 and step <= clip_frames:
            np.testing.assert_array_equal(np.unique(windows), np.arange(windows.max() + 1))


def test_windows_are_those_of_the_paper() -> None:
    """Length 32, step 15 (section 4): a video of 63 frames has starts 0, 15, 30."""
    assert sliding_windows(62, clip_frames=32, stride=1, step=15)[:, 0].tolist() == [0, 15, 30]
