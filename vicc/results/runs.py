"""`vicc runs`: the runs under some folders side by side: how far, how good, how fast, and which
settings differ.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from vicc.errors import ViccError
from vicc.evaluation.result import read_result
from vicc.evaluation.retrieve import RESULT_FILE
from vicc.files import atomic_write, is_held, require_writable
from vicc.places import require_folder
from vicc.progress import say
from vicc.results.configs import RunsConfig
from vicc.training.run import Run, find_runs
from vicc.training.schedule import stage_length
from vicc.training.stage import Stage
from vicc.training.watch.curves import draw_curve

# Okabe and Ito's, told apart by colour-blind readers too; beyond them the line style changes.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333")
_STYLES: tuple[Literal["solid", "dashed", "dotted"], ...] = ("solid", "dashed", "dotted")
_BY_STAGE = ("recipe", "start", "start_weights")  # of a run's description
_LAST = 20  # steps whose mean is the last loss


@dataclass(frozen=True)
class StageState:
    """How far a stage is, and the last numbers of its log.

    Attributes:
        loss: mean of the last steps; None before the first.
        chance_loss: the loss at chance, when all videos look alike to the encoder.
        instance_recall: instance retrieval R@1 (same video) of the last evaluation while training,
            see `OnlineEvaluation`.
        label_recall: where videos have labels, R@1 by label of the same evaluation.
        val_accuracy: of a classifier, at that time, on validation videos.
        clips_per_second: of all processes, over the whole stage.
        alarms: how many were said.
    """

    name: str
    finished: bool
    steps: int
    total_steps: int
    loss: float | None
    chance_loss: float | None
    instance_recall: float | None
    label_recall: float | None
    val_accuracy: float | None
    clips_per_second: float | None
    hours: float
    alarms: int


@dataclass(frozen=True)
class RunState:
    """A run.

    Attributes:
        precision, threads: of its starts, and from which step on where they were others.
        following: the command that is useful next; empty while it is running.
        start: which stages began with which weights; empty where all began with random ones.
        retrieval: R@1 of each row that `vicc retrieve` measured of what was trained; empty if it
            was not given yet.
        differs: settings in which the runs shown differ, by their names for --set and the like.
    """

    run: str
    recipe: str
    state: Literal["finished", "running", "stopped"]
    stages: list[StageState]
    retrieval: dict[str, float]
    processes: int
    precision: str
    hours: float
    differs: dict[str, str]
    threads: str = "unknown"
    following: str = ""
    start: str = ""

    @property
    def current(self) -> StageState | None:
        """The last stage that has begun."""
        return next((stage for stage in reversed(self.stages) if stage.steps), None)


def compare_runs(config: RunsConfig) -> list[RunState]:
    """The runs at or below the folders, by name; draws them into `config.out` if that is given.

    Raises:
        ViccError: a folder that does not exist, no run there that can be read, or a damaged log.
    """
    if config.out is not None:
        require_writable(config.out)
    runs = _readable(_find(config.folders))
    names = _short_names([run.folder for run in runs])
    differs = _differences([_settings(run) for run in runs])
    states = [_look(run, name, differing) for run, name, differing in zip(runs, names, differs, strict=True)]
    if config.out is not None:
        _draw(runs, names, config.out)
    return states


def _find(places: Sequence[Path]) -> list[Path]:
    found: dict[Path, Path] = {}
    for place in places:
        require_folder(place)
        for folder in find_runs(place):
            found.setdefault(folder.resolve(), folder)
    if not found:
        looked = ", ".join(map(str, places))
        raise ViccError(
            f"There is no run in {looked} (no recipe.json at any depth). Make one with: vicc pretrain --store STORE "
            "--run RUN"
        )
    return list(found.values())


def _readable(folders: Sequence[Path]) -> list[Run]:
    """The runs; one that this version cannot understand is left out, and that is said."""
    runs = []
    for folder in folders:
        try:
            run = Run(folder)
            _ = run.recipe, run.num_videos
            runs.append(run)
        except ViccError as error:
            say(f"left out {folder}: {error}")
            last = error
    if not runs:
        raise ViccError(f"None of {len(folders)} runs can be read: {last}")
    return runs


def _short_names(folders: Sequence[Path]) -> list[str]:
    """Paths without what all of them begin with."""
    parts = [folder.resolve().parts for folder in folders]
    shared = 0
    while all(len(part) > shared + 1 for part in parts) and len({part[shared] for part in parts}) == 1:
        shared += 1
    return [str(Path(*part[shared:])) for part in parts]


def _look(run: Run, name: str, differs: dict[str, str]) -> RunState:
    stages = [_stage_state(run, stage) for stage in run.stages]
    finished = all(stage.finished for stage in stages)
    state: Literal["finished", "running", "stopped"] = "running" if is_held(run.folder) else "stopped"
    retrieval = _retrieval(run)
    return RunState(
        run=name,
        recipe=run.recipe.name,
        start=run.start_in_words,
        state="finished" if finished else state,
        stages=stages,
        retrieval=retrieval,
        processes=run.processes,
        precision=_of_starts(run.starts, "precision"),
        threads=_of_starts(run.starts, "threads"),
        following=_following(run, state="finished" if finished else state, measured=bool(retrieval)),
        hours=sum(stage.hours for stage in stages),
        differs=differs,
    )


def _of_starts(starts: Sequence[dict[str, Any]], fact: str) -> str:
    """A fact of the starts of a run, for instance "bf16, fp32 from flow-1 step 7"; one that made no
    step is left out.

    Starts of older versions do not say at which stage and step they went on.
    """
    places = [(start.get("stage"), start.get("step")) for start in starts]
    known = [step is not None for _, step in places]
    told: list[str] = []
    last = None
    for number, (start, place) in enumerate(zip(starts, places, strict=True)):
        after = places[number + 1] if number + 1 < len(places) else None
        if (known[number] and place == after) or ("stage" in start and place == (None, None) and told):
            continue
        if start[fact] != last:
            where = " ".join(filter(None, (place[0], f"step {place[1]}"))) if known[number] else f"start {number + 1}"
            told.append(f"{start[fact]} from {where}" if told else str(start[fact]))
            last = start[fact]
    return ", ".join(told) or "unknown"


def _following(run: Run, *, state: str, measured: bool) -> str:
    """Train on, then measure, then look at it."""
    starts, folder = run.starts, str(run.folder)
    if state == "running" or not starts:
        return ""
    if state == "stopped":
        return str(starts[-1]["command"])
    flag = next((name for name in ("store", "videos") if name in starts[-1]), None)
    place = ["--store", "STORE"] if flag is None else [f"--{flag}", starts[-1][flag]]
    if all(stage.settings.classifies for stage in run.stages):
        return shlex.join(["vicc", "test", "--classifier", folder, *place])
    return shlex.join(["vicc", "report" if measured else "retrieve", "--run", folder, *place])


def _stage_state(run: Run, stage: Stage) -> StageState:
    log = run.log(stage.name)
    evaluated = _evaluated(run, stage)
    last = evaluated[-1] if evaluated else {}
    length = stage_length(stage, run.num_videos, run.processes)
    seconds = sum(row.get("waited", 0.0) + row.get("seconds", 0.0) for row in log)
    losses = [row["loss"] for row in log[-_LAST:]]
    clips = len(log) * length.batch_size * sum(stage.settings.clips_encoded())
    return StageState(
        name=stage.name,
        finished=stage in run.finished,
        steps=len(log),
        total_steps=length.steps,
        loss=sum(losses) / len(losses) if losses else None,
        chance_loss=stage.settings.chance_loss(length.batch_size),
        instance_recall=last.get("instance_recall"),
        label_recall=last.get("label_recall"),
        val_accuracy=last.get("val_accuracy"),
        clips_per_second=clips / seconds if seconds else None,
        hours=seconds / 3600,
        alarms=len(run.alarms(stage.name)),
    )


def _measured_by(stage: Stage) -> str:
    """What is looked at while such a stage trains."""
    return "val_accuracy" if stage.settings.classifies else "instance_recall"


def _evaluated(run: Run, stage: Stage) -> list[dict[str, Any]]:
    """The epochs of a stage after which it was looked at."""
    return [row for row in run.epochs(stage.name) if _measured_by(stage) in row]


def _retrieval(run: Run) -> dict[str, float]:
    if not (run.folder / RESULT_FILE).exists():
        return {}
    rows = read_result(run.folder / RESULT_FILE).rows
    return {row.name: row.metrics["R@1"].value for row in rows if row.kind in ("trained", "fused")}


def _settings(run: Run) -> dict[str, str]:
    """All that makes a run, as text by name; stages by their fields' names for --set."""
    flat = {name: str(value) for name, value in run.description.items() if name not in _BY_STAGE}
    for name in ("start", "start_weights"):
        flat |= {f"{stage}.{name}": str(value) for stage, value in run.description.get(name, {}).items()}
    for stage in run.recipe.to_json()["stages"]:
        fields = {**stage, **{f"augmentation.{name}": value for name, value in stage["augmentation"].items()}}
        del fields["augmentation"]
        flat |= {f"{stage['name']}.{name}": str(value) for name, value in fields.items() if name != "name"}
    return flat


def _differences(settings: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Of each run the settings that not all runs have alike; the same change of all stages is named
    once.
    """
    names = dict.fromkeys(name for one in settings for name in one)
    differing = [name for name in names if len({one.get(name) for one in settings}) > 1]
    result = []
    for one in settings:
        found: dict[str, str] = {}
        for name in differing:
            found[name] = one.get(name, "-")
        result.append(_joined(found))
    return result


def _joined(found: dict[str, str]) -> dict[str, str]:
    """rgb-1.size and flow-1.size of the same value as size of all the stages named."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, value in found.items():
        stage, dot, inner = name.partition(".")
        groups.setdefault((inner, value) if dot else (name, value), []).append(stage if dot else "")
    return {f"{'+'.join(stages)}.{name}" if stages[0] else name: value for (name, value), stages in groups.items()}


def _draw(runs: Sequence[Run], names: Sequence[str], path: Path) -> None:
    """A column for each stage name: the losses of all runs above, what evaluation found below."""
    stages = {stage.name: (stage, run) for run in runs for stage in run.stages}
    looks = [(color, style) for style in _STYLES for color in _COLORS]
    with rc_context({"font.size": 9, "font.family": "sans-serif"}):
        figure = Figure(figsize=(1.2 + 3.2 * len(stages), 5.2 + 0.2 * len(runs)), layout="constrained")
        panels = figure.subplots(2, len(stages), squeeze=False, sharex="col", sharey="row", height_ratios=(3, 2))
        for (above, below), (stage, last) in zip(panels.T, stages.values(), strict=True):
            for run, (color, style) in zip(runs, cycle(looks)):
                has = any(other.name == stage.name for other in run.stages)
                draw_curve(above, run.log(stage.name) if has else [], "loss", color=color, linestyle=style)
                points = [(row["step"], row[_measured_by(stage)]) for row in (_evaluated(run, stage) if has else [])]
                below.plot(*zip(*points, strict=True) if points else ([], []), "o", ls=style, color=color, ms=3)
            _label(above, below, stage, stage_length(stage, last.num_videos, last.processes).batch_size)
        panels[0, 0].set_ylabel("loss")
        classifiers = all(stage.settings.classifies for stage, _ in stages.values())
        panels[1, 0].set_ylabel("accuracy, validation" if classifiers else "instance retrieval R@1")
        marks = [Line2D([], [], color=color, linestyle=style) for _, (color, style) in zip(runs, cycle(looks))]
        figure.legend(marks, names, loc="outside lower center", frameon=False, ncols=2)
        with atomic_write(path, "wb") as file:
            figure.savefig(file, format=path.suffix.removeprefix(".").lower(), dpi=130)


def _label(above: Axes, below: Axes, stage: Stage, batch_size: int) -> None:
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", linewidth=0.5, alpha=0.35)
    above.set_title(stage.name, loc="left", fontsize=10, fontweight="bold")
    chance = stage.settings.chance_loss(batch_size)
    if chance is not None:
        above.axhline(chance, color="#777777", linestyle="dashed", linewidth=1)
        above.annotate(
            stage.settings.chance_name,
            (1, chance),
            (0, 2),
            above.get_yaxis_transform(),
            "offset points",
            ha="right",
            fontsize=8,
        )
    below.set_ylim(-0.03, 1.03)
    below.set_xlabel("step")
    below.xaxis.set_major_locator(MaxNLocator(4, integer=True))
