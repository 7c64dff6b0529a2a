"""A warning before training: boxes of motion that have fewer pixels than the clips made of them."""

import statistics

from vicc.data.frame_reader import FrameReader
from vicc.data.motion_boxes import typical_sides
from vicc.data.records import Video
from vicc.progress import say
from vicc.training.stage import Recipe

_MULTIPLE, _LARGEST = 16, 2048  # of a short side that is proposed


def say_small_boxes(recipe: Recipe, store: FrameReader, videos: list[Video]) -> None:
    """Say which stages crop to motion where most boxes are smaller than their clips, and which
    frames would have enough pixels.
    """
    shapes: dict[tuple[int, int, int], list[str]] = {}
    for stage in recipe.stages:
        if stage.encoder.crop == "motion":
            config = stage.encoder
            shapes.setdefault((config.clip_frames, config.stride, config.size), []).append(stage.name)
    for (clip_frames, stride, size), names in shapes.items():
        sides = typical_sides(store, videos, clip_frames=clip_frames, stride=stride)
        if not sides or (typical := statistics.median(sides)) >= size:
            continue
        have = store.settings.short_side
        enough = min(_LARGEST, -(-have * size // (typical * _MULTIPLE)) * _MULTIPLE)
        say(
            f"{', '.join(names)}: most boxes of motion are smaller than the clips of {size} x {size} (median "
            f"{typical:.0f} pixels, {len(sides)} videos looked at, frames of {have}), so what moves is enlarged. Where "
            f"the files have more pixels: vicc prepare --short-side {enough:.0f}"
        )
