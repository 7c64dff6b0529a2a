"""Hand-made baselines, on flow whose answer is known."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vicc.evaluation.baselines import motion_histogram
from vicc.video.flow import quantize_flow

BOUND = 20.0
STILL = 0


def histogram(flow: np.ndarray) -> np.ndarray:
    """Of flow in pixels, (T, H, W, 2); cells as shares again."""
    stored = quantize_flow(flow, bound=BOUND)
    reader: Any = SimpleNamespace(
        settings=SimpleNamespace(flow_bound=BOUND), frames=lambda video, stream, numbers: stored[numbers]
    )
    video: Any = SimpleNamespace(id="a", num_frames=len(flow) + 1)
    return motion_histogram(reader, video) ** 2


def moving(u: float, v: float) -> np.ndarray:
    return np.full((3, 4, 6, 2), (u, v))


@pytest.mark.parametrize("speed", [0.4, 0.7, 1.5, 3.0, 6.0, 12.0])
def test_each_speed_and_direction_has_a_cell_of_its_own(speed: float) -> None:
    angles = np.arange(8) * np.pi / 4
    cells = {int(histogram(moving(speed * np.cos(a), speed * np.sin(a))).argmax()) for a in angles}
    others = {int(histogram(moving(2.01 * speed * np.cos(a), 2.01 * speed * np.sin(a))).argmax()) for a in angles}
    assert len(cells) == 8
    assert STILL not in cells
    assert speed == 12.0 or cells.isdisjoint(others)


def test_almost_the_same_direction_is_one_cell_also_where_angles_wrap() -> None:
    up, down = histogram(moving(-3, 0.3)), histogram(moving(-3, -0.3))
    assert up.argmax() == down.argmax()
    assert up.max() == 1


def test_shares_are_those_of_pixels_wherever_and_whenever_they_are() -> None:
    flow = np.zeros((4, 4, 5, 2))
    flow[1, :2] = (3, 0)  # 10 of 80 pixels
    flow[3, 3] = (0, -1.5)  # 5 of 80
    found = histogram(flow)
    assert found[STILL] == pytest.approx(65 / 80)
    assert sorted(found[found > 0]) == pytest.approx([5 / 80, 10 / 80, 65 / 80])
    assert histogram(flow[::-1, ::-1, ::-1]) == pytest.approx(found)
