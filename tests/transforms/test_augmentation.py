"""Views: one draw for all frames and streams, colours as a slow and plain reference has them, flow that stays true."""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import moving_frames
from vicc.errors import ViccError
from vicc.transforms.augmentation import (
    Augmentation,
    ViewDraw,
    apply_to_flow,
    apply_to_rgb,
    center_view,
    draw_view,
    evaluation_views,
)

BOUND = 20.0
SIZE = 24
GREY = np.array([0.299, 0.587, 0.114])


def whole(frame_height: int, frame_width: int, /, **changes: Any) -> ViewDraw:
    """The draw that changes nothing."""
    return replace(ViewDraw(0, 0, frame_height, frame_width, False, None, 1.0, 0.0, 0.0, 1.0, (0.0, 0.0)), **changes)


def clip(seed: int = 0, num_frames: int = 4, size: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    return moving_frames(num_frames, size, seed=seed)


def flow_clip(seed: int = 0, size: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    """Stored flow: smooth, values 1 to 255."""
    return np.maximum(moving_frames(4, size, seed=seed)[..., :2], 1)


def rgb(frames: np.ndarray, **changes: Any) -> np.ndarray:
    return apply_to_rgb(frames, whole(*frames.shape[1:3], **changes), size=SIZE)


def flow(stored: np.ndarray, *, center: bool = False, **changes: Any) -> np.ndarray:
    return apply_to_flow(stored, whole(*stored.shape[1:3], **changes), size=SIZE, bound=BOUND, center=center)


class Fixed(np.random.Generator):
    """A generator whose `uniform(-1, 1)` gives the numbers prescribed, one after the other, and then 0."""

    def __init__(self, *numbers: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.numbers = list(numbers)

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        if (low, high) != (-1, 1):
            return super().uniform(low, high, size)
        return self.numbers.pop(0) if self.numbers else 0.0


def color_draw(brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0) -> dict[str, Any]:
    """The fields of a draw with these factors, as the module itself makes them."""
    asked = Augmentation(jitter=1, grey=0, blur=0, flip=0, hue=0, brightness=1, contrast=1, saturation=1)
    rng = Fixed(brightness - 1, contrast - 1, saturation - 1)
    draw = draw_view(asked, height=SIZE, width=SIZE, rng=rng)
    return {"color": draw.color, "contrast": draw.contrast, "hue": draw.hue}


# --- no change -------------------------------------------------------------------------------------------------------


def test_a_view_without_changes_of_its_own_size_is_the_clip() -> None:
    np.testing.assert_array_equal(rgb(clip()), clip())
    np.testing.assert_array_equal(flow(flow_clip()), flow_clip())


@pytest.mark.parametrize("size", [(48, 60), (18, 20), (24, 90), (100, 120)])
def test_a_view_without_changes_is_the_resized_clip(size: tuple[int, int]) -> None:
    frames = clip(size=size)
    interpolation = cv2.INTER_AREA if min(size) > 2 * SIZE else cv2.INTER_LINEAR
    expected = np.stack([cv2.resize(frame, (SIZE, SIZE), interpolation=interpolation) for frame in frames])
    np.testing.assert_array_equal(rgb(frames), expected)


def test_settings_of_zero_draw_a_view_that_changes_nothing_but_crop_and_size() -> None:
    nothing = Augmentation(flip=0, jitter=0, grey=0, blur=0)
    for seed in range(20):
        draw = draw_view(nothing, height=40, width=48, rng=np.random.default_rng(seed))
        assert draw == whole(draw.height, draw.width, top=draw.top, left=draw.left)
    zero_strength = Augmentation(flip=0, jitter=1, brightness=0, contrast=0, saturation=0, hue=0, grey=0, blur=0)
    draw = draw_view(zero_strength, height=40, width=48, rng=np.random.default_rng(0))
    assert draw == whole(draw.height, draw.width, top=draw.top, left=draw.left)


def test_the_input_is_left_as_it_was() -> None:
    frames, stored = clip(), flow_clip()
    before = frames.copy(), stored.copy()
    draw = draw_view(
        Augmentation(flip=1, jitter=1, blur=1, flow_gain=0.5, flow_offset=1), height=SIZE, width=SIZE,
        rng=np.random.default_rng(1),
    )  # fmt: skip
    apply_to_rgb(frames, draw, size=SIZE)
    apply_to_flow(stored, draw, size=SIZE, bound=BOUND, center=True)
    np.testing.assert_array_equal(frames, before[0])
    np.testing.assert_array_equal(stored, before[1])


@given(st.integers(0, 2**32), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_clip_that_stands_still_stays_still(seed: int, center: bool) -> None:
    """One draw serves all frames: nothing flickers."""
    draw = draw_view(
        Augmentation(jitter=1, blur=1, flow_gain=0.4, flow_offset=0.6), height=40, width=48,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    still = np.repeat(clip(size=(40, 48))[:1], 5, axis=0)
    view = apply_to_rgb(still, draw, size=SIZE)
    assert (view == view[0]).all()
    still_flow = np.repeat(flow_clip(size=(40, 48))[:1], 5, axis=0)
    view = apply_to_flow(still_flow, draw, size=SIZE, bound=BOUND, center=center)
    assert (view == view[0]).all()


def test_frames_of_a_clip_do_not_change_each_other_but_through_contrast() -> None:
    frames = clip()
    changes = {**color_draw(1.2, 1.0, 0.7), "hue": 0.1, "blur_sigma": 1.0, "flip": True}
    together = rgb(frames, **changes)
    alone = np.concatenate([rgb(frames[number : number + 1], **changes) for number in range(len(frames))])
    np.testing.assert_array_equal(together, alone)


# --- crop and flip ---------------------------------------------------------------------------------------------------


@given(
    st.integers(8, 400),
    st.integers(8, 400),
    st.floats(0.05, 1.0),
    st.floats(0.05, 1.0),
    st.integers(0, 2**32),
)
def test_a_crop_lies_in_the_frame_and_has_the_area_and_the_ratio_asked_for(
    height: int, width: int, one: float, other: float, seed: int
) -> None:
    smallest, largest = sorted((one, other))
    asked = Augmentation(crop_area=(smallest, largest))
    draw = draw_view(asked, height=height, width=width, rng=np.random.default_rng(seed))
    assert 0 <= draw.top <= draw.top + draw.height <= height
    assert 0 <= draw.left <= draw.left + draw.width <= width
    assert draw.height >= 1
    assert draw.width >= 1
    # To within the rounding to whole pixels on either side.
    assert draw.width - 1 <= (draw.height + 1) * 4 / 3
    assert draw.width + 1 >= (draw.height - 1) * 3 / 4
    # Where no drawn crop fits, the largest centred one of a legal ratio takes its place.
    centred = center_view(height=height, width=width)
    if (draw.top, draw.left, draw.height, draw.width) != (centred.top, centred.left, centred.height, centred.width):
        assert (draw.height - 1) * (draw.width - 1) <= largest * height * width
        assert (draw.height + 1) * (draw.width + 1) >= smallest * height * width * 9 / 16


def test_crops_are_spread_over_area_ratio_and_place() -> None:
    rng = np.random.default_rng(0)
    draws = [draw_view(Augmentation(), height=120, width=160, rng=rng) for _ in range(3000)]
    areas = np.array([draw.height * draw.width for draw in draws]) / (120 * 160)
    assert 0.19 < areas.min() < 0.22
    assert areas.max() > 0.9
    # Uniform from 0.2 to 1 has a mean of 0.6; large crops often do not fit and are drawn anew.
    assert 0.45 < areas.mean() < 0.61
    ratios = np.log([draw.width / draw.height for draw in draws])
    assert abs(np.median(ratios)) < 0.08
    centers = np.array([(draw.top + draw.height / 2, draw.left + draw.width / 2) for draw in draws])
    np.testing.assert_allclose(centers.mean(axis=0), (60, 80), atol=2)
    corner = [(draw.top, draw.left) == (0, 0) for draw in draws]
    assert 0 < sum(corner) < 300


@pytest.mark.parametrize("size", [(30, 300), (300, 30), (1, 50), (50, 1), (1, 1)])
def test_a_frame_that_fits_no_ratio_is_cropped_in_its_centre(size: tuple[int, int]) -> None:
    height, width = size
    draw = draw_view(Augmentation(crop_area=(1, 1)), height=height, width=width, rng=np.random.default_rng(0))
    assert abs(2 * draw.top + draw.height - height) <= 1
    assert abs(2 * draw.left + draw.width - width) <= 1
    assert min(draw.height, draw.width) == min(size)


@given(st.integers(8, 400), st.integers(8, 400))
def test_the_evaluation_view_is_the_largest_centred_crop_of_a_legal_ratio(height: int, width: int) -> None:
    draw = center_view(height=height, width=width)
    assert draw.height == height or draw.width == width
    assert abs(2 * draw.top + draw.height - height) <= 1
    assert abs(2 * draw.left + draw.width - width) <= 1
    assert 3 / 4 - 1 / draw.height <= draw.width / draw.height <= 4 / 3 + 1 / draw.height
    assert draw == whole(draw.height, draw.width, top=draw.top, left=draw.left)


def test_the_published_five_crops_of_320_x_240_are_the_centre_and_the_corners_of_224() -> None:
    places = [(view.top, view.left) for view in evaluation_views(height=240, width=320, crops="five")]
    assert places == [(8, 48), (0, 0), (0, 96), (16, 0), (16, 96)]
    assert {(view.height, view.width) for view in evaluation_views(height=240, width=320, crops="five")} == {(224, 224)}


@pytest.mark.parametrize("size", [(240, 320), (128, 171), (90, 24), (1, 1), (31, 31)])
def test_test_crops_are_equal_squares_within_the_frame_and_the_ten_are_the_five_and_their_mirror_images(
    size: tuple[int, int],
) -> None:
    five, ten = (evaluation_views(height=size[0], width=size[1], crops=crops) for crops in ("five", "ten"))
    assert ten == (*five, *(replace(view, flip=True) for view in five))
    assert evaluation_views(height=size[0], width=size[1], crops="center") == five[:1]
    assert evaluation_views(height=size[0], width=size[1]) == (center_view(height=size[0], width=size[1]),)
    for view in five:
        assert view.height == view.width == round(min(size) * 224 / 240)
        assert 0 <= view.top <= size[0] - view.height
        assert 0 <= view.left <= size[1] - view.width


@pytest.mark.parametrize("flow_as_image", [False, True])
def test_a_mirrored_test_crop_of_flow_negates_u_unless_flow_is_an_image(flow_as_image: bool) -> None:
    stored = flow_clip()
    views = evaluation_views(height=SIZE, width=SIZE, crops="ten", flow_as_image=flow_as_image)
    plain, mirrored = (
        apply_to_flow(stored, view, size=SIZE, bound=BOUND, center=False).astype(int) for view in (views[0], views[5])
    )
    u = plain[:, :, ::-1, 0]
    np.testing.assert_array_equal(mirrored[..., 0], u if flow_as_image else np.minimum(256 - u, 255))
    np.testing.assert_array_equal(mirrored[..., 1], plain[:, :, ::-1, 1])


def test_a_crop_cuts_out_its_own_place_in_both_streams() -> None:
    frames, stored = clip(size=(40, 48)), flow_clip(size=(40, 48))
    place = {"top": 5, "left": 11, "height": SIZE, "width": SIZE}
    np.testing.assert_array_equal(rgb(frames, **place), frames[:, 5:29, 11:35])
    np.testing.assert_array_equal(flow(stored, **place), stored[:, 5:29, 11:35])


def test_a_flip_mirrors_rgb() -> None:
    np.testing.assert_array_equal(rgb(clip(), flip=True), clip()[:, :, ::-1])


def test_a_flip_of_flow_mirrors_it_and_negates_u_exactly() -> None:
    stored = flow_clip()
    view = flow(stored, flip=True).astype(int)
    mirrored = stored[:, :, ::-1].astype(int)
    np.testing.assert_array_equal(view[..., 0] - 128, -(mirrored[..., 0] - 128))
    np.testing.assert_array_equal(view[..., 1], mirrored[..., 1])
    np.testing.assert_array_equal(flow(flow(stored, flip=True), flip=True), stored)


def test_a_flip_of_every_stored_value_is_its_negative_the_impossible_zero_included() -> None:
    stored = np.tile(np.arange(256, dtype=np.uint8)[: SIZE * SIZE].repeat(3)[: SIZE * SIZE], (1, 2, 1))
    stored = np.moveaxis(stored.reshape(1, 2, SIZE, SIZE), 1, -1)
    u = flow(np.ascontiguousarray(stored), flip=True)[..., ::-1, 0].astype(int)
    np.testing.assert_array_equal(u, np.minimum(256 - stored[..., 0].astype(int), 255))


# --- colour ----------------------------------------------------------------------------------------------------------


def reference_jitter(frames: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Saturation, then brightness, then contrast, on floats, step by step as one would write it on paper."""
    values = frames.astype(np.float64)
    grey = (values * GREY).sum(axis=-1, keepdims=True)
    values = saturation * values + (1 - saturation) * grey
    values = brightness * values
    mean = (values * GREY).sum(axis=-1).mean()
    values = contrast * values + (1 - contrast) * mean
    return np.clip(np.rint(values), 0, 255)


@pytest.mark.parametrize(
    "factors",
    [(1.4, 1.0, 1.0), (0.6, 1.0, 1.0), (1.0, 1.4, 1.0), (1.0, 0.6, 1.0), (1.0, 1.0, 1.4), (1.0, 1.0, 0.0),
     (1.3, 0.7, 0.5), (0.7, 1.4, 1.3)],
)  # fmt: skip
def test_brightness_contrast_and_saturation_agree_with_a_plain_reference(factors: tuple[float, float, float]) -> None:
    frames = clip()
    view = rgb(frames, **color_draw(*factors))
    assert np.abs(view - reference_jitter(frames, *factors)).max() <= 1


def test_contrast_keeps_the_mean_grey_and_scales_the_deviations() -> None:
    frames = (clip() // 3 + 80).astype(np.uint8)  # far from black and white, so that nothing is clipped
    view = rgb(frames, **color_draw(contrast=0.5)).astype(float)
    assert abs((view @ GREY).mean() - (frames @ GREY).mean()) < 0.6
    assert abs(view.std() / frames.std() - 0.5) < 0.05


def test_grey_gives_equal_channels_whatever_the_jitter() -> None:
    for seed in range(10):
        asked = Augmentation(grey=1, jitter=1, blur=seed % 2, hue=0.5)
        draw = draw_view(asked, height=SIZE, width=SIZE, rng=np.random.default_rng(seed))
        view = apply_to_rgb(clip(), draw, size=SIZE).astype(int)
        assert np.ptp(view, axis=-1).max() <= 1
        assert view.std() > 1


def test_grey_alone_is_the_grey_of_bt601() -> None:
    asked = Augmentation(grey=1, jitter=0, blur=0, flip=0, crop_area=(1, 1), crop_ratio=(1, 1))
    draw = draw_view(asked, height=SIZE, width=SIZE, rng=np.random.default_rng(0))
    view = apply_to_rgb(clip(), draw, size=SIZE)
    assert np.abs(view - (clip() @ GREY)[..., None]).max() <= 1


@pytest.mark.parametrize("hue", [0.0, 1e-9, 1.0, -1.0])
def test_a_hue_shift_of_nothing_or_of_the_full_circle_changes_next_to_nothing(hue: float) -> None:
    error = np.abs(rgb(clip(), hue=hue).astype(int) - clip())
    assert error.mean() < 1.5
    assert error.max() <= 8  # of the way to HSV in 8 bits and back


def test_a_third_of_the_circle_turns_red_to_green_to_blue() -> None:
    red, green, blue = (np.full((1, SIZE, SIZE, 3), 255 * np.eye(3, dtype=np.uint8)[channel]) for channel in range(3))
    for before, after in ((red, green), (green, blue), (blue, red)):
        assert np.abs(rgb(before, hue=1 / 3).astype(int) - after).max() <= 6
        assert np.abs(rgb(after, hue=-1 / 3).astype(int) - before).max() <= 6


def test_a_hue_shift_leaves_grey_alone() -> None:
    grey = np.repeat(clip()[..., :1], 3, axis=-1)
    np.testing.assert_array_equal(rgb(grey, hue=0.3), grey)


@pytest.mark.parametrize("sigma", [0.1, 0.4, 0.7, 1.5, 2.0])
def test_blur_is_opencvs_gaussian_with_the_sigma_drawn(sigma: float) -> None:
    expected = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in clip()])
    np.testing.assert_allclose(rgb(clip(), blur_sigma=sigma), expected.astype(int), atol=1)  # it rounds otherwise


def test_draws_have_the_probabilities_and_strengths_asked_for() -> None:
    asked = Augmentation(flip=0.3, blur=0.2, hue=0.1, jitter=0.6, flow_gain=0.4, flow_offset=0.6)
    rng = np.random.default_rng(0)
    draws = [draw_view(asked, height=40, width=48, rng=rng) for _ in range(3000)]
    assert abs(np.mean([draw.flip for draw in draws]) - 0.3) < 0.04
    assert abs(np.mean([draw.blur_sigma > 0 for draw in draws]) - 0.2) < 0.04
    jittered = [draw for draw in draws if draw.contrast != 1]
    assert abs(len(jittered) / 3000 - 0.6) < 0.04
    contrasts = np.array([draw.contrast for draw in jittered])
    assert 0.6 <= contrasts.min() < 0.62
    assert 1.38 < contrasts.max() <= 1.4
    assert max(abs(draw.hue) for draw in draws) <= 0.1
    sigmas = [draw.blur_sigma for draw in draws if draw.blur_sigma]
    assert 0.1 <= min(sigmas) < max(sigmas) <= 2
    gains = np.array([draw.flow_gain for draw in draws])
    assert 0.6 <= gains.min() < 0.62
    assert 1.38 < gains.max() <= 1.4
    offsets = np.array([draw.flow_offset for draw in draws])
    np.testing.assert_allclose(offsets.std(axis=0), 0.6, atol=0.03)
    np.testing.assert_allclose(offsets.mean(axis=0), 0, atol=0.05)
    assert abs(np.corrcoef(offsets.T)[0, 1]) < 0.06


# --- flow ------------------------------------------------------------------------------------------------------------


def test_flow_values_are_not_rescaled_by_a_resize() -> None:
    stored = np.full((2, 60, 80, 2), (150, 100), np.uint8)
    assert (flow(stored) == (150, 100)).all()


def test_centring_removes_a_constant_exactly() -> None:
    for constant in ((150, 100), (128, 128), (1, 255)):
        stored = np.full((3, 30, 30, 2), constant, np.uint8)
        assert (flow(stored, center=True) == 128).all()


def test_centring_removes_the_motion_of_the_camera_and_keeps_that_of_an_object() -> None:
    stored = np.full((1, SIZE, SIZE, 2), (150, 100), np.uint8)
    stored[:, 8:14, 8:14] = (170, 128)
    view = flow(stored, center=True)
    expected = np.full_like(stored, 128)
    expected[:, 8:14, 8:14] = (148, 156)
    np.testing.assert_array_equal(view, expected)


def test_centring_is_done_frame_by_frame_and_on_the_whole_frame_not_the_crop() -> None:
    stored = np.full((2, 48, 48, 2), 128, np.uint8)
    stored[0], stored[1] = (150, 128), (128, 90)
    stored[:, 24:, 24:] = 200  # a quarter: not the median
    view = flow(stored, center=True, top=24, left=24, height=SIZE, width=SIZE)
    assert (view[0] == (200 - 22, 200)).all()
    assert (view[1] == (200, 200 + 38)).all()


@pytest.mark.parametrize("flip", [False, True])
def test_centring_commutes_with_a_flip(flip: bool) -> None:
    stored = flow_clip(3) // 2 + 64
    centred = flow(stored, center=True, flip=flip)
    by_hand = flow(flow(stored, center=True), flip=flip)
    np.testing.assert_array_equal(centred, by_hand)


@pytest.mark.parametrize("gain", [0.5, 1.4])
def test_a_gain_multiplies_the_motion(gain: float) -> None:
    stored = flow_clip(1)
    expected = np.clip(np.rint((stored.astype(float) - 128) * gain) + 128, 0, 255)
    assert np.abs(flow(stored, flow_gain=gain) - expected).max() <= 1


def test_an_offset_adds_pixels_per_frame_u_first_after_the_flip() -> None:
    stored = np.full((2, SIZE, SIZE, 2), 128, np.uint8)
    steps = 127 / BOUND  # stored steps a pixel
    for flip in (False, True):
        for u, v in ((2.0, -1.0), (15.0, -18.0)):
            view = flow(stored, flow_offset=(u, v), flip=flip)
            assert (view == np.rint([128 + u * steps, 128 + v * steps])).all()


def test_gain_applies_to_offset_and_motion_alike() -> None:
    stored = np.full((1, SIZE, SIZE, 2), 148, np.uint8)
    view = flow(stored, flow_offset=(1.0, 0.0), flow_gain=0.5)
    assert (view == np.rint([128 + (20 + 127 / BOUND) * 0.5, 138])).all()


def test_flow_beyond_the_range_is_clipped_and_does_not_wrap_around() -> None:
    stored = np.full((1, SIZE, SIZE, 2), (250, 5), np.uint8)
    view = flow(stored, flow_gain=1.4, flow_offset=(20.0, -20.0))
    assert (view == (255, 0)).all() or (view == (255, 1)).all()


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flip", "jitter", "grey", "blur"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused_by_name_and_value(name: str, value: float) -> None:
    with pytest.raises(ViccError, match=rf"augmentation\.{name} is {value}; expected a probability"):
        Augmentation(**{name: value})


@pytest.mark.parametrize("area", [(0.0, 1.0), (0.5, 0.2), (0.5, 1.5), (-1.0, 1.0)])
def test_an_impossible_crop_is_refused(area: tuple[float, float]) -> None:
    with pytest.raises(ViccError, match="crop_area is"):
        Augmentation(crop_area=area)


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop_ratio": (0.0, 1.0)},
        {"crop_ratio": (2.0, 1.0)},
        {"blur_sigma": (0.0, 1.0)},
        {"blur_sigma": (2.0, 1.0)},
        {"brightness": -0.1},
        {"contrast": 1.5},
        {"hue": -1.0},
        {"hue": 0.7},
        {"flow_gain": -1.0},
        {"flow_offset": -1.0},
    ],
    ids=str,
)
def test_other_impossible_settings_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ViccError, match=f"augmentation.{next(iter(wrong))} is"):
        Augmentation(**wrong)
