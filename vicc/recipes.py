"""The runs vicc knows by name, as functions that return a recipe."""

from collections.abc import Callable, Sequence
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

    Settings found on the demo's videos, see benchmarks/RESULTS.md.
    """
    return Recipe(
        "demo",
        "ViCC with a small S3D, minutes on two CPU cores; made for the demo's videos",
        _vicc_stages(
            single={"steps": 300},
            cross={"steps": 300},
            backbone="s3d-demo",
            clip_frames=16,
            size=48,
            num_prototypes=50,
            batch_size=16,
            view_distance="far",
            optimizer="adamw",
            learning_rate=1e-3,
            final_learning_rate=0.0,
            warmup_steps=20,
            weight_decay=1e-4,
            augmentation=Augmentation(flow_gain=0.4, flow_offset=0.6),
        ),
    )


def _vicc_stages(*, single: dict[str, Any], cross: dict[str, Any], **common: Any) -> tuple[Stage, ...]:
    """The alternation of the paper, one cycle: each stream alone, then RGB taught by flow, then flow taught by RGB."""
    return (
        Stage("rgb-1", "single_stream", "rgb", **common, **single),
        Stage("flow-1", "single_stream", "flow", **common, **single),
        Stage("rgb-2", "cross_stream", "rgb", start_from="rgb-1", teacher="flow-1", **common, **cross),
        Stage("flow-2", "cross_stream", "flow", start_from="flow-1", teacher="rgb-2", **common, **cross),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"default": default, "demo": demo}
