"""Random views of a clip. One draw serves RGB and flow of the clip, so that the two stay aligned.

Work is done by OpenCV on uint8 (T, H, W, C): crop and resize first, then colour on the small
frames; brightness, contrast and saturation are one 3 x 4 matrix. Normalisation is left to the
encoder, on its device.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import cv2
import numpy as np

from vicc.errors import ViccError

CropMisfit = Literal["redraw", "squash"]
GreyStyle = Literal["luminance", "channel"]
Resize = Literal["linear", "cubic"]
Crops = Literal["view", "center", "five", "ten"]
_GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, what "grey" means to torchvision and OpenCV
_SQUARE = 224 / 240  # of the shorter side: the square that the published tests cut out


@dataclass(frozen=True)
class Augmentation:
    """How views are drawn. Probabilities are per view; a strength s draws a factor from [1 - s, 1 +
    s].

    Attributes:
        crop_area: share of the frame's area that a crop covers, smallest and largest.
        crop_ratio: width over height of a crop, smallest and largest.
        jitter: probability of colour jitter; `brightness`, `contrast`, `saturation` its strengths,
            `hue` the largest shift as a share of the colour circle.
        grey, blur, flip: probabilities. Blur draws its sigma, in pixels of the finished view, from
            `blur_sigma`.
        flow_gain: strength of a factor on the flow, as if the same motion were faster or slower.
        flow_offset: standard deviation, in pixels per frame of the stored flow, of a constant added
            to the flow of the clip, as if the camera panned.
        flow_center: subtract each frame's median flow first, which takes out most of a camera's own
            motion.
        same_clip: share of samples whose views all show one clip, each through a crop of its own;
            then exactly one view, at random, is strong: it gets colour, blur and flow changes. The
            others get crop and flip only.
        strong: probability that a view is strong where the views of a sample show different clips.
        small_crop_area: `crop_area` of small views.
        crop_misfit: what is done with a crop that does not fit into the frame. "redraw" draws
            again, the ratio log-uniform. "squash" (published) draws once, the ratio uniform and
            turned on its side half of the time, and squashes the whole frame where that does not
            fit: 29 % of draws from 320 x 240.
        grey_style: "luminance" is grey as the eye sees it; "channel" (published) repeats one
            channel, picked at random anew for every frame and stream.
        flow_as_image: treat flow as the image (128, v, u) that it is stored as in the published
            data: colour and blur change it as they change RGB, and a flip mirrors it but does not
            negate u.
        resize: "linear", or "cubic": bicubic, antialiased as PIL does it (published); takes three
            times as long.
    """

    crop_area: tuple[float, float] = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grey: float = 0.2
    blur: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    flow_gain: float = 0.0
    flow_offset: float = 0.0
    flow_center: bool = False
    same_clip: float = 0.0
    strong: float = 1.0
    small_crop_area: tuple[float, float] = (0.05, 0.2)
    crop_misfit: CropMisfit = "redraw"
    grey_style: GreyStyle = "luminance"
    flow_as_image: bool = False
    resize: Resize = "linear"

    def __post_init__(self) -> None:
        for name in ("flow_center", "flow_as_image"):  # "false" as a text would be true
            if not isinstance(getattr(self, name), bool):
                raise ViccError(f"augmentation.{name} is {getattr(self, name)!r}; expected true or false.")
        for name in ("flip", "jitter", "grey", "blur", "same_clip", "strong"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ViccError(f"augmentation.{name} is {value}; expected a probability from 0 to 1.")
        for name, most in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0.5), ("flow_gain", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise ViccError(f"augmentation.{name} is {getattr(self, name)}; expected a strength from 0 to {most}.")
        for name in ("crop_ratio", "blur_sigma"):
            smallest, largest = getattr(self, name)
            if not 0 < smallest <= largest:
                raise ViccError(f"augmentation.{name} is {(smallest, largest)}; expected 0 < smallest <= largest.")
        if not self.flow_offset >= 0:
            raise ViccError(f"augmentation.flow_offset is {self.flow_offset}; expected 0 pixels or more.")
        for name in ("crop_area", "small_crop_area"):
            smallest, largest = getattr(self, name)
            if not 0 < smallest <= largest <= 1:
                raise ViccError(f"augmentation.{name} is {(smallest, largest)}; expected 0 < smallest <= largest <= 1.")
        for name, choices in (("crop_misfit", CropMisfit), ("grey_style", GreyStyle), ("resize", Resize)):
            if getattr(self, name) not in get_args(choices):
                raise ViccError(
                    f"augmentation.{name} is {getattr(self, name)!r}; expected {' or '.join(get_args(choices))}."
                )


PRESETS: dict[str, Augmentation] = {
    "default": Augmentation(),
    "published": Augmentation(
        same_clip=0.5, strong=0.3, crop_misfit="squash", grey_style="channel", flow_as_image=True, resize="cubic"
    ),
}
"""Augmentations by name. "published" has the distribution that the paper's results were trained
with (docs/decisions/transforms.md).
"""


@dataclass(frozen=True)
class SampleDraw:
    """What the views of one sample are: all of one clip or not, and which of them (full ones first)
    are strong.
    """

    same_clip: bool
    strong: tuple[bool, ...]


def draw_sample(
    settings: Augmentation, *, num_views: int, num_small_views: int = 0, rng: np.random.Generator
) -> SampleDraw:
    """Draw which views of a sample are strong and whether all show one clip; a small view is strong
    with probability `strong` in any sample.
    """
    same_clip = bool(rng.random() < settings.same_clip)
    strong = rng.random(num_views + num_small_views) < settings.strong
    if same_clip:
        strong[:num_views] = np.arange(num_views) == rng.integers(num_views)
    return SampleDraw(same_clip, tuple(strong.tolist()))


@dataclass(frozen=True)
class ViewDraw:
    """One draw of an augmentation: everything that is the same over the frames and streams of a
    clip.

    `grey_seed` is the exception: where it is given, it starts the random picks of a channel for
    every frame.
    """

    top: int
    left: int
    height: int
    width: int
    flip: bool
    color: np.ndarray | None  # 3 x 3, on RGB; contrast's offset depends on the clip and is added when applied
    contrast: float
    hue: float
    blur_sigma: float
    flow_gain: float
    flow_offset: tuple[float, float]
    grey_seed: int | None = None
    flow_as_image: bool = False
    resize: Resize = "linear"


def draw_view(
    settings: Augmentation,
    *,
    height: int,
    width: int,
    rng: np.random.Generator,
    strong: bool = True,
    small: bool = False,
) -> ViewDraw:
    """Draw crop, flip, colour, blur and flow changes for one view of a video with frames of
    (height, width).

    Args:
        strong: False leaves crop and flip only.
        small: take the crop's area from `small_crop_area`.
    """
    if not strong:
        settings = replace(settings, jitter=0.0, grey=0.0, blur=0.0, flow_gain=0.0, flow_offset=0.0)
    if small:
        settings = replace(settings, crop_area=settings.small_crop_area)
    top, left, crop_height, crop_width = _draw_crop(settings, height, width, rng)
    jitter = rng.random() < settings.jitter
    brightness, contrast, saturation = (
        1 + strength * rng.uniform(-1, 1) if jitter else 1.0
        for strength in (settings.brightness, settings.contrast, settings.saturation)
    )
    hue = settings.hue * rng.uniform(-1, 1) if jitter else 0.0
    grey_seed = None
    if rng.random() < settings.grey:
        if settings.grey_style == "channel":
            grey_seed = int(rng.integers(1 << 32))
        else:
            saturation = hue = 0.0
    color = brightness * (saturation * np.eye(3) + (1 - saturation) * np.outer(np.ones(3), _GREY))
    return ViewDraw(
        top=top,
        left=left,
        height=crop_height,
        width=crop_width,
        flip=bool(rng.random() < settings.flip),
        color=None if brightness == saturation == contrast == 1 else color,
        contrast=contrast,
        hue=hue,
        blur_sigma=rng.uniform(*settings.blur_sigma) if rng.random() < settings.blur else 0.0,
        flow_gain=1 + settings.flow_gain * rng.uniform(-1, 1),
        flow_offset=(settings.flow_offset * rng.standard_normal(), settings.flow_offset * rng.standard_normal()),
        grey_seed=grey_seed,
        flow_as_image=settings.flow_as_image,
        resize=settings.resize,
    )


def _draw_crop(settings: Augmentation, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Area and ratio that fit the frame: drawn anew until they do, then the largest centred crop of
    a legal ratio.
    """
    squash = settings.crop_misfit == "squash"
    for _ in range(1 if squash else 10):
        area = height * width * rng.uniform(*settings.crop_area)
        if squash:
            ratio = rng.uniform(*settings.crop_ratio) ** rng.choice((-1, 1))
        else:
            ratio = np.exp(rng.uniform(*np.log(settings.crop_ratio)))
        crop_height, crop_width = max(1, round((area / ratio) ** 0.5)), max(1, round((area * ratio) ** 0.5))
        if crop_height <= height and crop_width <= width:
            top = int(rng.integers(0, height - crop_height + 1))
            return top, int(rng.integers(0, width - crop_width + 1)), crop_height, crop_width
    if squash:
        return 0, 0, height, width
    ratio = np.clip(width / height, *settings.crop_ratio)
    crop_height, crop_width = min(height, max(1, round(width / ratio))), min(width, max(1, round(height * ratio)))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def center_view(*, height: int, width: int, crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> ViewDraw:
    """The view for evaluation: the largest centred crop of a legal ratio, nothing else changed."""
    ratio = min(max(width / height, crop_ratio[0]), crop_ratio[1])
    crop_height, crop_width = min(height, round(width / ratio)), min(width, round(height * ratio))
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return ViewDraw(top, left, crop_height, crop_width, False, None, 1.0, 0.0, 0.0, 1.0, (0.0, 0.0))


def evaluation_views(
    *, height: int, width: int, crops: Crops = "view", flow_as_image: bool = False
) -> tuple[ViewDraw, ...]:
    """The views of a frame that are evaluated, centre first; nothing about them is random.

    A square is 224 of 240 of the frame's shorter side, as published for frames of 320 x 240:

        +----+---+----+    five: four squares in the corners, one in the centre; they overlap.
        | 2  | 1 |  3 |    ten: the five, then the five mirrored, in the same order.
        |    |   |    |
        | 4  |   |  5 |
        +----+---+----+

    Args:
        crops: "view" is the one `center_view`, which retrieval and the evaluation during training
            use; "center" the square in the centre.
        flow_as_image: whether mirrored flow keeps u, as in an `Augmentation` of that name.
    """
    if crops == "view":
        return (center_view(height=height, width=width),)
    side = max(1, round(min(height, width) * _SQUARE))
    bottom, right = height - side, width - side
    places = [(bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right)]
    center = center_view(height=height, width=width)
    squares = [
        replace(center, top=top, left=left, height=side, width=side, flow_as_image=flow_as_image)
        for top, left in (places[:1] if crops == "center" else places)
    ]
    return tuple(squares + [replace(square, flip=True) for square in squares] if crops == "ten" else squares)


def apply_to_rgb(frames: np.ndarray, draw: ViewDraw, *, size: int) -> np.ndarray:
    """A view of RGB frames, uint8 (T, H, W, 3) to (T, size, size, 3)."""
    return _apply_color(_crop_resize_flip(frames, draw, size), draw, stream=0)


def apply_to_flow_image(view: np.ndarray, draw: ViewDraw) -> np.ndarray:
    """Colour and blur of flow as an image (`flow_as_image`), uint8 (T, size, size, 3)."""
    return _apply_color(view, draw, stream=1)


def _apply_color(view: np.ndarray, draw: ViewDraw, *, stream: int) -> np.ndarray:
    """Colour and blur of a finished view, uint8 (T, size, size, 3); `stream` tells random picks of
    streams apart.
    """
    size = view.shape[2]
    if draw.hue:
        view = _shift_hue(view, draw.hue)
    if draw.color is not None:
        # Contrast scales around the clip's mean grey, the same for all frames or the clip would
        # flicker.
        mean = 0.0
        if draw.contrast != 1:
            mean = float(np.array(cv2.mean(view.reshape(-1, size, 3))[:3]) @ draw.color.T @ _GREY)
        matrix = np.hstack((draw.contrast * draw.color, np.full((3, 1), (1 - draw.contrast) * mean)))
        view = cv2.transform(view.reshape(-1, size, 3), matrix).reshape(view.shape)
    if draw.grey_seed is not None:
        picks = np.random.default_rng([draw.grey_seed, stream]).integers(0, 3, len(view))
        view = np.repeat(view[np.arange(len(view)), :, :, picks][..., None], 3, axis=-1)
    if draw.blur_sigma:
        # `GaussianBlur` of the same kernel rounds in fixed point and takes twice as long.
        kernel = cv2.getGaussianKernel(2 * round(3 * draw.blur_sigma) + 1, draw.blur_sigma, cv2.CV_32F)
        for frame in view:
            cv2.sepFilter2D(frame, -1, kernel, kernel, dst=frame)
    return view


def apply_to_flow(stored: np.ndarray, draw: ViewDraw, *, size: int, bound: float, center: bool) -> np.ndarray:
    """A view of flow in stored form, uint8 (T, H, W, 2) to (T, size, size, 2).

    Values stay pixels per frame of the *stored* frames: resizing does not rescale them. A flip
    negates u, but for a draw of `flow_as_image`.
    """
    offset = np.zeros((len(stored), 1, 1, 2), np.float32)
    if center:
        # Every third pixel gives the same median at a ninth of the time.
        offset -= np.median(stored[:, ::3, ::3], axis=(1, 2))[:, None, None].astype(np.float32) - 128
    view = _crop_resize_flip(stored, draw, size)
    if draw.flip and not draw.flow_as_image:
        view[..., 0] = np.minimum(256 - view[..., 0].astype(np.int16), 255)
        offset[..., 0] *= -1
    offset += np.array(draw.flow_offset, np.float32) * (127 / bound)
    if draw.flow_gain == 1 and not offset.any():
        return view
    values = (view.astype(np.float32) - 128 + offset) * draw.flow_gain
    return np.clip(np.rint(values) + 128, 0, 255).astype(np.uint8)


def _crop_resize_flip(frames: np.ndarray, draw: ViewDraw, size: int) -> np.ndarray:
    window = frames[:, draw.top : draw.top + draw.height, draw.left : draw.left + draw.width]
    view = _resize_cubic(window, size) if draw.resize == "cubic" else _resize_linear(window, size)
    # All frames as one tall image: NumPy's reversed view would be copied value by value.
    return cv2.flip(view.reshape(-1, size, view.shape[-1]), 1).reshape(view.shape) if draw.flip else view


def _resize_linear(window: np.ndarray, size: int) -> np.ndarray:
    # Linear interpolation looks at two pixels a side, so beyond half the size it would skip some:
    # average areas there.
    interpolation = cv2.INTER_AREA if min(window.shape[1:3]) > 2 * size else cv2.INTER_LINEAR
    out = np.empty((len(window), size, size, window.shape[-1]), np.uint8)
    for source, target in zip(window, out, strict=True):
        cv2.resize(source, (size, size), dst=target, interpolation=interpolation)
    return out


def _resize_cubic(window: np.ndarray, size: int) -> np.ndarray:
    import torch  # here, so that recipes, which hold an `Augmentation`, are listed without it

    # torch agrees with PIL to within 2 of 255; OpenCV's bicubic does not antialias and is off by 5
    # to 10 in the mean.
    frames = torch.from_numpy(np.ascontiguousarray(window)).permute(0, 3, 1, 2)
    view = torch.nn.functional.interpolate(frames, size=(size, size), mode="bicubic", antialias=True)
    return np.ascontiguousarray(view.permute(0, 2, 3, 1).numpy())


def _shift_hue(view: np.ndarray, hue: float) -> np.ndarray:
    hsv = cv2.cvtColor(view.reshape(-1, view.shape[2], 3), cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(hue * 256) % 256)  # a full circle is 256: the sum wraps around as hue does
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL).reshape(view.shape)
