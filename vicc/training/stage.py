"""What is trained: a recipe is a list of stages. Plain data, free of torch, so that it can be listed in no time."""

import dataclasses
import json
import math
import re
import typing
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from vicc.data.sampling import ViewDistance
from vicc.errors import ViccError
from vicc.settings import from_text
from vicc.transforms.augmentation import PRESETS, Augmentation
from vicc.words import did_you_mean, either, nearest

StreamName = Literal["rgb", "flow", "diff"]
MethodName = Literal["single_stream", "cross_stream", "infonce", "ubernce", "coclr", "linear_probe", "fine_tuned"]
CONTRASTIVE = ("infonce", "ubernce", "coclr")
"""Methods that compare a query with one key and a queue of past keys."""
VICC = ("single_stream", "cross_stream")
"""Methods that assign views to prototypes."""
CLASSIFYING = ("linear_probe", "fine_tuned")
"""Methods that learn from labels, on an encoder that is there already."""

_LARGEST = 1e30  # what is computed from it must still be a float of 32 bits


@dataclass(frozen=True)
class Stage:
    """One training: which method trains which stream, from what, for how long. Defaults are those of the paper.

    Attributes:
        name: folder of the stage in the run, for instance "rgb-1".
        method: "single_stream" and "cross_stream" are ViCC; "infonce", "ubernce" and "coclr" its baselines;
            "linear_probe" and "fine_tuned" classifiers, see `Classification`.
        stream: the stream whose encoder is trained: "rgb", or of motion "flow" or "diff" (how RGB changes from frame
            to frame, which needs no flow).
        start_from: stage whose weights are taken as the start; None for random weights.
        teacher: stage whose encoder of the other stream teaches; for cross_stream and coclr only.
        backbone, embedding_dim, clip_frames, stride, size, flow_normalization, flow_std, flow_channels,
            flow_short_side: of the encoder, see `EncoderConfig`.
        num_prototypes: K; several numbers make several heads.
        epsilon, sinkhorn_iterations, temperature, queue_from_epoch, freeze_prototypes_epochs, views_with_gradient,
            batchnorm: of the method, see `SingleStream` and `InfoNCE`.
        queue_length: past embeddings in the queues of all processes together; 0 for no queue.
        views_for_assign: views whose assignments are predicted, in the order of the method; empty for all full views.
        key_momentum: of the key encoder of infonce, ubernce and coclr.
        num_mined: positives that coclr finds in the other stream for each video.
        num_classes: of a classifier.
        dropout: share of the features that fine_tuned drops.
        backbone_learning_rate_ratio: learning rate of fine_tuned's backbone over that of its linear layer.
        small_views: further views of lower resolution (SwAV's multi-crop), as COUNTxPIXELS, for instance "4x96", or
            several joined by "+"; they are predicted, not assigned.
        view_distance: how far apart the two clips of a video lie, see `random_clips`.
        batch_size: videos a step, those of all processes together.
        epochs, steps: how long the schedule is; give one of the two.
        stop_epoch: end after so many epochs of the schedule; None for all.
        optimizer: "larc" (SGD with layer-wise rates, published for ViCC), "adam" (published for the baselines; weight
            decay is part of the gradient), "adamw" or "sgd" (published for classifiers).
        schedule: "cosine" from learning_rate to final_learning_rate, or "step": times `decay` at each milestone.
        learning_rate, final_learning_rate, warmup_steps, milestones, decay: of the schedule; milestones are epochs.
        augmentation: how views are drawn.
    """

    name: str
    method: MethodName
    stream: StreamName
    start_from: str | None = None
    teacher: str | None = None
    backbone: str = "s3d"
    embedding_dim: int = 128
    clip_frames: int = 32
    stride: int = 1
    size: int = 128
    flow_normalization: Literal["fixed", "clip"] = "fixed"
    flow_std: float = 24.0
    flow_channels: Literal["uv", "128vu"] = "uv"
    flow_short_side: int | None = None
    num_prototypes: tuple[int, ...] = (300,)
    epsilon: float = 0.05
    sinkhorn_iterations: int = 3
    temperature: float = 0.1
    queue_length: int = 0
    queue_from_epoch: int = 0
    freeze_prototypes_epochs: int = 0
    views_for_assign: tuple[int, ...] = ()
    views_with_gradient: Literal["one", "both"] = "both"
    batchnorm: Literal["plain", "shuffled", "sync"] = "plain"
    key_momentum: float = 0.999
    num_mined: int = 5
    num_classes: int = 0
    dropout: float = 0.9
    backbone_learning_rate_ratio: float = 1.0
    small_views: str = ""
    view_distance: ViewDistance = "any"
    batch_size: int = 16
    epochs: int | None = None
    steps: int | None = None
    stop_epoch: int | None = None
    optimizer: Literal["larc", "adam", "adamw", "sgd"] = "larc"
    schedule: Literal["cosine", "step"] = "cosine"
    learning_rate: float = 0.6
    final_learning_rate: float = 0.0006
    warmup_steps: int = 0
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-6
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ViccError(
                f"Stage {self.name} has epochs={self.epochs} and steps={self.steps}; "
                "give one of the two, set the other to none."
            )
        if (self.method in ("cross_stream", "coclr")) != (self.teacher is not None):
            rule = "takes no teacher" if self.teacher else "needs a teacher, a stage of the other stream"
            raise ViccError(f"Stage {self.name}: {self.method} {rule}; teacher is {self.teacher}.")
        self._check_numbers()
        self._check_schedule()
        self._check_method()
        self.small_resolutions()

    def _check_numbers(self) -> None:
        for name in ("batch_size", "clip_frames", "stride", "size", "epochs", "steps", "stop_epoch", "num_mined"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ViccError(f"Stage {self.name}: {name} is {value}; expected at least 1.")
        if not self.num_prototypes or min(self.num_prototypes) < 1:
            raise ViccError(f"Stage {self.name}: num_prototypes is {self.num_prototypes}; expected at least 1 a head.")
        # Written so that nan, which compares with nothing, is refused as well.
        for name in ("epsilon", "temperature", "flow_std", "backbone_learning_rate_ratio"):
            if not 0 < getattr(self, name) < math.inf:
                raise ViccError(f"Stage {self.name}: {name} is {getattr(self, name)}; expected a number above 0.")
        for name in ("learning_rate", "final_learning_rate", "weight_decay", "warmup_steps", "queue_length", "decay"):
            if not 0 <= getattr(self, name) <= _LARGEST:
                raise ViccError(
                    f"Stage {self.name}: {name} is {getattr(self, name)}; expected 0 or more, {_LARGEST:g} at most."
                )
        for name in ("momentum", "key_momentum", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ViccError(f"Stage {self.name}: {name} is {getattr(self, name)}; expected 0 or more, below 1.")

    def _check_schedule(self) -> None:
        if self.stop_epoch is not None and self.epochs is None:
            raise ViccError(
                f"Stage {self.name}: stop_epoch={self.stop_epoch} ends a schedule of epochs, and this one has "
                f"steps={self.steps}; set stop_epoch=none, or epochs in place of steps."
            )
        if self.stop_epoch is not None and self.epochs is not None and self.stop_epoch > self.epochs:
            raise ViccError(
                f"Stage {self.name}: stop_epoch={self.stop_epoch} lies beyond the schedule, which has "
                f"epochs={self.epochs}; expected at most that, or none for all of it."
            )
        if self.schedule == "cosine" and self.milestones:
            raise ViccError(
                f"Stage {self.name}: milestones={self.milestones} belong to schedule=step; schedule is cosine."
            )
        if self.schedule == "step" and self.warmup_steps:
            raise ViccError(
                f"Stage {self.name}: warmup_steps={self.warmup_steps} belong to schedule=cosine; schedule is step."
            )
        if list(self.milestones) != sorted({milestone for milestone in self.milestones if milestone > 0}):
            raise ViccError(
                f"Stage {self.name}: milestones are {self.milestones}; expected epochs from 1 in rising order."
            )

    def _check_method(self) -> None:
        if (self.method in CLASSIFYING) != (self.num_classes > 0) or self.num_classes == 1:
            expected = "at least 2" if self.method in CLASSIFYING else "0, as it learns without labels"
            raise ViccError(
                f"Stage {self.name}: {self.method} has num_classes={self.num_classes}; expected {expected}."
            )
        if self.method in CLASSIFYING and self.embedding_dim:
            raise ViccError(
                f"Stage {self.name}: {self.method} classifies features before any projection head; embedding_dim is "
                f"{self.embedding_dim}, expected 0."
            )
        views = self.num_full_views
        if not all(0 <= view < views for view in self.views_for_assign):
            raise ViccError(
                f"Stage {self.name}: views_for_assign is {self.views_for_assign}; {self.method} numbers its full views "
                f"0 to {views - 1}."
            )
        if self.method in CONTRASTIVE and not self.queue_length:
            raise ViccError(f"Stage {self.name}: {self.method} compares with a queue; queue_length must be above 0.")
        if self.method not in VICC:
            if self.small_views:
                raise ViccError(f"Stage {self.name}: small_views belong to single_stream and cross_stream only.")
        elif self.small_views and self.views_with_gradient == "one":
            raise ViccError(
                f"Stage {self.name}: small_views are there to be trained through; views_with_gradient=one leaves only "
                "the first view a gradient. Set views_with_gradient=both."
            )
        if self.stream == "flow":
            self.require_flow_image()
        if self.batchnorm == "shuffled" and self.method not in CONTRASTIVE and self.views_with_gradient == "both":
            raise ViccError(
                f"Stage {self.name}: batchnorm=shuffled exchanges views between processes without their gradient; "
                "it goes with views_with_gradient=one. Use batchnorm=sync for both."
            )

    def require_flow_image(self) -> None:
        """Raises ViccError if the augmentation takes flow for an image where the encoder does not."""
        if self.augmentation.flow_as_image and self.flow_channels == "uv":
            raise ViccError(
                f"Stage {self.name}: augmentation.flow_as_image changes the colours of (128, v, u), and flow_channels "
                "is uv. Set flow_channels=128vu, or augmentation.flow_as_image=false."
            )

    @property
    def num_full_views(self) -> int:
        """Views in full resolution that take part in the loss, those of the teacher included."""
        if self.method in CLASSIFYING:
            return 1
        return 4 if self.method == "cross_stream" else 2

    @property
    def num_clips(self) -> int:
        """Clips of a video and stream that are loaded in full resolution."""
        return 1 if self.method in CLASSIFYING else 2

    @property
    def clips_encoded(self) -> tuple[int, int]:
        """Clips of one video that a step encodes: with gradient, and without."""
        if self.method in CLASSIFYING:
            return (1, 0) if self.method == "fine_tuned" else (0, 1)
        if self.method in CONTRASTIVE:  # query; key, and the teacher's clip
            return 1, 1 + (self.teacher is not None)
        trained = 1 if self.views_with_gradient == "one" else 2
        return trained + sum(count for count, _ in self.small_resolutions()), self.num_full_views - trained

    @property
    def chance_loss(self) -> float:
        """The loss of an encoder that tells nothing apart, `chance_name`."""
        if self.method in CLASSIFYING:
            return math.log(self.num_classes)
        if self.method in CONTRASTIVE:
            return math.log(1 + self.queue_length)
        return sum(map(math.log, self.num_prototypes)) / len(self.num_prototypes)

    @property
    def chance_name(self) -> str:
        """What `chance_loss` is the logarithm of."""
        if self.method in CLASSIFYING:
            return "ln of the classes"
        return "ln of the keys compared" if self.method in CONTRASTIVE else "ln K"

    def small_resolutions(self) -> tuple[tuple[int, int], ...]:
        """(views, pixels) of each group of `small_views`, for instance ((4, 96),)."""
        groups = []
        for part in self.small_views.split("+") if self.small_views else ():
            count, times, pixels = part.partition("x")
            if not times or not (count.isdecimal() and pixels.isdecimal()) or not 0 < int(pixels) < self.size:
                raise ViccError(
                    f"Stage {self.name}: small_views is {self.small_views!r}; expected COUNTxPIXELS with fewer pixels "
                    f"than the {self.size} of the full views, for instance 4x{max(1, self.size * 3 // 4)}."
                )
            groups.append((int(count), int(pixels)))
        return tuple(groups)


@dataclass(frozen=True)
class Recipe:
    """Stages in the order they are trained; a stage may only build on earlier ones."""

    name: str
    description: str
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        earlier: dict[str, Stage] = {}
        for stage in self.stages:
            for role in ("start_from", "teacher"):
                needed = getattr(stage, role)
                if needed is not None and needed not in earlier:
                    raise ViccError(
                        f"Stage {stage.name} of recipe {self.name} takes its {role} from {needed!r}, which is not an "
                        f"earlier stage ({', '.join(earlier) or 'there is none'})."
                    )
            if stage.start_from and earlier[stage.start_from].stream != stage.stream:
                raise ViccError(
                    f"Stage {stage.name} trains {stage.stream} but starts from {stage.start_from}, another stream."
                )
            if stage.teacher and earlier[stage.teacher].stream == stage.stream:
                raise ViccError(f"Stage {stage.name} trains {stage.stream} and so does its teacher {stage.teacher}.")
            if stage.teacher and earlier[stage.teacher].stream == "flow":
                stage.require_flow_image()
            if stage.name in earlier:
                raise ViccError(f"Recipe {self.name} has two stages named {stage.name}.")
            earlier[stage.name] = stage

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))

    @staticmethod
    def from_json(content: dict[str, Any]) -> "Recipe":
        """The recipe that `to_json` described.

        Raises:
            ViccError: fields that this version does not know or lacks.
        """
        try:
            stages = tuple(_stage_from_json(stage) for stage in content["stages"])
            return Recipe(content["name"], content["description"], stages)
        except (KeyError, TypeError, ValueError) as error:
            raise ViccError(f"A recipe written by another version of vicc cannot be understood: {error}.") from error

    def require_stages(self, names: Sequence[str]) -> None:
        """Raises ViccError, in the words of --stages, if a name is none of the recipe's stages."""
        stages = [stage.name for stage in self.stages]
        for name in names:
            if name not in stages:
                raise ViccError(
                    f"--stages {name}: recipe {self.name} has the stages {', '.join(stages)}."
                    + did_you_mean(name, stages)
                )

    def with_views(self, views: str) -> "Recipe":
        """The recipe with other resolutions in its ViCC stages, as 2xPIXELS, then +COUNTxPIXELS for smaller views.

        Raises:
            ViccError: not such a text, or a stage cannot have small views.
        """
        full, _, small = views.partition("+")
        count, _, pixels = full.partition("x")
        if count != "2" or not pixels.isdecimal() or (small == "") == ("+" in views):
            raise ViccError(
                f"--views {views}: expected 2xPIXELS, then +COUNTxPIXELS for each group of smaller views, for instance "
                "2x128+4x96."
            )
        stages = (
            stage if stage.method in CONTRASTIVE else replace(stage, size=int(pixels), small_views=small)
            for stage in self.stages
        )
        return replace(self, stages=tuple(stages))

    def with_motion(self, motion: Literal["flow", "diff"]) -> "Recipe":
        """The recipe with another stream of motion: of flow-1, which sees flow, "diff" makes diff-1, which sees how RGB
        changes from frame to frame.
        """
        if motion == "flow":
            return self
        names = {
            stage.name: re.sub(r"^flow", motion, stage.name) if stage.stream == "flow" else stage.name
            for stage in self.stages
        }
        stages = (
            replace(
                stage,
                name=names[stage.name],
                stream=motion if stage.stream == "flow" else stage.stream,
                start_from=stage.start_from and names[stage.start_from],
                teacher=stage.teacher and names[stage.teacher],
            )
            for stage in self.stages
        )
        return replace(self, stages=tuple(stages))

    def with_changes(self, changes: Sequence[str]) -> "Recipe":
        """The recipe with fields of stages replaced, each change as STAGE.FIELD=VALUE (`all` for every stage).

        STAGE.augmentation=NAME takes a whole augmentation of `PRESETS`; its fields can be changed beside it.

        Raises:
            ViccError: no such stage or field, or a value of the wrong type.
        """
        changes = [changes] if isinstance(changes, str) else changes  # one change, and no list of letters
        stages = {stage.name: stage for stage in self.stages}
        pending: dict[str, dict[str, Any]] = {}
        for change in changes:
            path, equals, text = change.partition("=")
            stage_name, dot, field_name = path.partition(".")
            if not equals or not dot:
                raise ViccError(
                    f"--set {change}: expected STAGE.FIELD=VALUE, for instance {self.stages[0].name}.epochs=50."
                )
            names = list(stages) if stage_name == "all" else [stage_name]
            for name in names:
                if name not in stages:
                    raise ViccError(
                        f"--set {change}: recipe {self.name} has no stage {name}; it has {', '.join(stages)}."
                        + did_you_mean(name, [*stages, "all"])
                    )
                pending.setdefault(name, {}).update(_parse_change(stages[name], field_name, text, change))
        return replace(self, stages=tuple(_replace(stage, pending.get(stage.name, {})) for stage in self.stages))


def _replace(stage: Stage, values: dict[str, Any]) -> Stage:
    inner = {
        name.removeprefix("augmentation."): value for name, value in values.items() if name.startswith("augmentation.")
    }
    outer = {name: value for name, value in values.items() if not name.startswith("augmentation.")}
    augmentation = outer.pop("augmentation", stage.augmentation)
    # epochs and steps exclude each other: the one that is set pushes the other out.
    if outer.get("steps") is not None:
        outer.setdefault("epochs", None)
    elif outer.get("epochs") is not None:
        outer.setdefault("steps", None)
    return replace(stage, **outer, augmentation=replace(augmentation, **inner))


def _parse_change(stage: Stage, field_name: str, text: str, change: str) -> dict[str, Any]:
    if field_name == "augmentation":
        if text not in PRESETS:
            raise ViccError(
                f"--set {change}: there is no augmentation {text!r}; known are {', '.join(PRESETS)}."
                + did_you_mean(text, PRESETS)
            )
        return {field_name: PRESETS[text]}
    owner: Any = stage
    leaf = field_name
    if field_name.startswith("augmentation."):
        owner, leaf = stage.augmentation, field_name.removeprefix("augmentation.")
    hints = typing.get_type_hints(type(owner))
    names = [entry.name for entry in dataclasses.fields(owner) if entry.name not in ("name", "augmentation")]
    if leaf not in names:
        # A short answer where the field meant is plain: there are half a hundred.
        of_views = {entry.name: f"augmentation.{entry.name}" for entry in dataclasses.fields(Augmentation)}
        places = of_views if owner is stage.augmentation else of_views | {name: name for name in names}
        near = [places[name] for name in nearest(leaf, places)]
        question = f" Did you mean {either(near)}?" if near else ""
        known = "" if question else f" Known are {', '.join(names)}, augmentation, augmentation.FIELD."
        raise ViccError(f"--set {change}: there is no field {field_name}.{question}{known}")
    try:
        return {field_name: from_text(text, hints[leaf], finite=False)}
    except ValueError as error:
        raise ViccError(f"--set {change}: {text!r} is not a value for {field_name}; {error}") from None


def _stage_from_json(content: dict[str, Any]) -> Stage:
    def tuples(values: dict[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    return Stage(**{**tuples(content), "augmentation": Augmentation(**tuples(content["augmentation"]))})
