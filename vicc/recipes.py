"""The runs vicc knows by name, as functions that return a recipe."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal

from vicc.errors import ViccError
from vicc.training.stage import Recipe, Stage
from vicc.transforms.augmentation import PRESETS, Augmentation
from vicc.words import did_you_mean


def create_recipe(
    name: str, *, motion: Literal["flow", "diff"] = "flow", views: str | None = None, changes: Sequence[str] = ()
) -> Recipe:
    """The recipe of that name, with the stream of `motion` (see `Recipe.with_motion`) and the
    resolutions `views` (see `Recipe.with_views`), then `changes` as STAGE.FIELD=VALUE.

    Raises:
        ViccError: no such recipe, stage or field, or a value of the wrong kind.
    """
    if name not in RECIPES:
        raise ViccError(
            f"There is no recipe {name!r}.{did_you_mean(str(name), RECIPES)} Known are {', '.join(RECIPES)}. "
            "See: vicc recipes"
        )
    recipe = RECIPES[name]().with_motion(motion)
    return (recipe if views is None else recipe.with_views(views)).with_changes(changes)


def default() -> Recipe:
    """ViCC with S3D for your own videos: two single-stream stages, then one cycle across streams.

    The values are the paper's (clips of 32 frames at 128 pixels, K = 300, LARC, cosine) but for
    three: the learning rate follows the batch (0.6 for 192 videos, so 0.05 for 16), both views have
    gradient, and 100 epochs stand for the published 300 and 100. It has not been tuned on any data
    set: use --set to change it.
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

    Found by trying on the demo's videos; docs/decisions/recipes.md says what else was tried.
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
        rgb_1.replace(steps=150, learning_rate=1e-3),
        flow_1.replace(steps=300),
        rgb_2.replace(steps=350),
        # It starts from an encoder that is good already: at 3e-3 it first loses what Flow-1 had.
        flow_2.replace(steps=150, learning_rate=1e-3),
    )
    return Recipe("demo", "ViCC with a small S3D, minutes on two CPU cores; made for the demo's videos", stages)


def vicc_ucf101() -> Recipe:
    """ViCC on UCF101 split 1, as published (WACV 2022): each stream alone, then two cycles across
    streams.

    Sources: [paper] arXiv 2106.10137, [README] and [scripts] of the published implementation.
    Stages carry the published names: rgb-1 is ViCC-RGB-1, flow-1 ViCC-Flow-1; rgb-2-cycle-1 and
    flow-2-cycle-1 stand between; rgb-2 is ViCC-RGB-2, flow-2 ViCC-Flow-2, both after the second
    cycle. Published precision: fp32, across streams fp16.

    batch_size and queue_length are those of all processes together, published on 4 GPUs.
    """
    return Recipe("vicc_ucf101", "the published ViCC on UCF101: S3D, both streams, two cycles", _published_vicc())


def vicc_k400() -> Recipe:
    """ViCC on Kinetics-400. An assumption: epochs and all other values are those of UCF101.

    Neither the paper's recipe nor the scripts give values of their own for Kinetics-400. It has 25
    times as many videos, so 25 times as many steps: look at `vicc recipes show vicc_k400` before
    you start it.
    """
    return Recipe("vicc_k400", "ViCC on Kinetics-400 with the values of UCF101, which is assumed", _published_vicc())


def infonce_ucf101() -> Recipe:
    """InfoNCE of both streams on UCF101, the start of CoCLR (Han et al., NeurIPS 2020); values of
    the CoCLR README.
    """
    return Recipe(
        "infonce_ucf101", "the published InfoNCE on UCF101, both streams", _published_contrastive("infonce", **_UCF101)
    )


def infonce_k400() -> Recipe:
    """InfoNCE of both streams on Kinetics-400; values of the CoCLR README."""
    return Recipe(
        "infonce_k400",
        "the published InfoNCE on Kinetics-400, both streams",
        _published_contrastive("infonce", **_K400),
    )


def ubernce_ucf101() -> Recipe:
    """UberNCE of both streams on UCF101, with labels: the upper bound in the CoCLR paper, section
    3.

    The CoCLR README gives no command for it. The values are those of its InfoNCE, whose program
    trains it: assumed.
    """
    return Recipe(
        "ubernce_ucf101",
        "UberNCE on UCF101, with labels, with the values of InfoNCE, which is assumed",
        _published_contrastive("ubernce", **_UCF101),
    )


def coclr_ucf101() -> Recipe:
    """CoCLR on UCF101: InfoNCE of both streams, then two cycles of co-training; values of the CoCLR
    README.

    The README shows one cycle; that there are two is from the CoCLR paper, section 4.2. As in
    `vicc_ucf101`, rgb-2 and flow-2 are the results.
    """
    stages = (
        *_published_contrastive("infonce", **_UCF101),
        *_cycles("coclr", 2, epochs=100, milestones=(80,), **_CO_TRAINING, **_contrastive_values(**_UCF101)),
    )
    return Recipe("coclr_ucf101", "the published CoCLR on UCF101: InfoNCE, then two cycles", stages)


def coclr_k400() -> Recipe:
    """CoCLR on Kinetics-400: InfoNCE of both streams on 4 GPUs, then one cycle on 2; values of the
    CoCLR README.
    """
    stages = (
        *_published_contrastive("infonce", **_K400),
        *_cycles(
            "coclr", 1, epochs=50, milestones=(40,), **_CO_TRAINING, **_contrastive_values(**{**_K400, "gpus": 2})
        ),
    )
    return Recipe("coclr_k400", "the published CoCLR on Kinetics-400: InfoNCE, then one cycle", stages)


def _vicc_stages(*, single: dict[str, Any], cross: dict[str, Any], **common: Any) -> tuple[Stage, ...]:
    """The alternation of the paper, one cycle: each stream alone, then RGB taught by flow, then
    flow taught by RGB.
    """
    return (
        Stage("rgb-1", "single_stream", "rgb", **common, **single),
        Stage("flow-1", "single_stream", "flow", **common, **single),
        *_cycles("cross_stream", 1, **common, **cross),
    )


def _cycles(method: Literal["cross_stream", "coclr"], count: int, **values: Any) -> Iterator[Stage]:
    """Cycles after rgb-1 and flow-1: RGB taught by the newest flow, then flow by the newest RGB;
    the last are -2.
    """
    rgb, flow = "rgb-1", "flow-1"
    for cycle in range(1, count + 1):
        suffix = "2" if cycle == count else f"2-cycle-{cycle}"
        yield Stage(f"rgb-{suffix}", method, "rgb", start_from=rgb, teacher=flow, **values)
        rgb = f"rgb-{suffix}"
        yield Stage(f"flow-{suffix}", method, "flow", start_from=flow, teacher=rgb, **values)
        flow = f"flow-{suffix}"


def _published_inputs() -> dict[str, Any]:
    """What ViCC and CoCLR share: the network and what it sees."""
    return {
        "backbone": "s3d",  # ViCC [paper] section 4.1; CoCLR README
        "embedding_dim": 128,  # ViCC [README] --moco-dim; CoCLR's default
        "clip_frames": 32,  # [README] of both, --seq_len
        "stride": 1,  # --ds
        "size": 128,  # --img_dim
        "view_distance": "any",
        # Flow is stored as an image: 128 in red, v, u; in pixels of frames whose shorter side is
        # 240.
        "flow_channels": "128vu",
        "flow_short_side": 240,
        "augmentation": PRESETS["published"],
    }


def _published_vicc() -> tuple[Stage, ...]:
    gpus = 4  # [README] --nproc_per_node, [scripts]
    common: dict[str, Any] = {
        **_published_inputs(),
        "num_prototypes": (300,),  # [README] --nmb_prototypes
        "epsilon": 0.05,  # --epsilon
        "sinkhorn_iterations": 3,  # --sinkhorn_iterations
        "temperature": 0.1,  # --moco-t
        "queue_length": 1920,  # --moco-k, all GPUs together
        # [scripts] turn batch shuffling on, which encodes all but the first view without gradient.
        "views_with_gradient": "one",
        "batchnorm": "shuffled",
        "optimizer": "larc",  # --optim sgd, wrapped in LARC by the implementation
        "momentum": 0.9,
        "weight_decay": 1e-6,  # --wd
        "schedule": "cosine",  # --cos
        "learning_rate": 0.6,  # --base_lr
        "final_learning_rate": 0.0006,  # --final_lr
        "warmup_steps": 0,
    }
    single: dict[str, Any] = {
        **common,
        "batch_size": 48 * gpus,
        "epochs": 500,  # [README], [scripts] --epochs
        "stop_epoch": 300,  # [scripts]: the cross stages start from save_epoch299
        "freeze_prototypes_epochs": 100,  # --freeze_prototypes_nepochs
        "views_for_assign": (0, 1),  # --views_for_assign
    }
    cross: dict[str, Any] = {
        **common,
        "batch_size": 24 * gpus,
        "epochs": 100,
        "queue_from_epoch": 25,  # --epoch_queue_starts
        "freeze_prototypes_epochs": 0,
        "views_for_assign": (0, 1, 2, 3),
    }
    return (
        # The queue of RGB opens at 150 in [scripts], whose checkpoint was released, and at 200 in
        # the [README].
        Stage("rgb-1", "single_stream", "rgb", **single, queue_from_epoch=150),
        Stage("flow-1", "single_stream", "flow", **single, queue_from_epoch=200),
        *_cycles("cross_stream", 2, **cross),
    )


# CoCLR README, of InfoNCE: --moco-k, --nproc_per_node.
_UCF101: Final = {"queue_length": 2048, "gpus": 2}
_K400: Final = {"queue_length": 16384, "gpus": 4}
_CO_TRAINING: Final = {"num_mined": 5}  # --topk


def _published_contrastive(method: Literal["infonce", "ubernce"], *, queue_length: int, gpus: int) -> tuple[Stage, ...]:
    values = _contrastive_values(queue_length=queue_length, gpus=gpus)
    values |= {"epochs": 300, "milestones": (250, 280)}  # CoCLR README --epochs, --schedule
    return Stage("rgb-1", method, "rgb", **values), Stage("flow-1", method, "flow", **values)


def _contrastive_values(*, queue_length: int, gpus: int) -> dict[str, Any]:
    """What InfoNCE, UberNCE and CoCLR share; where the CoCLR README gives no flag, the default of
    its programs.
    """
    return {
        **_published_inputs(),
        "batch_size": 32 * gpus,  # --batch_size
        "queue_length": queue_length,
        "temperature": 0.07,  # default of --moco-t
        "key_momentum": 0.999,  # default of --moco-m
        "batchnorm": "shuffled",
        "optimizer": "adam",
        "learning_rate": 1e-3,  # --lr
        "weight_decay": 1e-5,  # default of --wd
        "schedule": "step",
        "decay": 0.1,
    }


RECIPES: dict[str, Callable[[], Recipe]] = {
    build.__name__: build
    for build in (
        default,
        demo,
        vicc_ucf101,
        vicc_k400,
        infonce_ucf101,
        infonce_k400,
        ubernce_ucf101,
        coclr_ucf101,
        coclr_k400,
    )
}
TRAINING_VIDEOS: dict[str, int] = {
    "demo": 300,
    "ucf101": 9537,  # split 1
    "k400": 240_000,  # about as many as are still to be had (CoCLR paper, section 4.1)
}
"""Training videos of the data a recipe was made for; of `default` nothing is known."""
