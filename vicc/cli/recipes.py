"""`vicc recipes`: the list, and one recipe in full: its stages, its learning rate, what it costs."""

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vicc.cli.configs import RecipesConfig
from vicc.cli.outcome import Outcome, say_next
from vicc.files import require_writable
from vicc.recipes import RECIPES, TRAINING_VIDEOS, create_recipe
from vicc.text_table import TextTable, print_line, print_table
from vicc.training.schedule import StageLength, stage_learning_rate, stage_length
from vicc.training.stage import Recipe, Stage

# Backward costs about twice as much as forward.
_COST_WITHOUT_GRADIENT = 1 / 3
_CURVE_POINTS = 100
_BAR_WIDTH = 40
_BARS = "▁▂▃▄▅▆▇█"
# Okabe and Ito's colours, told apart by colour-blind readers too.
_COLORS = {"rgb": "#0072b2", "flow": "#d55e00", "diff": "#cc79a7"}


@dataclass(frozen=True)
class StageCost:
    """What a stage takes: steps done, clips encoded with and without gradient, hours of one GPU."""

    stage: str
    steps: int
    schedule_steps: int
    clips_with_gradient: int
    clips_without_gradient: int
    gpu_hours: float


def list_recipes() -> Outcome:
    """Every recipe with a line on what it is for."""
    described = {name: build().description for name, build in RECIPES.items()}

    def show() -> None:
        print_table(TextTable(["recipe", "what for"], [list(described.items())]))
        say_next("vicc recipes show NAME")

    return Outcome(described, show)


def show_recipe(name: str, config: RecipesConfig) -> Outcome:
    """One recipe in full, with the changes of --set; draws its learning rate into --plot.

    Raises:
        ViccError: no such recipe, stage or field.
    """
    if config.plot is not None:
        require_writable(config.plot, instead="Give another --plot")
    recipe = create_recipe(name, motion=config.motion, changes=config.set)
    changes = list(_differences(create_recipe(name, motion=config.motion), recipe))
    known = config.videos or next((count for data, count in TRAINING_VIDEOS.items() if name.endswith(data)), None)
    videos = known or TRAINING_VIDEOS["ucf101"]
    lengths = {stage.name: stage_length(stage, videos) for stage in recipe.stages}
    curves = {stage.name: learning_rate_curve(stage, lengths[stage.name]) for stage in recipe.stages}
    costs = [stage_cost(stage, lengths[stage.name], config.clips_per_second) for stage in recipe.stages]
    gpu_hours = total_cost(costs).gpu_hours
    document = {
        "recipe": recipe.to_json(),
        "changes": changes,
        "videos": videos,
        "learning_rate": curves,
        "cost": {
            "clips_per_second": config.clips_per_second,
            "gpus": config.gpus,
            "stages": [asdict(cost) for cost in costs],
            "gpu_hours": gpu_hours,
            "hours": gpu_hours / config.gpus,
        },
    }
    if config.plot is not None:
        plot_learning_rate(recipe, lengths, curves, config.plot)

    def show() -> None:
        print_line(f"{recipe.name}: {recipe.description}")
        for table in _values_tables(recipe):
            print_table(table)
            print_line("")
        for change in changes:
            before, after = _text(change["from"]), _text(change["to"])
            print_line(f"changed: {change['stage']}.{change['field']} from {before} to {after}")
        print_table(_learning_rate_table(recipe, lengths, curves))
        print_line("")
        print_table(_cost_table(costs, config, videos, guessed=known is None))
        if config.plot is not None:
            print_line(f"plot: {config.plot}")
        more = "".join(
            f" {flag}" for flag in [*(["--motion diff"] * (config.motion == "diff")), *_set_flag(config.set)]
        )
        say_next(f"vicc pretrain --recipe {name}{more} --store STORE --run RUN")

    return Outcome(document, show)


def _set_flag(changes: list[str]) -> list[str]:
    return ["--set", *(shlex.quote(change) for change in changes)] if changes else []


def stage_cost(stage: Stage, length: StageLength, clips_per_second: float) -> StageCost:
    """What a stage takes on GPUs that each train on so many clips a second.

    A clip without gradient counts a third, a smaller view by its share of a full view's pixels.
    Reading videos is not counted: it has to keep up.
    """
    with_gradient, without = stage.settings.clips_encoded()
    groups = stage.settings.small_resolutions()
    small = sum(count * (1 - (pixels / stage.encoder.size) ** 2) for count, pixels in groups)
    samples = length.steps * length.batch_size
    seconds = samples * (with_gradient - small + without * _COST_WITHOUT_GRADIENT) / clips_per_second
    return StageCost(
        stage.name, length.steps, length.schedule_steps, samples * with_gradient, samples * without, seconds / 3600
    )


def total_cost(costs: list[StageCost]) -> StageCost:
    """All stages together."""
    return StageCost(
        "all",
        sum(cost.steps for cost in costs),
        sum(cost.schedule_steps for cost in costs),
        sum(cost.clips_with_gradient for cost in costs),
        sum(cost.clips_without_gradient for cost in costs),
        sum(cost.gpu_hours for cost in costs),
    )


def learning_rate_curve(stage: Stage, length: StageLength) -> list[tuple[float, float]]:
    """Points (epoch, learning rate) of the whole schedule, also those around milestones and the end
    of warm-up.
    """
    rate = stage_learning_rate(stage, length)
    last = length.schedule_steps - 1
    corners = [stage.schedule.warmup_steps, *(epoch * length.steps_per_epoch for epoch in stage.schedule.milestones)]
    steps = {round(last * point / _CURVE_POINTS) for point in range(_CURVE_POINTS + 1)}
    steps |= {step for corner in corners for step in (corner - 1, corner) if 0 <= step <= last}
    return [(step / length.steps_per_epoch, rate(step)) for step in sorted(steps)]


def plot_learning_rate(
    recipe: Recipe, lengths: dict[str, StageLength], curves: dict[str, list[tuple[float, float]]], path: Path
) -> None:
    """Write a figure: one panel a stage, as wide as the stage is long; dashed is the schedule that
    is not run.
    """
    from matplotlib.figure import Figure

    ends = [lengths[stage.name].schedule_steps / lengths[stage.name].steps_per_epoch for stage in recipe.stages]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    # A short stage beside a long one keeps the width that its name needs.
    widths = [max(end, 0.28 * max(ends)) for end in ends]
    panels = figure.subplots(1, len(ends), sharey=True, squeeze=False, width_ratios=widths)[0]
    marks: dict[str, Any] = {}
    for panel, stage, end in zip(panels, recipe.stages, ends, strict=True):
        stop = lengths[stage.name].steps / lengths[stage.name].steps_per_epoch
        marks |= _draw_stage(panel, stage, curves[stage.name], stop)
        panel.set(xlim=(0, end), xlabel="epoch")
        panel.set_title(stage.name, fontsize=9, color=_COLORS[stage.stream])
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("learning rate")
    if any(stage.schedule.name == "step" for stage in recipe.stages):
        panels[0].set_yscale("log")
    else:
        panels[0].set_ylim(0, 1.05 * max(rate for curve in curves.values() for _, rate in curve))
    if marks:
        figure.legend(marks.values(), marks, loc="outside lower center", ncols=len(marks), frameon=False)
    figure.suptitle(recipe.name)
    figure.savefig(path, dpi=150)


def _draw_stage(panel: Any, stage: Stage, curve: list[tuple[float, float]], stop: float) -> dict[str, Any]:
    """One stage's curve and spans; returns what the legend has to explain."""
    marks: dict[str, Any] = {}
    color = _COLORS[stage.stream]
    done = [point for point in curve if point[0] <= stop]
    panel.plot(*zip(*done, strict=True), color=color, linewidth=2)
    if len(done) < len(curve):
        rest = zip(*curve[len(done) - 1 :], strict=True)
        marks["of the schedule, not run"] = panel.plot(*rest, color=color, linestyle="dotted")[0]
    frozen, opens = stage.settings.epochs_frozen(), stage.settings.queue_opens()
    if frozen:
        marks["prototypes frozen"] = panel.axvspan(0, min(frozen, stop), color="#999999", alpha=0.35, linewidth=0)
    if stage.settings.prototype_heads() and stage.settings.queue_rows() and opens < stop:
        marks["queue open"] = panel.axvspan(opens, stop, color="#009e73", alpha=0.15, linewidth=0)
    return marks


def _values_tables(recipe: Recipe) -> Iterator[TextTable]:
    """What differs between stages, stage by stage; then what is the same wherever it means
    something.
    """
    rows = _rows(recipe)
    differing, same = [], []
    for name, values in rows.items():
        texts = {_text(value) for value in values if value is not _NOTHING}
        if len(texts) > 1 or name in ("method", "stream", "start_from", "teacher"):
            differing.append([name, *("" if value is _NOTHING else _text(value) for value in values)])
        elif texts:
            same.append([name, texts.pop()])
    yield TextTable(["", *(stage.name for stage in recipe.stages)], [differing])
    yield TextTable(["in all stages", ""], [same])


_NOTHING = object()


def _rows(recipe: Recipe) -> dict[str, list[Any]]:
    """The values of each field, stage by stage; `_NOTHING` where it means nothing there."""

    def about_flow(name: str) -> bool:
        return "flow_" in name and name != "flow_normalization"

    sees_flow = any(stage.stream == "flow" for stage in recipe.stages)
    stages = recipe.to_json()["stages"]
    flat = [
        {
            **{name: value for name, value in stage.items() if name not in ("name", "augmentation")},
            **{f"augmentation.{name}": value for name, value in stage["augmentation"].items()},
        }
        for stage in stages
    ]
    return {
        name: [
            values[name]
            if name in values and _applies(stage, name) and (sees_flow or not about_flow(name))
            else _NOTHING
            for stage, values in zip(recipe.stages, flat, strict=True)
        ]
        for name in dict.fromkeys(name for values in flat for name in values)
    }


_OF_SWAPPED_PREDICTION = (
    "num_prototypes",
    "epsilon",
    "sinkhorn_iterations",
    "temperature",
    "queue_length",
    "freeze_prototypes_epochs",
    "views_for_assign",
)


def _applies(stage: Stage, name: str) -> bool:
    """Whether a field means something beside the stage's other values."""
    if name == "queue_from_epoch":
        return stage.settings.queue_rows() > 0
    if name in ("contrast_temperature", "contrast_memory"):
        return bool(stage.flat()["contrast_weight"])
    if name in _OF_SWAPPED_PREDICTION and "swap_weight" in stage.flat():
        return bool(stage.flat()["swap_weight"])
    if name == "flow_std" and stage.encoder.flow_channels != "uv":
        return False
    if name in ("milestones", "decay"):
        return stage.schedule.name == "step"
    if name in ("final_learning_rate", "warmup_steps"):
        return stage.schedule.name == "cosine"
    if name == "rgb_normalization":
        return stage.stream == "rgb"
    if name == "flow_normalization":
        return stage.stream != "rgb" or stage.teacher is not None
    if "flow_" in name:
        return stage.stream == "flow" or stage.teacher is not None
    return name not in ("steps", "epochs") or getattr(stage.length, name) is not None


def _differences(before: Recipe, after: Recipe) -> Iterator[dict[str, Any]]:
    """Fields in which two recipes with the same stages differ; None where a stage has no such
    field.
    """
    for old, new in zip(before.to_json()["stages"], after.to_json()["stages"], strict=True):
        inner_old, inner_new = old.pop("augmentation"), new.pop("augmentation")
        old |= {f"augmentation.{name}": value for name, value in inner_old.items()}
        new |= {f"augmentation.{name}": value for name, value in inner_new.items()}
        for name in dict.fromkeys((*old, *new)):  # of another method some fields are gone, others come
            if old.get(name) != new.get(name):
                yield {"stage": old["name"], "field": name, "from": old.get(name), "to": new.get(name)}


def _learning_rate_table(
    recipe: Recipe, lengths: dict[str, StageLength], curves: dict[str, list[tuple[float, float]]]
) -> TextTable:
    highest = max(rate for curve in curves.values() for _, rate in curve)
    rows = []
    for stage in recipe.stages:
        length = lengths[stage.name]
        rate = stage_learning_rate(stage, length)
        columns = [length.schedule_steps * column // _BAR_WIDTH for column in range(_BAR_WIDTH)]
        # The lowest bar stands for all that is small, a point for what is not run.
        bars = (_BARS[max(0, round(8 * rate(step) / highest) - 1)] if step < length.steps else "·" for step in columns)
        stop, end = (steps / length.steps_per_epoch for steps in (length.steps, length.schedule_steps))
        epochs = f"{end:.4g}" if stop == end else f"{stop:.4g} of {end:.4g}"
        rows.append([stage.name, "".join(bars), f"{rate(0):.3g}", f"{rate(length.steps - 1):.3g}", epochs])
    return TextTable(["", "learning rate", "from", "to", "epochs"], [rows])


def _cost_table(costs: list[StageCost], config: RecipesConfig, videos: int, *, guessed: bool) -> TextTable:
    cells = [
        (
            cost.stage,
            f"{cost.steps:,}",
            f"{cost.clips_with_gradient:,}",
            f"{cost.clips_without_gradient:,}",
            _hours(cost.gpu_hours),
            _hours(cost.gpu_hours / config.gpus),
        )
        for cost in [*costs, total_cost(costs)]
    ]
    return TextTable(
        ["", "steps", "clips with gradient", "without", "GPU-hours", "hours"],
        [cells[:-1], cells[-1:]],
        caption=f"{videos:,} videos{' as in UCF101 (--videos)' if guessed else ''}; {config.gpus} "
        f"GPU{'s' * (config.gpus > 1)} (--gpus) that train on {config.clips_per_second:g} clips/s each "
        "(--clips-per-second), a clip without gradient counting a third",
        numbers=True,
    )


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{part:g}" for part in value) or "-"
    return "-" if value is None or value == "" else str(value)
