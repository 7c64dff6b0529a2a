"""The runs vicc knows by name, as functions that return a recipe."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from vicc.errors import ViccError
from vicc.training.stage import Recipe, Stage
from vicc.transforms.augmentation import Augmentation


def create_recipe(name: str, *, changes: Sequence[str] = ()) -> Recipe:
    """The recipe of that name, with changes as STAGE.FIELD=VALUE.

    Raises:
        ViccError: no such recipe, stage or field.
    """
    if name not in RECIPES:
        raise ViccError(f"There is no recipe {name!r}; known are {', '.join(RECIPES)}. See: vicc recipes")
    return RECIPES[name]().with_changes(changes)


def default() -> Recipe:
    """ViCC with S3D for your own videos: two single-stream stages, then one cycle across streams.

    The values are the paper's (clips of 32 frames at 128 pixels, K = 300, LARC, cosine) but for three: the learning
    rate follows the batch of one process (0.6 for 192 videos, so 0.05 for 16), both views have gradient, and 100 epochs
    stand for the published 300 and 100. It has not been tuned on any data set: use --set to change it.
    """
    return Recipe(
        "default",
        "ViCC with S3D, for your own videos; wants a GPU",
        _vicc_stages(
            single={"epochs": 100, "queue_from_epoch": 50, "freeze_prototypes_epochs": 5},
            cross={"epochs": 100, "queue_from_epoch": 25},
            batch_size=16,
            learning_rate=0.05,
            final_learning_rate=0.00005,
            queue_length=1920,
        ),
    )


def demo() -> Recipe:
    """ViCC in minutes on a laptop: a small S3D on small clips, budgets in steps.

    Found by trying on the demo's videos; docs/decisions.md says what else was tried.
    """
    small: dict[str, Any] = {
        "backbone": "s3d-demo",
        "clip_frames": 16,
        "size": 48,
        "num_prototypes": (50,),
        "batch_size": 16,
        "view_distance": "far",
        # LARC needs longer than minutes: its steps are a thousandth of a weight's size.
        "optimizer": "adamw",
        "final_learning_rate": 0.0,
        "warmup_steps": 20,
        "weight_decay": 1e-4,
        "flow_std": 16.0,
        # Without it, one seed in two sorts clips by how much moves (scale, speed) and stops there.
        "flow_normalization": "clip",
        "augmentation": Augmentation(
            crop_ratio=(0.85, 1.18),
            brightness=0.3,
            contrast=0.3,
            saturation=0.3,
            hue=0.05,
            grey=0.5,
            blur=0.0,
            flow_gain=0.4,
            flow_offset=0.15,
            flow_center=True,
        ),
    }
    rgb_1, flow_1, rgb_2, flow_2 = _vicc_stages(single={}, cross={}, steps=1, learning_rate=3e-3, **small)
    stages = (
        replace(rgb_1, steps=150, learning_rate=1e-3),
        replace(flow_1, steps=300),
        replace(rgb_2, steps=350),
        # It starts from an encoder that is good already: at 3e-3 it first loses what Flow-1 had.
        replace(flow_2, steps=150, learning_rate=1e-3),
    )
    return Recipe("demo", "ViCC with a small S3D, minutes on two CPU cores; made for the demo's videos", stages)


def _vicc_stages(*, single: dict[str, Any], cross: dict[str, Any], **common: Any) -> tuple[Stage, ...]:
    """The alternation of the paper, one cycle: each stream alone, then RGB taught by flow, then flow taught by RGB."""
    return (
        Stage("rgb-1", "single_stream", "rgb", **common, **single),
        Stage("flow-1", "single_stream", "flow", **common, **single),
        Stage("rgb-2", "cross_stream", "rgb", start_from="rgb-1", teacher="flow-1", **common, **cross),
        Stage("flow-2", "cross_stream", "flow", start_from="flow-1", teacher="rgb-2", **common, **cross),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"default": default, "demo": demo}
