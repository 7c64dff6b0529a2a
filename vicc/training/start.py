"""Other starts than random weights (`vicc pretrain --start`): encoder folders, and torchvision's
weights.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vicc.backbones import require_backbone
from vicc.backbones.torchvision_weights import (
    LICENCE,
    NORMALIZATIONS,
    load_torchvision_weights,
    require_torchvision_weights,
    without_colour,
)
from vicc.batch import RgbNormalization, Stream
from vicc.distributed import first_then_others, on_first, rank
from vicc.errors import ViccError
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.methods.prototypes import Prototypes
from vicc.methods.task import Task
from vicc.progress import say
from vicc.training.beside_encoder import load_prototypes
from vicc.training.checkpoint import (
    PROTOTYPES_FILE,
    copy_weights,
    encoder_folder,
    load_encoder,
    weights_fingerprint,
)
from vicc.training.fit import changes
from vicc.training.stage import Recipe, Stage

TORCHVISION = "torchvision:"
"""Before the name of torchvision's weights."""

# What weights were made for, by the stream that it means something for; a stage may have others.
# How RGB is normalised comes with them, see `normalized_recipe`.
_INPUT = ("clip_frames", "stride", "size")
_INPUT_OF_STREAM: dict[Stream, tuple[str, ...]] = {
    "rgb": (),
    "flow": ("flow_center", "flow_std", "flow_normalization", "flow_short_side"),
    "diff": ("flow_normalization",),
}


@dataclass(frozen=True)
class Start:
    """Weights that stages begin with.

    Attributes:
        place: where they are from, as the run records it: an absolute folder, a name on the Hugging
            Face hub, or torchvision:NAME.
        encoder: holds them, with the config that they were made for; torchvision's for RGB, and
            without projection head.
        prototypes: of each head, from beside the encoder; empty for none.
        weights: fingerprint of all of them.
    """

    place: str
    encoder: Encoder
    prototypes: Sequence[torch.Tensor]
    weights: str

    @property
    def of_torchvision(self) -> bool:
        return self.place.startswith(TORCHVISION)


def load_starts(recipe: Recipe, places: Sequence[str | Path], *, silent: bool = False) -> dict[str, Start]:
    """What `--start` means for a recipe: the start of each stage that has one, by the stage's name.

    Called in all processes, of which the first may download something.

    Args:
        places: encoder folders, at most one of each stream, and torchvision:NAME; or none alone.
        silent: say nothing of what they give to the stages.

    Raises:
        ViccError: no such encoder or weights, two of one stream, weights of another backbone or
            number of channels than a stage has, or that no stage can begin with; or processes that
            read different weights.
    """
    first_stages = [stage for stage in recipe.stages if stage.start_from is None]
    for place in places:
        if str(place).startswith(TORCHVISION):
            _require_backbone_of(str(place), first_stages)  # before anything is downloaded
    sources = first_then_others(lambda: [_load(place) for place in places if str(place) != "none"])
    folders = [source for source in sources if not source.of_torchvision]
    by_stream: dict[str, Start] = {}
    for source in folders:
        other = by_stream.setdefault(source.encoder.config.stream, source)
        if other is not source:
            raise ViccError(
                f"--start {other.place} {source.place}: both are {source.encoder.config.stream} encoders; expected at "
                "most one of each stream."
            )
    by_backbone = {source.encoder.config.backbone: source for source in sources if source.of_torchvision}
    starts: dict[str, Start] = {}
    for stage in first_stages:
        start = by_stream.get(stage.stream) or by_backbone.get(require_backbone(stage.encoder.backbone))
        if start is not None:
            _require_fit(stage, start, recipe)
            starts[stage.name] = start
    for source in sources:
        _require_use(source, starts, first_stages)
    _require_same_everywhere(starts)
    if sources and not silent:
        for line in _told(first_stages, starts):
            say(line)
    return starts


def normalized_recipe(recipe: Recipe, starts: Mapping[str, Start], settings: Sequence[str]) -> Recipe:
    """The recipe with RGB normalised as the weights expect it, in the stages that begin with them
    and in those that go on from these; each change is printed.

    Args:
        settings: those of --set, which stay; where they ask for another normalisation, that is said.
    """
    wanted: dict[str, RgbNormalization] = {}
    for stage in recipe.stages:
        if stage.start_from in wanted:
            wanted[stage.name] = wanted[stage.start_from]
        elif stage.name in starts and stage.stream == "rgb":
            wanted[stage.name] = starts[stage.name].encoder.config.rgb_normalization
    if not wanted:
        return recipe
    stages = (
        stage.replace(rgb_normalization=wanted[stage.name]) if stage.name in wanted else stage
        for stage in recipe.stages
    )
    normalized = replace(recipe, stages=tuple(stages)).with_changes(settings)
    for line in changes(recipe, normalized):
        say(f"{line}, as the weights expect")
    for stage in normalized.stages:
        ours = stage.encoder.rgb_normalization
        theirs = wanted.get(stage.name, ours)
        if theirs != ours:
            say(f"warning: {stage.name}: the weights expect rgb_normalization {theirs}, and --set has {ours}")
    return normalized


def facts_of(starts: Mapping[str, Start]) -> dict[str, Any]:
    """What a run is because of them, for `claim_run`; nothing where all stages begin at random."""
    return {"start_weights": {name: start.weights for name, start in starts.items()}} if starts else {}


def notes_on(starts: Mapping[str, Start]) -> dict[str, Any]:
    """Where they were from when the run began; the same weights may be elsewhere when it goes on."""
    return {"start": {name: start.place for name, start in starts.items()}} if starts else {}


def take_weights(start: Start, stage: Stage, encoder: Encoder) -> None:
    """Begin with the backbone, and with the projection head where it has the same shape.

    Flow has no colours: there torchvision's first layer takes the mean over its channels. A change
    of colour (diff) goes through it as a colour does, since it is linear.

    Raises:
        ViccError: the backbone has other weights under the same name.
    """
    what = f"--start {start.place}, stage {stage.name}"
    if start.of_torchvision and stage.stream == "flow":
        state = start.encoder.backbone.state_dict()
        encoder.backbone.load_state_dict(without_colour(state, in_channels=encoder.config.in_channels))
    else:
        copy_weights(start.encoder.backbone, encoder.backbone, what=what)
    if _head_fits(start, stage):
        copy_weights(start.encoder.projection_head, encoder.projection_head, what=what)


def take_prototypes(start: Start, stage: Stage, task: Task) -> None:
    """Begin with the prototypes where there are some, as many in each head, of the same projection
    head.
    """
    if _prototypes_fit(start, stage):
        heads = [head for head in task.modules() if isinstance(head, Prototypes)]
        with torch.no_grad():
            for head, weight in zip(heads, start.prototypes, strict=True):
                head.weight.copy_(weight)


def _load(place: str | Path) -> Start:
    if str(place).startswith(TORCHVISION):
        return _from_torchvision(str(place))
    encoder = load_encoder(place)
    beside = (encoder_folder(place) / PROTOTYPES_FILE).exists()
    prototypes = load_prototypes(place) if beside else []
    name = str(Path(place).absolute()) if Path(place).exists() else str(place)  # of the hub
    return Start(name, encoder, prototypes, _fingerprint(encoder, prototypes))


def _from_torchvision(place: str) -> Start:
    name = place.removeprefix(TORCHVISION)
    encoder = Encoder(EncoderConfig("rgb", name, embedding_dim=0, rgb_normalization=NORMALIZATIONS[name]))
    encoder.backbone.load_state_dict(load_torchvision_weights(name))
    return Start(place, encoder.eval(), [], _fingerprint(encoder, []))


def _fingerprint(encoder: Encoder, prototypes: Sequence[torch.Tensor]) -> str:
    beside = {f"prototypes.{number}": weight for number, weight in enumerate(prototypes)}
    return weights_fingerprint({**encoder.state_dict(), **beside})


def _require_fit(stage: Stage, start: Start, recipe: Recipe) -> None:
    """Raises ViccError for another backbone or number of channels; says what would make them
    equal.
    """
    theirs, ours = start.encoder.config, stage.encoder
    if require_backbone(ours.backbone) != require_backbone(theirs.backbone):
        field, was, now = "backbone", theirs.backbone, ours.backbone
    elif not start.of_torchvision and ours.in_channels != theirs.in_channels:
        field, was, now = "flow_channels", theirs.flow_channels, ours.flow_channels
    else:
        return
    alike = [other.name for other in recipe.stages if other.stream == stage.stream]
    raise ViccError(
        f"--start {start.place}: its {field} is {was}, that of {stage.name} is {now}, so its weights do not fit. Give "
        f"--set {' '.join(f'{name}.{field}={was}' for name in alike)}, or another --start."
    )


def _require_use(source: Start, starts: Mapping[str, Start], first_stages: Sequence[Stage]) -> None:
    """Raises ViccError if no stage begins with it, as it would be ignored."""
    if any(start is source for start in starts.values()):
        return
    if source.of_torchvision:
        raise ViccError(
            f"--start {source.place}: another --start is for every stage that could begin with it. Leave one out."
        )
    found = ", ".join(f"{stage.name} sees {stage.stream}" for stage in first_stages)
    raise ViccError(
        f"--start {source.place}: it is a {source.encoder.config.stream} encoder, and no stage begins with that stream "
        f"({found}). Give another --start."
    )


def _require_backbone_of(place: str, first_stages: Sequence[Stage]) -> None:
    """Raises ViccError if torchvision has no such weights, or no stage has the backbone they are of."""
    name = place.removeprefix(TORCHVISION)
    require_torchvision_weights(name)
    if all(require_backbone(stage.encoder.backbone) != name for stage in first_stages):
        found = ", ".join(f"{stage.name} has {stage.encoder.backbone}" for stage in first_stages)
        raise ViccError(
            f"--start {place}: no stage could begin with it ({found}). Give --set all.backbone={name}, or another "
            "--start."
        )


def _require_same_everywhere(starts: Mapping[str, Start]) -> None:
    """Every process reads the weights itself; on several machines a folder need not be the same."""
    ours = {name: start.weights for name, start in starts.items()}
    theirs = on_first(lambda: ours)
    for name, start in starts.items():
        if theirs.get(name) != start.weights:
            raise ViccError(
                f"--start {start.place}: process {rank()} reads other weights there than process 0. Give a place that "
                "is the same on all machines."
            )


def _head_fits(start: Start, stage: Stage) -> bool:
    return 0 != stage.encoder.embedding_dim == start.encoder.config.embedding_dim


def _prototypes_fit(start: Start, stage: Stage) -> bool:
    counts = tuple(len(weight) for weight in start.prototypes)
    return bool(counts) and _head_fits(start, stage) and counts == stage.settings.prototype_heads()


def _told(first_stages: Sequence[Stage], starts: Mapping[str, Start]) -> Iterator[str]:
    """What each stage begins with, a line each; then what torchvision says of its weights."""
    for stage in first_stages:
        start = starts.get(stage.name)
        if start is None:
            yield f"{stage.name}: starts with random weights (no --start is for it)"
            continue
        parts = ["backbone"]
        if _head_fits(start, stage):
            parts.append("projection head")
        if _prototypes_fit(start, stage):
            parts.append("prototypes")
        colours = start.of_torchvision and stage.stream == "flow"
        mean = ", its first layer as the mean over colours" if colours else ""
        yield f"{stage.name}: starts from {start.place}: {', '.join(parts)}{mean}; all else is random"
        if not start.of_torchvision and (others := list(_other_input(stage.encoder, start.encoder.config))):
            yield (
                f"warning: {stage.name}: these weights were made for other input: {', '.join(others)}; the stage's own "
                "values are used"
            )
    if any(start.of_torchvision for start in starts.values()):
        yield f"torchvision's weights learned with the labels of Kinetics-400. {LICENCE}"


def _other_input(ours: EncoderConfig, theirs: EncoderConfig) -> Iterator[str]:
    for name in (*_INPUT, *_INPUT_OF_STREAM[ours.stream]):
        was, now = getattr(theirs, name), getattr(ours, name)
        if was != now:
            yield f"{name} {was}, not {now}"
