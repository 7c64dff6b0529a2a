"""Flow as encoders take it: every stored value against plain floating-point arithmetic."""

from typing import Any

import numpy as np
import pytest

from vicc.errors import ViccError
from vicc.transforms.flow_form import FlowForm
from vicc.video.flow import quantize_flow

EVERY_PAIR = np.stack(np.meshgrid(np.arange(256), np.arange(256)), axis=-1).astype(np.uint8)[None]  # (1, 256, 256, 2)


def reference(value: int, *, store_bound: float, factor: float, bound: float, published: bool) -> float:
    """One stored value, step by step as the docstrings say it, not yet rounded."""
    pixels = (value - 128) * store_bound / 127 * factor
    pixels = min(max(pixels, -bound), bound)
    return 127.5 + 127.5 * pixels / bound if published else 128 + 127 * pixels / bound


@pytest.mark.parametrize(
    ("store_bound", "short_side", "bound"),
    [(20.0, None, 20.0), (20.0, 240, 20.0), (7.5, 240, 20.0), (20.0, 96, 5.0), (10.0, None, 20.0)],
)
@pytest.mark.parametrize("channels", ["uv", "128vu"])
def test_every_stored_value_becomes_what_plain_arithmetic_says(
    channels: Any, store_bound: float, short_side: int | None, bound: float
) -> None:
    form = FlowForm(channels, bound, short_side)
    converted = form.convert(EVERY_PAIR, bound=store_bound, short_side=128)
    factor = 1.0 if short_side is None else short_side / 128
    expected = np.array(
        [
            reference(value, store_bound=store_bound, factor=factor, bound=bound, published=channels == "128vu")
            for value in range(256)
        ]
    )
    if channels == "uv" and factor * store_bound == bound:
        expected[0] = 0  # a value no store holds; nothing at all is done to the others
    u, v = expected[EVERY_PAIR[..., 0]], expected[EVERY_PAIR[..., 1]]
    layout = [u, v] if channels == "uv" else [np.full_like(u, 128.0), v, u]
    assert np.abs(converted - np.stack(layout, axis=-1)).max() <= 0.5 + 1e-9
    assert converted.dtype == np.uint8
    assert converted.shape[-1] == form.num_channels


def test_the_published_image_agrees_with_one_made_from_the_flow_itself() -> None:
    """Stored flow is rounded once more than published flow: at most one step apart."""
    rng = np.random.default_rng(0)
    flow = rng.normal(0, 8, (2, 40, 50, 2))
    direct = np.rint(127.5 + 127.5 * np.clip(flow, -20, 20) / 20)[..., ::-1]
    ours = FlowForm("128vu").convert(quantize_flow(flow, bound=20), bound=20, short_side=40)[..., 1:]
    assert np.abs(ours - direct).max() <= 1
    assert np.abs(ours - direct).mean() < 0.5


def test_no_motion_is_the_middle_in_every_form() -> None:
    still = np.full((1, 4, 4, 2), 128, np.uint8)
    for form in (FlowForm(), FlowForm(bound=3.0, short_side=50), FlowForm("128vu"), FlowForm("128vu", 3.0, 50)):
        assert (form.convert(still, bound=20, short_side=4) == 128).all()


def test_the_stored_form_is_given_back_untouched() -> None:
    assert FlowForm().convert(EVERY_PAIR, bound=20.0, short_side=128) is EVERY_PAIR
    assert FlowForm(short_side=128).convert(EVERY_PAIR, bound=20.0, short_side=128) is EVERY_PAIR
    assert FlowForm(bound=10.0).convert(EVERY_PAIR, bound=20.0, short_side=128) is not EVERY_PAIR


@pytest.mark.parametrize("wrong", [{"bound": 0.0}, {"bound": float("nan")}, {"short_side": 0}], ids=str)
def test_an_impossible_form_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ViccError, match=f"flow_{next(iter(wrong))} is"):
        FlowForm(**wrong)
