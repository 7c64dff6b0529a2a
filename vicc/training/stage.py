"""What is trained: a recipe is a list of stages. Plain data, free of torch, so that it can be listed in no time."""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from vicc.data.sampling import ViewDistance
from vicc.errors import ViccError
from vicc.transforms.augmentation import Augmentation

StreamName = Literal["rgb", "flow"]


@dataclass(frozen=True)
class Stage:
    """One training: which method trains which stream, from what, for how long. Defaults are those of the paper.

    Attributes:
        name: folder of the stage in the run, for instance "rgb-1".
        method: "single_stream" or "cross_stream".
        stream: the stream whose encoder is trained.
        start_from: stage whose encoder and prototypes are taken as the start; None for random weights.
        teacher: stage whose encoder of the other stream teaches; for cross_stream only.
        backbone, embedding_dim, clip_frames, stride, size, flow_normalization, flow_std: of the encoder, see
            `EncoderConfig`.
        num_prototypes, epsilon, sinkhorn_iterations, temperature, queue_length, queue_from_epoch,
            freeze_prototypes_epochs, views_with_gradient: of the method, see `SingleStream`.
        view_distance: how far apart the two clips of a video lie, see `random_clips`.
        batch_size: videos a process and step.
        epochs, steps: how long; give one of the two.
        optimizer: "larc" (SGD with layer-wise rates, published) or "adamw".
        learning_rate, final_learning_rate, warmup_steps: cosine from the one to the other after a linear warm-up.
        augmentation: how views are drawn.
    """

    name: str
    method: Literal["single_stream", "cross_stream"]
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
    num_prototypes: int = 300
    epsilon: float = 0.05
    sinkhorn_iterations: int = 3
    temperature: float = 0.1
    queue_length: int = 0
    queue_from_epoch: int = 0
    freeze_prototypes_epochs: int = 0
    views_with_gradient: Literal["one", "both"] = "both"
    view_distance: ViewDistance = "any"
    batch_size: int = 16
    epochs: int | None = None
    steps: int | None = None
    optimizer: Literal["larc", "adamw"] = "larc"
    learning_rate: float = 0.6
    final_learning_rate: float = 0.0006
    warmup_steps: int = 0
    momentum: float = 0.9
    weight_decay: float = 1e-6
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ViccError(
                f"Stage {self.name} has epochs={self.epochs} and steps={self.steps}; "
                "give one of the two, set the other to none."
            )
        if (self.method == "cross_stream") != (self.teacher is not None):
            raise ViccError(f"Stage {self.name}: cross_stream needs a teacher, and no other method takes one.")
        for name in ("batch_size", "num_prototypes", "clip_frames", "stride", "size", "epochs", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ViccError(f"Stage {self.name}: {name} is {value}; expected at least 1.")
        # Written so that nan, which compares with nothing, is refused as well.
        for name in ("epsilon", "temperature", "flow_std"):
            if not 0 < getattr(self, name) < math.inf:
                raise ViccError(f"Stage {self.name}: {name} is {getattr(self, name)}; expected a number above 0.")
        for name in ("learning_rate", "final_learning_rate", "weight_decay", "warmup_steps", "queue_length"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ViccError(f"Stage {self.name}: {name} is {getattr(self, name)}; expected 0 or more.")
        if not 0 <= self.momentum < 1:
            raise ViccError(f"Stage {self.name}: momentum is {self.momentum}; expected 0 or more and below 1.")


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

    def with_changes(self, changes: Sequence[str]) -> "Recipe":
        """The recipe with fields of stages replaced, each change as STAGE.FIELD=VALUE (`all` for every stage).

        Raises:
            ViccError: no such stage or field, or a value of the wrong type.
        """
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
                    )
                pending.setdefault(name, {}).update(_parse_change(stages[name], field_name, text, change))
        return replace(self, stages=tuple(_replace(stage, pending.get(stage.name, {})) for stage in self.stages))


def _replace(stage: Stage, values: dict[str, Any]) -> Stage:
    inner = {
        name.removeprefix("augmentation."): value for name, value in values.items() if name.startswith("augmentation.")
    }
    outer = {name: value for name, value in values.items() if not name.startswith("augmentation.")}
    # epochs and steps exclude each other: the one that is set pushes the other out.
    if outer.get("steps") is not None:
        outer.setdefault("epochs", None)
    elif outer.get("epochs") is not None:
        outer.setdefault("steps", None)
    return replace(stage, **outer, augmentation=replace(stage.augmentation, **inner))


def _parse_change(stage: Stage, field_name: str, text: str, change: str) -> dict[str, Any]:
    owner: Any = stage
    leaf = field_name
    if field_name.startswith("augmentation."):
        owner, leaf = stage.augmentation, field_name.removeprefix("augmentation.")
    hints = typing.get_type_hints(type(owner))
    names = [entry.name for entry in dataclasses.fields(owner) if entry.name not in ("name", "augmentation")]
    if leaf not in names:
        raise ViccError(
            f"--set {change}: there is no field {field_name}; known are {', '.join(names)}, augmentation.FIELD."
        )
    try:
        return {field_name: _parse_value(text, hints[leaf])}
    except ValueError:
        expected = str(hints[leaf]).removeprefix("<class '").removesuffix("'>").replace("typing.", "")
        raise ViccError(f"--set {change}: {text!r} is not a value for {field_name}; expected {expected}.") from None


def _parse_value(text: str, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if text.lower() == "none":
            return None
        return _parse_value(text, next(kind for kind in arguments if kind is not type(None)))
    if origin is Literal:
        if text not in arguments:
            raise ValueError(text)
        return text
    if origin is tuple:
        parts = text.split(",")
        if len(parts) != len(arguments):
            raise ValueError(text)
        return tuple(_parse_value(part, kind) for part, kind in zip(parts, arguments, strict=True))
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return hint(text)


def _stage_from_json(content: dict[str, Any]) -> Stage:
    augmentation: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content["augmentation"].items()
    }
    return Stage(**{**content, "augmentation": Augmentation(**augmentation)})
