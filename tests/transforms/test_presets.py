"""The published augmentation: its distribution as described, and its pixels beside those of PIL, frame by frame."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from tests.conftest import moving_frames
from vicc.errors import ViccError
from vicc.recipes import create_recipe
from vicc.transforms.augmentation import (
    PRESETS,
    Augmentation,
    ViewDraw,
    apply_to_flow,
    apply_to_flow_image,
    apply_to_rgb,
    draw_sample,
    draw_view,
)
from vicc.transforms.flow_form import FlowForm

PUBLISHED = PRESETS["published"]
DRAWS = 4000
# Three standard deviations of a share of one half among so many draws.
NEAR = 3 * 0.5 / DRAWS**0.5


def views(settings: Augmentation, number: int = DRAWS, *, size: tuple[int, int] = (240, 320), **options: Any) -> Any:
    rng = np.random.default_rng(0)
    return [draw_view(settings, height=size[0], width=size[1], rng=rng, **options) for _ in range(number)]


# --- samples ---------------------------------------------------------------------------------------------------------


def test_half_of_the_published_samples_show_one_clip_with_exactly_one_strong_view() -> None:
    rng = np.random.default_rng(0)
    samples = [draw_sample(PUBLISHED, num_views=2, rng=rng) for _ in range(DRAWS)]
    same = np.array([sample.strong for sample in samples if sample.same_clip])
    apart = np.array([sample.strong for sample in samples if not sample.same_clip])
    assert abs(len(same) / DRAWS - 0.5) < NEAR
    assert (same.sum(axis=1) == 1).all()
    assert abs(same[:, 0].mean() - 0.5) < 2 * NEAR
    np.testing.assert_allclose(apart.mean(axis=0), 0.3, atol=2 * NEAR)
    assert abs(apart.all(axis=1).mean() - 0.09) < NEAR  # one view knows nothing of the other


def test_small_views_are_strong_as_often_in_every_sample() -> None:
    rng = np.random.default_rng(0)
    samples = [draw_sample(PUBLISHED, num_views=2, num_small_views=2, rng=rng) for _ in range(DRAWS)]
    for kind in (True, False):
        small = np.array([sample.strong[2:] for sample in samples if sample.same_clip == kind])
        np.testing.assert_allclose(small.mean(axis=0), 0.3, atol=2 * NEAR)
    assert all(sum(sample.strong[:2]) == 1 for sample in samples if sample.same_clip)


def test_by_default_clips_differ_and_every_view_is_strong() -> None:
    assert PRESETS["default"] == Augmentation()
    rng = np.random.default_rng(0)
    samples = [draw_sample(PRESETS["default"], num_views=2, num_small_views=1, rng=rng) for _ in range(200)]
    assert {(sample.same_clip, sample.strong) for sample in samples} == {(False, (True, True, True))}


# --- crops -----------------------------------------------------------------------------------------------------------


def simulated_crops(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One try each, plainly: area (share) and ratio, both uniform, the ratio turned half of the time; which fit."""
    rng = np.random.default_rng(1)
    area, ratio = rng.uniform(0.2, 1, 200_000), rng.uniform(3 / 4, 4 / 3, 200_000)
    ratio = np.where(rng.random(200_000) < 0.5, ratio, 1 / ratio)
    pixels = area * size[0] * size[1]
    return area, ratio, (np.rint(np.sqrt(pixels / ratio)) <= size[0]) & (np.rint(np.sqrt(pixels * ratio)) <= size[1])


@pytest.mark.parametrize("size", [(240, 320), (180, 320)])
def test_published_crops_that_do_not_fit_squash_the_whole_frame(size: tuple[int, int]) -> None:
    whole = [(draw.top, draw.left, draw.height, draw.width) == (0, 0, *size) for draw in views(PUBLISHED, size=size)]
    share = 1 - simulated_crops(size)[2].mean()
    assert abs(np.mean(whole) - share) < NEAR
    if size == (240, 320):
        assert abs(share - 0.295) < 0.003


@pytest.mark.parametrize("size", [(240, 320), (180, 320)])
def test_published_crops_that_fit_are_those_of_one_try_of_area_and_ratio(size: tuple[int, int]) -> None:
    area, ratio, fits = simulated_crops(size)
    draws = [draw for draw in views(PUBLISHED, size=size) if (draw.height, draw.width) != size]
    quantiles = np.linspace(0.02, 0.98, 25)
    ours = np.quantile([draw.height * draw.width / (size[0] * size[1]) for draw in draws], quantiles)
    np.testing.assert_allclose(ours, np.quantile(area[fits], quantiles), atol=0.03)
    ours = np.quantile([draw.width / draw.height for draw in draws], quantiles)
    np.testing.assert_allclose(ours, np.quantile(ratio[fits], quantiles), atol=0.03)


def test_published_ratios_are_turned_on_their_side_half_of_the_time() -> None:
    small = replace(PUBLISHED, crop_area=(0.2, 0.3))  # fits always
    ratios = np.log([draw.width / draw.height for draw in views(small, size=(300, 300))])
    assert 0.27 < ratios.max() < 0.30
    assert -0.30 < ratios.min() < -0.27
    assert abs(np.median(ratios)) < 0.02  # unturned: 0.041


@pytest.mark.parametrize("name", PRESETS)
def test_small_views_have_small_crops(name: str) -> None:
    areas = [draw.height * draw.width / (240 * 320) for draw in views(PRESETS[name], 500, small=True)]
    assert 0.045 < min(areas) < 0.07
    assert 0.18 < max(areas) < 0.205


# --- strong and weak views -------------------------------------------------------------------------------------------


def test_a_strong_published_view_has_the_shares_and_ranges_described() -> None:
    draws = views(PUBLISHED)
    jittered = [draw for draw in draws if draw.contrast != 1]
    assert abs(len(jittered) / DRAWS - 0.8) < NEAR
    for values in (
        [draw.contrast for draw in jittered],
        [draw.color.sum(axis=1).mean() for draw in jittered],  # brightness: saturation leaves grey alone
        [1 + 4 * draw.hue for draw in jittered],
    ):
        assert 0.6 <= min(values) < 0.61
        assert 1.39 < max(values) <= 1.4
        assert abs(np.mean(values) - 1) < 0.02
    assert abs(np.mean([draw.grey_seed is not None for draw in draws]) - 0.2) < NEAR
    assert abs(np.mean([draw.flip for draw in draws]) - 0.5) < NEAR
    sigmas = [draw.blur_sigma for draw in draws if draw.blur_sigma]
    assert abs(len(sigmas) / DRAWS - 0.5) < NEAR
    assert 0.1 <= min(sigmas) < 0.11
    assert 1.99 < max(sigmas) <= 2


def test_a_weak_view_is_cropped_and_flipped_and_nothing_else() -> None:
    busy = replace(PUBLISHED, flow_gain=0.5, flow_offset=1.0)
    draws = views(busy, strong=False)
    expected = {"color": None, "contrast": 1.0, "hue": 0.0, "blur_sigma": 0.0, "grey_seed": None, "flow_gain": 1.0}
    assert all(getattr(draw, name) == value for draw in draws for name, value in expected.items())
    assert {draw.flow_offset for draw in draws} == {(0.0, 0.0)}
    assert abs(np.mean([draw.flip for draw in draws]) - 0.5) < NEAR
    assert len({(draw.top, draw.left, draw.height, draw.width) for draw in draws}) > DRAWS / 2


# --- grey ------------------------------------------------------------------------------------------------------------


def still_frames(number: int) -> np.ndarray:
    return np.broadcast_to(np.array([40, 120, 200], np.uint8), (number, 8, 8, 3)).copy()


def test_published_grey_picks_a_channel_anew_for_every_frame_and_stream() -> None:
    grey = replace(PUBLISHED, jitter=0, blur=0, grey=1)
    picks = []
    for draw in views(grey, 40, size=(8, 8)):
        for view in (apply_to_rgb(still_frames(30), draw, size=8), apply_to_flow_image(still_frames(30), draw)):
            assert (view == view[:, :1, :1, :1]).all()
            picks.append(view[:, 0, 0, 0].tolist())
    shares = [np.mean(np.array(picks) == value) for value in (40, 120, 200)]
    np.testing.assert_allclose(shares, 1 / 3, atol=0.03)
    assert len(set(map(tuple, picks))) == len(picks)  # no two streams or views alike
    changes = np.mean(np.diff(picks, axis=1) != 0)
    assert abs(changes - 2 / 3) < 0.05


def test_the_same_draw_picks_the_same_channels_again() -> None:
    (draw,) = views(replace(PUBLISHED, jitter=0, blur=0, grey=1), 1, size=(8, 8))
    np.testing.assert_array_equal(
        apply_to_rgb(still_frames(30), draw, size=8), apply_to_rgb(still_frames(30), draw, size=8)
    )


def test_but_for_grey_a_published_clip_that_stands_still_stays_still() -> None:
    still = np.repeat(moving_frames(1, (40, 48), seed=0), 5, axis=0)
    for draw in views(replace(PUBLISHED, grey=0), 30, size=(40, 48)):
        view = apply_to_rgb(still, draw, size=24)
        assert (view == view[0]).all()


# --- flow as an image ------------------------------------------------------------------------------------------------


def flow_image(stored: np.ndarray, draw: ViewDraw, *, size: int, center: bool = False) -> np.ndarray:
    view = apply_to_flow(stored, draw, size=size, bound=20.0, center=center)
    return apply_to_flow_image(FlowForm("128vu").convert(view, bound=20.0, short_side=min(stored.shape[1:3])), draw)


def test_flow_as_an_image_goes_through_all_that_rgb_goes_through() -> None:
    """Cut first and laid out then, or laid out first and cut as if it were RGB: the same to within rounding."""
    stored = np.maximum(moving_frames(3, (60, 80), seed=2)[..., :2], 1)
    image = FlowForm("128vu").convert(stored, bound=20.0, short_side=60)
    changed = 0
    for draw in views(replace(PUBLISHED, grey=0), 30, size=(60, 80)):
        ours = flow_image(stored, draw, size=32).astype(int)
        error = np.abs(ours - apply_to_rgb(image, draw, size=32))
        assert error.mean() < 1
        changed += bool(np.ptp(ours[..., 0]) > 20)  # the constant channel shows that colours did change
    assert changed > 10


@pytest.mark.parametrize("center", [False, True])
def test_a_flip_mirrors_published_flow_and_leaves_u_its_sign(center: bool) -> None:
    plain = replace(PUBLISHED, flip=1, jitter=0, grey=0, blur=0)
    stored = np.maximum(moving_frames(3, (24, 24), seed=2)[..., :2], 1)
    (draw,) = views(plain, 1, size=(24, 24))
    unflipped = replace(draw, flip=False)
    options = {"size": 16, "bound": 20.0, "center": center}
    mirrored = apply_to_flow(stored, unflipped, **options)[:, :, ::-1]
    np.testing.assert_array_equal(apply_to_flow(stored, draw, **options), mirrored)
    negated = apply_to_flow(stored, replace(draw, flow_as_image=False), **options).astype(int)
    assert np.abs(negated[..., 0] + mirrored[..., 0] - 256).max() <= 1
    np.testing.assert_array_equal(negated[..., 1], mirrored[..., 1])


# --- beside PIL ------------------------------------------------------------------------------------------------------


def reference_view(frames: np.ndarray, draw: ViewDraw, *, size: int, order: Sequence[str]) -> np.ndarray:
    """What PIL makes of the draw, frame by frame, the jitter's four steps in the order given."""
    brightness = 1.0 if draw.color is None else draw.color[0].sum()
    saturation = 1.0 if draw.color is None else (draw.color[0, 0] / brightness - 0.299) / (1 - 0.299)
    steps = {
        "brightness": lambda image: ImageEnhance.Brightness(image).enhance(brightness),
        "contrast": lambda image: ImageEnhance.Contrast(image).enhance(draw.contrast),
        "saturation": lambda image: ImageEnhance.Color(image).enhance(saturation),
        "hue": lambda image: shifted_hue(image, draw.hue),
    }
    views = []
    for frame in frames:
        box = (draw.left, draw.top, draw.left + draw.width, draw.top + draw.height)
        image = Image.fromarray(frame).crop(box).resize((size, size), Image.Resampling.BICUBIC)
        if draw.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for name in order if draw.contrast != 1 else ():
            image = steps[name](image)
        views.append(np.asarray(image.filter(ImageFilter.GaussianBlur(draw.blur_sigma)) if draw.blur_sigma else image))
    return np.stack(views).astype(int)


def shifted_hue(image: Image.Image, shift: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = Image.fromarray(np.asarray(hue) + np.uint8(round(shift * 255) % 256))
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


OUR_ORDER = ("hue", "saturation", "brightness", "contrast")
NOTHING = {"jitter": 0.0, "grey": 0.0, "blur": 0.0}


@pytest.mark.parametrize("size", [(240, 320), (128, 171)])
@pytest.mark.parametrize(
    ("changes", "mean_bound", "any_order"),
    [
        (NOTHING, 0.1, False),
        ({**NOTHING, "blur": 1.0}, 0.7, False),
        ({**NOTHING, "jitter": 1.0}, 1.8, False),
        ({"grey": 0.0}, 1.6, False),
        # PIL's steps clip in between and do not commute, and the published jitter shuffles them; ours are in one order.
        ({"grey": 0.0}, 2.0, True),
    ],
    ids=["crop", "blur", "jitter", "all", "all, shuffled"],
)
def test_published_views_lie_near_those_of_pil(
    size: tuple[int, int], changes: dict[str, Any], mean_bound: float, any_order: bool
) -> None:
    frames = moving_frames(3, size, seed=0)
    rng = np.random.default_rng(1)
    errors = []
    for draw in views(replace(PUBLISHED, **changes), 20, size=size):
        order = rng.permutation(OUR_ORDER) if any_order else OUR_ORDER
        errors.append(
            np.abs(apply_to_rgb(frames, draw, size=128) - reference_view(frames, draw, size=128, order=order))
        )
    assert np.mean(errors) < mean_bound
    if changes == NOTHING:
        assert np.max(errors) <= 2


# --- by name ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [field.name for field in fields(Augmentation)])
def test_every_field_can_be_set_by_its_name(field: str) -> None:
    value = getattr(PUBLISHED, field)
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    changes = ["all.flow_channels=128vu", f"rgb-1.augmentation.{field}={text}"]
    assert getattr(create_recipe("demo", changes=changes).stages[0].augmentation, field) == value


def test_a_preset_is_set_by_name_and_its_fields_beside_it() -> None:
    changes = ["all.flow_channels=128vu", "all.augmentation.flip=0.25", "all.augmentation=published"]
    for stage in create_recipe("demo", changes=changes).stages:
        assert stage.augmentation == replace(PUBLISHED, flip=0.25)
    only_one = create_recipe("demo", changes=["rgb-1.augmentation=published"])
    assert only_one.stages[0].augmentation == PUBLISHED
    assert only_one.stages[1:] == create_recipe("demo").stages[1:]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["all.augmentation=strongest"], "no augmentation 'strongest'; known are default, published"),
        (["flow-1.augmentation=published"], "flow-1: augmentation.flow_as_image .* flow_channels=128vu"),
        (["rgb-2.augmentation=published"], "rgb-2: augmentation.flow_as_image .* flow_channels=128vu"),
        (["rgb-1.augmentation.crop_misfit=stretch"], "'stretch' is not a value"),
        (["rgb-1.augmentation.strong=2"], "augmentation.strong is 2.0; expected a probability"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_the_words_of_the_flag(changes: list[str], sentence: str) -> None:
    with pytest.raises(ViccError, match=sentence):
        create_recipe("demo", changes=changes)


@pytest.mark.parametrize(
    "wrong",
    [
        {"same_clip": 1.5},
        {"strong": -0.5},
        {"small_crop_area": (0.0, 0.2)},
        {"crop_misfit": "stretch"},
        {"grey_style": "sepia"},
        {"resize": "lanczos"},
    ],
    ids=str,
)
def test_impossible_fields_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ViccError, match=f"augmentation.{next(iter(wrong))} is"):
        Augmentation(**wrong)
