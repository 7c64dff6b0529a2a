"""What trains a classifier: the published schedules, and the same in proportion for smaller data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vicc.distributed import world_size
from vicc.errors import ViccError
from vicc.evaluation.configs import ClassifierConfig, FinetuneConfig
from vicc.methods.configs import EncoderConfig
from vicc.training.classifier_folder import CLASSIFIER_STAGE
from vicc.training.stage import Recipe, Stage
from vicc.transforms.augmentation import PRESETS, Augmentation

_PUBLISHED_BATCH, _PUBLISHED_RATE = 128, 0.1  # 32 videos on each of four GPUs
_DEFAULT_BATCH = 32
# On the demo's 300 videos 0.5 is right on 94 % of the test videos after 40 epochs, 0.9 on 70 %.
_DROPOUT = {"default": 0.5, "published": 0.9}
_DEFAULT_EPOCHS, _FEWEST_STEPS = 100, 1000


_FIXED = ("method", "num_classes", "steps")


@dataclass(frozen=True)
class _Published:
    """A published schedule: the rate falls to a tenth at each milestone, in epochs."""

    method: str
    epochs: int
    milestones: tuple[int, ...]


_FINE_TUNED = _Published("fine_tuned", 500, (200, 300, 400, 450))
_LINEAR_PROBE = _Published("linear_probe", 100, (60, 80))


def classifier_recipe(config: ClassifierConfig, encoder: EncoderConfig, *, num_videos: int, num_classes: int) -> Recipe:
    """The one stage that trains a classifier on an encoder with so many videos, changed as the
    config says.

    Raises:
        ViccError: a change that names no field, or a value that is none.
    """
    fine_tuned = isinstance(config, FinetuneConfig)
    published = _FINE_TUNED if fine_tuned else _LINEAR_PROBE
    batch_size = _batch_size(config, num_videos)
    epochs = _epochs(config, published, steps_per_epoch=max(1, num_videos // batch_size))
    stage = Stage(
        CLASSIFIER_STAGE,
        published.method,
        encoder.stream,
        backbone=encoder.backbone,
        embedding_dim=0,
        clip_frames=encoder.clip_frames,
        stride=encoder.stride,
        size=encoder.size,
        rgb_normalization=encoder.rgb_normalization,
        flow_normalization=encoder.flow_normalization,
        flow_std=encoder.flow_std,
        flow_channels=encoder.flow_channels,
        flow_short_side=encoder.flow_short_side,
        crop=encoder.crop,
        num_classes=num_classes,
        # Published: the statistics of each process's own clips. A probe's, of so few numbers, are
        # those of all.
        batchnorm="plain" if fine_tuned else "sync",
        batch_size=batch_size,
        epochs=epochs,
        optimizer="sgd",
        schedule="step",
        learning_rate=config.learning_rate or round(_PUBLISHED_RATE * batch_size / _PUBLISHED_BATCH, 6),
        milestones=_in_proportion(published, epochs) if config.milestones is None else config.milestones,
        weight_decay=1e-3,
        augmentation=_augmentation(config, encoder),
    )
    if isinstance(config, FinetuneConfig):
        dropout = _DROPOUT[config.schedule] if config.dropout is None else config.dropout
        stage = stage.replace(dropout=dropout, backbone_learning_rate_ratio=config.backbone_learning_rate_ratio)
    what = "fine-tuning" if fine_tuned else "linear probe"
    recipe = Recipe(f"{what}, {config.schedule}", f"{what} with the {config.schedule} schedule", (stage,))
    return _changed(recipe, config.set)


def _changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe as --set wants it, still of the same kind of classifier.

    Raises:
        ViccError: no such field, a value that is none, or one that follows from labels and flags.
    """
    changed = recipe.with_changes(changes)
    (before,), (after,) = recipe.stages, changed.stages
    fixed = [name for name in _FIXED if before.flat().get(name) != after.flat().get(name)]
    if fixed:
        raise ViccError(
            f"--set {' '.join(changes)}: {', '.join(fixed)} of a classifier follow from the labels and the command; "
            "the length is given as --epochs. Leave them out."
        )
    return changed


def _batch_size(config: ClassifierConfig, num_videos: int) -> int:
    """What is asked for, or what there is: the rate must follow what is really used."""
    wanted = _PUBLISHED_BATCH if config.schedule == "published" else _DEFAULT_BATCH
    if isinstance(config.batch_size, int):
        wanted = config.batch_size
    return max(1, min(wanted, num_videos // world_size() * world_size()))


def _epochs(config: ClassifierConfig, published: _Published, *, steps_per_epoch: int) -> int:
    if config.epochs is not None:
        return config.epochs
    if config.schedule == "published":
        return published.epochs
    return max(_DEFAULT_EPOCHS, -(-_FEWEST_STEPS // steps_per_epoch))


def _in_proportion(published: _Published, epochs: int) -> tuple[int, ...]:
    places: Sequence[int] = [round(milestone * epochs / published.epochs) for milestone in published.milestones]
    return tuple(sorted({place for place in places if place > 0}))


def _augmentation(config: ClassifierConfig, encoder: EncoderConfig) -> Augmentation:
    """Crops and, in three clips of ten, colours: what tells classes apart must stay. Published
    without mirror images.

    Flow that the encoder takes for an image is treated as one, as in its training and when it is
    tested.
    """
    preset = replace(PRESETS[config.schedule], same_clip=0.0, strong=1.0, jitter=0.3, grey=0.0, blur=0.0)
    return replace(
        preset,
        flip=0.0 if config.schedule == "published" else preset.flip,
        flow_center=encoder.flow_center,
        flow_as_image=encoder.stream == "flow" and encoder.flow_channels == "128vu",
    )
