"""What is trained: a recipe is a list of stages. Plain data, free of torch, so that it can be
listed in no time.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from vicc.batch import Stream
from vicc.data.sampling import ViewDistance
from vicc.errors import ViccError
from vicc.methods.configs import EncoderConfig, MethodSettings
from vicc.methods.registry import list_methods, method_settings
from vicc.settings import converted, from_text, hints_of, range_problems
from vicc.transforms.augmentation import PRESETS, Augmentation
from vicc.words import did_you_mean, either, nearest


@dataclass(frozen=True)
class OptimizerSettings:
    """What moves the weights."""

    name: Literal["larc", "adam", "adamw", "sgd"] = "larc"
    """"larc" is SGD with layer-wise rates, published for ViCC; "adam", whose weight decay is a part
    of the gradient, is published for the baselines; "sgd" for classifiers.
    """
    momentum: float = 0.9
    """Of Adam the first of its two."""
    weight_decay: float = 1e-6
    """Share of a weight that every step takes away, times the learning rate."""


_FOLDER_NAME = re.compile(r"\w[\w-]*")


@dataclass(frozen=True)
class ScheduleSettings:
    """The learning rate over a stage."""

    name: Literal["cosine", "step"] = "cosine"
    """"cosine" from learning_rate to final_learning_rate, or "step": times `decay` at each
    milestone.
    """
    learning_rate: float = 0.6
    """At the start, or after the warm-up."""
    final_learning_rate: float = 0.0006
    """At the end of a cosine."""
    warmup_steps: int = 0
    """Steps in which it rises, before a cosine."""
    milestones: tuple[int, ...] = ()
    """Epochs at which it falls."""
    decay: float = 0.1
    """Factor at each milestone."""


@dataclass(frozen=True)
class LengthSettings:
    """How long a stage is."""

    batch_size: int = 16
    """Videos a step, those of all processes together."""
    epochs: int | None = None
    """Length of the schedule; this or `steps`."""
    steps: int | None = None
    """Length of the schedule; this or `epochs`."""
    stop_epoch: int | None = None
    """End after so many epochs of the schedule; None for all."""


@dataclass(frozen=True, init=False)
class Stage:
    """The training of one encoder: by which method, from which weights, how, for how long.

    A stage is made from flat values, named as in --set and recipe.json: `Stage("rgb-1",
    "single_stream", "rgb", steps=100, queue_length=64, optimizer="adamw", size=64)`. These are the
    fields of the parts below, of the method's own settings too; `optimizer` and `schedule` set the
    `name` of those two parts.

    Attributes:
        name: folder of the stage in the run, for instance "rgb-1".
        method: a name in `list_methods()`: "single_stream" and "cross_stream" are ViCC; "infonce",
            "ubernce" and "coclr" its baselines; "linear_probe" and "fine_tuned" classifiers.
        start_from: stage whose weights are taken as the start; None for random weights.
        teacher: stage whose encoder of the other stream is the teacher, where the method needs one.
        encoder: configuration of the encoder that is trained; its flow bound is that of the store,
            once there is one.
        settings: those of the method.
        optimizer, schedule, length: of the training: update rule, learning rate, steps or epochs.
        view_distance: how far apart the clips of a video lie, see `random_clips`.
        augmentation: how views are drawn.
    """

    name: str
    method: str
    start_from: str | None
    teacher: str | None
    encoder: EncoderConfig
    settings: MethodSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    length: LengthSettings
    view_distance: ViewDistance
    augmentation: Augmentation

    def __init__(
        self,
        name: str,
        method: str,
        stream: Stream,
        start_from: str | None = None,
        teacher: str | None = None,
        *,
        augmentation: Augmentation | None = None,
        **values: Any,
    ) -> None:
        """
        Args:
            stream: what the encoder sees: "rgb", or of motion "flow" or "diff" (how RGB changes
                from frame to frame, which needs no flow).
            values: fields of the parts and of the method's settings.

        Raises:
            ViccError: no such method or field, a value that the field cannot take, or values that
                contradict each other; names the stage, the field, and the nearest known word.
        """
        if not isinstance(name, str) or not _FOLDER_NAME.fullmatch(name) or name == "all":
            raise ViccError(
                f"A stage is named {name!r}; expected letters, digits, - and _, as its folder in the run has that "
                'name ("all" means every stage).'
            )
        try:
            places = _places(method)
        except ViccError as error:
            raise ViccError(f"Stage {name}: {error}") from None
        values = {"stream": stream, **values}
        for field_name in values:
            if field_name not in places:
                raise ViccError(f"Stage {name}: {no_such_field(method, field_name)}")
        parts: dict[str, dict[str, Any]] = {part: {} for part in (*_PARTS, "settings", "")}
        for field_name, value in values.items():
            part, inner, hint = places[field_name]
            try:
                parts[part][inner] = converted(value, hint, finite=False)
            except ValueError as error:
                raise ViccError(f"Stage {name}: {field_name} is {value!r}; {error}") from None
        augmentation = Augmentation() if augmentation is None else augmentation
        if not isinstance(augmentation, Augmentation):
            raise ViccError(f"Stage {name}: augmentation is {augmentation!r}; expected an Augmentation.")
        flow_center = augmentation.flow_center
        fields: dict[str, Any] = {
            "name": name,
            "method": method,
            "start_from": start_from,
            "teacher": teacher,
            **{part: kind(**parts[part]) for part, kind in _PARTS.items() if part != "encoder"},
            "encoder": EncoderConfig(**parts["encoder"], flow_center=flow_center),
            "settings": method_settings(method)(**parts["settings"]),
            "view_distance": parts[""].get("view_distance", "any"),
            "augmentation": augmentation,
        }
        for field_name, value in fields.items():
            object.__setattr__(self, field_name, value)  # frozen for everybody else
        self._check()

    @property
    def stream(self) -> Stream:
        """The stream that the encoder takes."""
        return self.encoder.stream

    def flat(self) -> dict[str, Any]:
        """All values that the stage is made from, by name; `augmentation` as one object."""
        values: dict[str, Any] = {"name": self.name, "method": self.method, "stream": self.stream}
        values |= {"start_from": self.start_from, "teacher": self.teacher}
        for field_name, (part, inner, _) in _places(self.method).items():
            values[field_name] = getattr(getattr(self, part) if part else self, inner)
        return {**values, "augmentation": self.augmentation}

    def to_json(self) -> dict[str, Any]:
        """The values of `flat` as plain JSON types; `stage_from_json` makes the stage from them
        again.
        """
        return json.loads(json.dumps({**self.flat(), "augmentation": asdict(self.augmentation)}))

    def replace(self, **values: Any) -> "Stage":
        """The stage with some of the values of `flat` replaced.

        With another method, values of fields that the new method does not have are dropped.

        Raises:
            ViccError: as when it is made.
        """
        kept = self.flat()
        if values.get("method", self.method) != self.method:
            known = {*_FIXED, *_places(values["method"])}
            kept = {name: value for name, value in kept.items() if name in known}
        return Stage(**{**kept, **values})

    def _check(self) -> None:
        for problem in (
            *self._number_problems(),
            *self._length_problems(),
            *self._teacher_problems(),
            *self.settings.problems(self.encoder),
        ):
            raise ViccError(f"Stage {self.name}: {problem}.")
        if self.stream == "flow":
            self.require_flow_image()

    def _number_problems(self) -> Iterator[str]:
        """Of all but the method's settings, which judge their own."""
        return range_problems(
            self.flat(),
            from_one=("batch_size", "clip_frames", "stride", "size", "epochs", "steps", "stop_epoch"),
            above_zero=("flow_std",),
            from_zero=("learning_rate", "final_learning_rate", "weight_decay", "warmup_steps", "decay"),
            below_one=("momentum",),
        )

    def _length_problems(self) -> Iterator[str]:
        length, schedule = self.length, self.schedule
        if (length.epochs is None) == (length.steps is None):
            yield f"epochs={length.epochs} and steps={length.steps}; give one of the two, set the other to none"
        elif length.stop_epoch is not None and length.epochs is None:
            yield (
                f"stop_epoch={length.stop_epoch} ends a schedule of epochs, and this one has steps={length.steps}; set "
                "stop_epoch=none, or epochs in place of steps"
            )
        elif length.stop_epoch is not None and length.epochs is not None and length.stop_epoch > length.epochs:
            yield (
                f"stop_epoch={length.stop_epoch} lies beyond the schedule, which has epochs={length.epochs}; expected "
                "at most that, or none for all of it"
            )
        if schedule.name == "cosine" and schedule.milestones:
            yield f"milestones={schedule.milestones} belong to schedule=step; schedule is cosine"
        if schedule.name == "step" and schedule.warmup_steps:
            yield f"warmup_steps={schedule.warmup_steps} belong to schedule=cosine; schedule is step"
        if list(schedule.milestones) != sorted({milestone for milestone in schedule.milestones if milestone > 0}):
            yield f"milestones are {schedule.milestones}; expected epochs from 1 in rising order"

    def _teacher_problems(self) -> Iterator[str]:
        if self.settings.needs_teacher != (self.teacher is not None):
            rule = "takes no teacher" if self.teacher else "needs a teacher, a stage of the other stream"
            yield f"{self.method} {rule}; teacher is {self.teacher}"

    def require_flow_image(self) -> None:
        """Raises ViccError if the augmentation takes flow for an image where the encoder does not."""
        if self.augmentation.flow_as_image and self.encoder.flow_channels == "uv":
            raise ViccError(
                f"Stage {self.name}: augmentation.flow_as_image changes the colours of (128, v, u), and flow_channels "
                "is uv. Set flow_channels=128vu, or augmentation.flow_as_image=false."
            )


_PARTS: dict[str, type] = {
    "encoder": EncoderConfig,
    "length": LengthSettings,
    "optimizer": OptimizerSettings,
    "schedule": ScheduleSettings,
}
_FIXED = ("name", "method", "stream", "start_from", "teacher", "augmentation")
# Of the encoder, but not set here: the bound is the store's, and the augmentation says whether flow
# is centred.
_ELSEWHERE = ("flow_bound", "flow_center")


def _places(method: str) -> dict[str, tuple[str, str, Any]]:
    """Of each flat field of a method's stages its part ("" for the stage itself), its name there,
    and its type.
    """
    return _places_of(method, method_settings(method))  # type: ignore[arg-type]  # mypy: a class has no hash


@functools.cache  # by the settings too: a method whose module is imported again may have others
def _places_of(method: str, settings: type[MethodSettings]) -> dict[str, tuple[str, str, Any]]:
    found: dict[str, tuple[str, str, Any]] = {}
    kinds: dict[str, type] = {"encoder": EncoderConfig, "settings": settings, **_PARTS}
    for part, kind in kinds.items():
        if part == "length":
            found["view_distance"] = ("", "view_distance", ViewDistance)
        for name, hint in hints_of(kind).items():
            flat = part if name == "name" else name
            if flat in found or (part == "settings" and flat in _taken()):
                raise ViccError(f"Method {method}: its settings have a field {flat}, which every stage has. Rename it.")
            if flat not in _ELSEWHERE:
                found[flat] = (part, name, hint)
    return found


def _taken() -> set[str]:
    """Names that the settings of a method may not have."""
    of_parts = (name for part in _PARTS.values() for name in hints_of(part))
    return {*_FIXED, *_PARTS, *of_parts, "view_distance"}


def stage_fields() -> list[str]:
    """All names that STAGE.FIELD=VALUE can have, of all methods; those of `augmentation` are not
    among them.
    """
    return sorted({*_FIXED, *(name for method in list_methods() for name in _places(method))})


def no_such_field(method: str, name: str) -> str:
    """What to say of a field that stages of this method do not have: the nearest one, or whose it
    is.
    """
    others = [other for other in list_methods() if name in _places(other)]
    if others:
        return f"{method} has no {name}, a field of {', '.join(others)}."
    known = [known for known in _places(method) if known != "stream"]
    # A short answer where the field meant is plain: there are half a hundred.
    of_views = {entry.name: f"augmentation.{entry.name}" for entry in dataclasses.fields(Augmentation)}
    inner = name.startswith("augmentation.")
    places = of_views if inner else of_views | {field_name: field_name for field_name in known}
    near = [places[word] for word in nearest(name.removeprefix("augmentation."), places)]
    question = f" Did you mean {either(near)}?" if near else ""
    listed = "" if question else f" Known are {', '.join(known)}, augmentation, augmentation.FIELD."
    return f"there is no field {name}.{question}{listed}"


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
            if stage.teacher and (other := earlier[stage.teacher].encoder.crop) != stage.encoder.crop:
                raise ViccError(
                    f"Stage {stage.name} has crop={stage.encoder.crop}, its teacher {stage.teacher} crop={other}; both "
                    "see the same views, so set one for both, for instance all.crop=motion."
                )
            if stage.teacher and earlier[stage.teacher].stream == "flow":
                stage.require_flow_image()
            if stage.name in earlier:
                raise ViccError(f"Recipe {self.name} has two stages named {stage.name}.")
            earlier[stage.name] = stage

    def to_json(self) -> dict[str, Any]:
        """Name, description and, of each stage, the flat values that it is made from."""
        stages = [stage.to_json() for stage in self.stages]
        return {"name": self.name, "description": self.description, "stages": stages}

    @staticmethod
    def from_json(content: dict[str, Any]) -> "Recipe":
        """The recipe that `to_json` described.

        Raises:
            ViccError: fields that this version does not know or lacks.
        """
        try:
            stages = tuple(stage_from_json(stage) for stage in content["stages"])
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
        """The recipe with other resolutions in its ViCC stages, as 2xPIXELS, then +COUNTxPIXELS for
        smaller views.

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
            stage.replace(size=int(pixels), small_views=small) if "small_views" in stage.flat() else stage
            for stage in self.stages
        )
        return replace(self, stages=tuple(stages))

    def with_motion(self, motion: Literal["flow", "diff"]) -> "Recipe":
        """The recipe with another stream of motion: "diff" (how RGB changes from frame to frame)
        replaces flow, and the stage flow-1 becomes diff-1.
        """
        if motion == "flow":
            return self
        names = {
            stage.name: re.sub(r"^flow", motion, stage.name) if stage.stream == "flow" else stage.name
            for stage in self.stages
        }
        stages = (
            stage.replace(
                name=names[stage.name],
                stream=motion if stage.stream == "flow" else stage.stream,
                start_from=stage.start_from and names[stage.start_from],
                teacher=stage.teacher and names[stage.teacher],
            )
            for stage in self.stages
        )
        return replace(self, stages=tuple(stages))

    def with_changes(self, changes: Sequence[str]) -> "Recipe":
        """The recipe with fields of stages replaced, each change as STAGE.FIELD=VALUE (`all` for
        every stage).

        STAGE.augmentation=NAME takes a whole augmentation of `PRESETS`; its fields can be changed
        beside it.

        Raises:
            ViccError: no such stage or field, or a value of the wrong type.
        """
        changes = [changes] if isinstance(changes, str) else changes  # one change, and no list of letters
        methods = {stage.name: stage.method for stage in self.stages}
        split = [_split_change(change, list(methods), recipe=self.name) for change in changes]
        # First the methods, in whatever order they are given: the fields that a stage has are those
        # of its method.
        for change, (stage_name, field_name, text) in zip(changes, split, strict=True):
            if field_name == "method":
                try:
                    method_settings(text)
                except ViccError as error:
                    raise ViccError(f"--set {change}: {error}") from None
                methods.update(dict.fromkeys(methods if stage_name == "all" else [stage_name], text))
        pending: dict[str, dict[str, Any]] = {}
        for change, (stage_name, field_name, text) in zip(changes, split, strict=True):
            names = [stage_name]
            if stage_name == "all":  # those that have such a field; where none has it, the first one says so
                names = [name for name, method in methods.items() if field_name in _places(method)] or list(methods)
            for name in names:
                pending.setdefault(name, {}).update(_parse_change(methods[name], field_name, text, change))
        return replace(self, stages=tuple(_replace(stage, pending.get(stage.name, {})) for stage in self.stages))


def _split_change(change: str, stages: Sequence[str], *, recipe: str) -> tuple[str, str, str]:
    """Stage (or "all"), field and value of one --set."""
    path, equals, text = change.partition("=")
    stage_name, dot, field_name = path.partition(".")
    if not equals or not dot:
        raise ViccError(f"--set {change}: expected STAGE.FIELD=VALUE, for instance {stages[0]}.epochs=50.")
    if stage_name != "all" and stage_name not in stages:
        raise ViccError(
            f"--set {change}: recipe {recipe} has no stage {stage_name}; it has {', '.join(stages)}."
            + did_you_mean(stage_name, [*stages, "all"])
        )
    return stage_name, field_name, text


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
    return stage.replace(**outer, augmentation=replace(augmentation, **inner))


def _parse_change(method: str, field_name: str, text: str, change: str) -> dict[str, Any]:
    """The value of one --set for stages of a method."""
    if field_name == "augmentation":
        if text not in PRESETS:
            raise ViccError(
                f"--set {change}: there is no augmentation {text!r}; known are {', '.join(PRESETS)}."
                + did_you_mean(text, PRESETS)
            )
        return {field_name: PRESETS[text]}
    if field_name.startswith("augmentation."):
        hint = hints_of(Augmentation).get(field_name.removeprefix("augmentation."))
    else:
        hint = _STAGE_HINTS.get(field_name) or _places(method).get(field_name, (None,) * 3)[2]
    if hint is None:
        raise ViccError(f"--set {change}: {no_such_field(method, field_name)}")
    try:
        return {field_name: from_text(text, hint, finite=False)}
    except ValueError as error:
        raise ViccError(f"--set {change}: {text!r} is not a value for {field_name}; {error}") from None


_STAGE_HINTS: dict[str, Any] = {"method": str, "start_from": str | None, "teacher": str | None}

# Before methods had settings of their own, every stage was written with the fields of all of them.
_ONCE_EVERYWHERE = frozenset(
    field_name
    for method in ("single_stream", "cross_stream", "coclr", "fine_tuned")
    for field_name, (part, _, _) in _places(method).items()
    if part == "settings"
)


def stage_from_json(content: dict[str, Any]) -> Stage:
    """The stage whose flat values stand in a recipe.json or a checkpoint, those of older versions
    included.
    """

    def tuples(values: dict[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    views = content["augmentation"]
    if not isinstance(views, dict):
        raise ViccError(f"Stage {content['name']}: augmentation is {views!r}; expected an object with its fields.")
    known = {*_FIXED, *_places(content["method"])}
    values = {name: value for name, value in content.items() if name in known or name not in _ONCE_EVERYWHERE}
    return Stage(**{**tuples(values), "augmentation": Augmentation(**tuples(views))})
