"""The data path of 2021 as the baseline of `benchmarks/data.py`: what the paper's readers had to run.

Written from the paper's description: LMDB of JPEGs of quality 100 at native size, one PIL image a frame, flow (TV-L1)
as the image (v, u, 128) in blue, green, red; every view is cropped, jittered, blurred and normalised frame by frame.
"""

import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import lmdb
import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter

from vicc.video.decode import VideoReader

MEAN, STD = np.array((0.485, 0.456, 0.406), np.float32), np.array((0.229, 0.224, 0.225), np.float32)


def encode(frame: np.ndarray) -> bytes:
    """A frame, uint8 (H, W, 3), as a JPEG of quality 100."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, 100))
    assert done
    return data.tobytes()


def flow_image(flow: np.ndarray) -> np.ndarray:
    """Flow in pixels, clipped to 20, as the image (128, v, u) in red, green, blue."""
    u, v = (np.clip(flow[..., channel], -20, 20) * (127.5 / 20) + 127.5 for channel in (0, 1))
    return np.stack((np.full_like(u, 128), v, u), axis=-1).astype(np.uint8)


def build(videos: list[Path], path: Path, *, flow: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> tuple[int, int]:
    """Write both streams of some videos; returns frames and bytes. `flow` stands in for TV-L1: only sizes count."""
    frames = size = 0
    with lmdb.open(str(path), subdir=False, map_size=1 << 36).begin(write=True) as transaction:
        for number, video in enumerate(videos):
            previous = None
            count = 0
            for frame in VideoReader(video):
                grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
                encoded = [("rgb", count, encode(frame))]
                if previous is not None:
                    encoded.append(("flow", count - 1, encode(flow_image(flow(previous, grey)))))
                for stream, index, data in encoded:
                    transaction.put(f"{number}/{stream}/{index:06d}".encode(), data)
                    size += len(data)
                previous, count = grey, count + 1
            transaction.put(f"{number}/num".encode(), str(count).encode())
            frames += count
    return frames, size


class Samples:
    """Pretraining samples, float (V, C, T, 128, 128) a stream."""

    def __init__(self, path: Path, *, streams: tuple[str, ...], clip_frames: int = 32, size: int = 128) -> None:
        self.environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
        self.streams = streams
        self.clip_frames = clip_frames
        self.size = size
        with self.environment.begin() as transaction:
            self.num = sum(key.endswith(b"/num") for key, _ in transaction.cursor())

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        with self.environment.begin() as transaction:
            available = int(transaction.get(f"{number}/num".encode())) - 1
            starts = [random.randrange(max(1, available - self.clip_frames + 1)) for _ in range(2)]
            if random.random() < 0.5:
                starts[1] = starts[0]
                base = random.sample((True, False), 2)
            else:
                base = [random.random() < 0.3 for _ in range(2)]
            views: dict[str, list[torch.Tensor]] = {stream: [] for stream in self.streams}
            for start, strong in zip(starts, base, strict=True):
                numbers = [min(start + step, available - 1) for step in range(self.clip_frames)]
                draw = Draw(strong)
                for stream in self.streams:
                    images = [
                        Image.open(io.BytesIO(transaction.get(f"{number}/{stream}/{index:06d}".encode()))).convert(
                            "RGB"
                        )
                        for index in numbers
                    ]
                    frames = [_to_tensor(image) for image in draw.apply(images, self.size)]
                    views[stream].append(torch.stack(frames, 1))
        return {stream: torch.stack(clips) for stream, clips in views.items()}


class Draw:
    """One view's random choices, applied to every frame of a clip."""

    def __init__(self, strong: bool) -> None:
        self.area = random.uniform(0.2, 1)
        self.ratio = random.uniform(3 / 4, 4 / 3)
        if random.random() < 0.5:
            self.ratio = 1 / self.ratio
        self.place = random.random(), random.random()
        self.flip = random.random() < 0.5
        self.jitter = strong and random.random() < 0.8
        self.factors = [random.uniform(0.6, 1.4) for _ in range(3)]
        self.hue = random.uniform(-0.1, 0.1)
        self.grey = strong and random.random() < 0.2
        self.sigma = random.uniform(0.1, 2) if strong and random.random() < 0.5 else 0.0

    def apply(self, images: list[Image.Image], size: int) -> Iterator[Image.Image]:
        width, height = images[0].size
        w, h = (round((width * height * self.area * ratio) ** 0.5) for ratio in (self.ratio, 1 / self.ratio))
        if w > width or h > height:
            w, h = width, height
        left, top = int(self.place[0] * (width - w)), int(self.place[1] * (height - h))
        for image in images:
            image = image.crop((left, top, left + w, top + h)).resize((size, size), Image.Resampling.BICUBIC)
            if self.flip:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            if self.jitter:
                for enhance, factor in zip(
                    (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), self.factors, strict=True
                ):
                    image = enhance(image).enhance(factor)
                hue, saturation, value = image.convert("HSV").split()
                shifted = Image.fromarray(np.asarray(hue) + np.uint8(round(self.hue * 255) % 256))
                image = Image.merge("HSV", (shifted, saturation, value)).convert("RGB")
            if self.grey:
                channel = np.asarray(image)[..., random.randrange(3)]
                image = Image.fromarray(np.repeat(channel[..., None], 3, axis=-1))
            if self.sigma:
                image = image.filter(ImageFilter.GaussianBlur(self.sigma))
            yield image


def _to_tensor(image: Image.Image) -> torch.Tensor:
    array = (np.asarray(image, np.float32) / 255 - MEAN) / STD
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
