"""Flow: a known motion comes out with its size, its sign and its axes; the 8-bit form is exact where it says so."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicc.video.flow import FlowName, create_flow, dequantize_flow, quantize_flow

SHIFTS = [(3, 0), (-3, 0), (0, 2), (0, -2), (2, -1)]


def shifted_pair(right: int, down: int, size: tuple[int, int] = (64, 80)) -> tuple[np.ndarray, np.ndarray]:
    """A smooth grey texture, and the same moved to the right and down by whole pixels."""
    height, width = size
    canvas = np.random.default_rng(0).integers(0, 256, (height + 20, width + 20)).astype(np.uint8)
    canvas = cv2.normalize(cv2.GaussianBlur(canvas, (0, 0), 2.0), None, 0, 255, cv2.NORM_MINMAX)
    first = canvas[10 : 10 + height, 10 : 10 + width]
    second = canvas[10 - down : 10 - down + height, 10 - right : 10 - right + width]
    return np.ascontiguousarray(first), np.ascontiguousarray(second)


@pytest.mark.parametrize("name", ["dis", "tvl1"])
@pytest.mark.parametrize(("right", "down"), SHIFTS)
def test_a_known_shift_is_recovered_with_u_to_the_right_and_v_downwards(name: FlowName, right: int, down: int) -> None:
    flow = create_flow(name)(*shifted_pair(right, down))
    assert flow.shape == (64, 80, 2)
    assert flow.dtype == np.float32
    inner = np.median(flow[10:-10, 10:-10], axis=(0, 1))
    np.testing.assert_allclose(inner, (right, down), atol=0.15)


@pytest.mark.parametrize("name", ["dis", "tvl1"])
def test_nothing_moves_where_nothing_moves(name: FlowName) -> None:
    first, _ = shifted_pair(0, 0)
    assert np.abs(create_flow(name)(first, first)).max() < 0.05


@pytest.mark.parametrize("name", ["dis", "tvl1"])
def test_one_function_serves_many_pairs_without_memory_of_the_last(name: FlowName) -> None:
    flow = create_flow(name)
    alone = flow(*shifted_pair(2, -1))
    flow(*shifted_pair(-3, 0))
    np.testing.assert_array_equal(flow(*shifted_pair(2, -1)), alone)


@pytest.mark.parametrize("size", [(2, 2), (7, 30), (30, 7), (8, 8), (16, 16)])
def test_dis_takes_frames_smaller_than_its_patches(size: tuple[int, int]) -> None:
    flow = create_flow("dis")(*shifted_pair(0, 0, size))
    assert flow.shape == (*size, 2)
    assert np.isfinite(flow).all()


@pytest.mark.parametrize("size", [(2, 2), (16, 16)])
def test_tvl1_takes_small_frames(size: tuple[int, int]) -> None:
    flow = create_flow("tvl1")(*shifted_pair(0, 0, size))
    assert flow.shape == (*size, 2)
    assert np.isfinite(flow).all()


def test_dis_takes_frames_that_are_not_contiguous() -> None:
    first, second = shifted_pair(3, 0)
    wide = np.zeros((64, 160), np.uint8)
    wide[:, ::2] = second
    np.testing.assert_array_equal(create_flow("dis")(first, wide[:, ::2]), create_flow("dis")(first, second))


bounds = st.floats(0.5, 200)
shares = st.lists(st.floats(-1, 1), min_size=2, max_size=20)


@given(bounds, shares)
def test_quantisation_is_off_by_at_most_half_a_step_within_the_bound(bound: float, values: list[float]) -> None:
    flow = np.array(values, np.float32) * np.float32(bound)
    back = dequantize_flow(quantize_flow(flow, bound=bound), bound=bound)
    assert np.abs(back - flow).max() <= bound / 127 * 0.501


@given(bounds)
def test_no_motion_is_exact(bound: float) -> None:
    stored = quantize_flow(np.zeros((2, 2), np.float32), bound=bound)
    assert (stored == 128).all()
    assert (dequantize_flow(stored, bound=bound) == 0).all()


@given(bounds, shares)
def test_the_negative_flow_is_stored_as_256_minus_the_stored(bound: float, values: list[float]) -> None:
    flow = np.array(values, np.float32) * np.float32(bound)
    stored = quantize_flow(flow, bound=bound).astype(int)
    np.testing.assert_array_equal(quantize_flow(-flow, bound=bound), 256 - stored)


@given(bounds, st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=20))
def test_larger_motion_is_clipped_and_keeps_its_sign(bound: float, values: list[float]) -> None:
    flow = np.array(values, np.float32)
    stored = quantize_flow(flow, bound=bound).astype(int)
    assert stored.min() >= 1
    assert stored.max() <= 255
    back = dequantize_flow(stored, bound=bound)
    np.testing.assert_allclose(back, np.clip(flow, -bound, bound), atol=bound / 127)
    assert (back * flow >= 0).all()


def test_every_stored_value_survives_a_round_trip() -> None:
    stored = np.arange(1, 256, dtype=np.uint8)
    for bound in (1.0, 20.0, 37.5):
        np.testing.assert_array_equal(quantize_flow(dequantize_flow(stored, bound=bound), bound=bound), stored)
