"""What `benchmarks/ablate.py` has measured: rows with intervals and paired differences, a picture, correlations."""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ablate_jobs import IMAGENET, LABELS, STREAMS, UNTRAINED, Data, Job, all_jobs, inner_splits
from ablate_variants import build_recipe
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vicc import Run, ViccError, read_result
from vicc.evaluation.result import Estimate, Result, Row
from vicc.evaluation.uncertainty import Difference, estimate, reported
from vicc.results.comparison import compare
from vicc.results.configs import CompareConfig
from vicc.results.pool import pooled_queries, pooled_scores, strata_of
from vicc.training.classifier_folder import CLASSIFIER_STAGE
from vicc.training.watch.log import EPOCHS_FILE, read_log

METRICS = {"retrieval": "R@1", "probe": "top-1", "test": "top-1"}
"""The metric of each kind of result; "test" is of classifiers that were trained end to end."""
_CHOSEN = "chosen"
_UNEQUAL = 0.2  # share of the time that was meant
_TITLES = {"retrieval": "R@1", "probe": "probe top-1"}
_NO_QUANTITY = {
    "step",
    "epoch",
    "steps",
    "seconds",
    "clips_per_second",
    "waited_share",
    "learning_rate",
    "label_recall",
}
"""Of the log, what says nothing of a model, and what needs labels."""


@dataclass(frozen=True)
class Entry:
    """A row of a result file."""

    job: Job
    path: Path
    result: Result
    row: Row


@dataclass
class Line:
    """A row of the table: all that it was measured by, for each kind of result."""

    label: str
    group: str
    entries: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))

    def covered(self, kind: str) -> set[tuple[int, str]]:
        """The seeds and splits that were measured."""
        return {(entry.job.seed, entry.job.split) for entry in self.entries[kind]}


def collect(jobs: Sequence[Job]) -> dict[str, Line]:
    """The rows of all finished jobs, by their labels. Of untrained encoders the hand-made rows come beside them."""
    lines: dict[str, Line] = {}
    for job in (job for job in jobs if job.finished):
        for kind in METRICS:
            for path in sorted(job.run.glob(f"{kind}*.json")):
                result = read_result(path)
                for row in result.rows:
                    if (row.kind in ("trained", "fused")) != (job.name == UNTRAINED):
                        group = row.kind if job.name == UNTRAINED else job.name
                        line = lines.setdefault(label := _label(job, path, row), Line(label, group))
                        line.entries[kind].append(Entry(job, path, result, row))
    return lines


def _label(job: Job, path: Path, row: Row) -> str:
    if job.name == UNTRAINED:
        return row.name
    if job.name == IMAGENET:
        return "ImageNet features of frames"
    if job.name == LABELS:
        streams = {"test-rgb": "RGB", "test-flow": "Flow", "test-both": "R+F"}
        return f"{LABELS}: {streams.get(path.stem, row.name.partition(' ')[0])}"
    return job.name if len(build_recipe(job.name)[0].stages) == 1 else f"{job.name}: {row.name}"


def pooled(entries: Sequence[Entry], metric: str) -> Estimate:
    """Over all queries of all splits, each averaged over the seeds, with the interval over sources."""
    queries = pooled_queries([entry.result for entry in entries])
    scores = pooled_scores([(entry.result, entry.row) for entry in entries], metric, queries)
    if scores is None:  # chance, which is known exactly
        return Estimate(statistics.mean(entry.row.metrics[metric].value for entry in entries))
    groups = [query.group for query in queries]
    return reported(estimate(scores, groups, strata=strata_of(metric, queries)), groups)


def summary(line: Line, kind: str, against: Line | None) -> dict[str, Any] | None:
    """A cell: the number with its interval, each seed's, and the paired difference from a row on the same folds."""
    entries, metric = line.entries[kind], METRICS[kind]
    if not entries:
        return None
    by_seed: dict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_seed[entry.job.seed].append(entry)
    each = {str(seed): pooled(some, metric).value for seed, some in sorted(by_seed.items())}
    found: dict[str, Any] = {**asdict(pooled(entries, metric)), "seeds": each, "runs": len(entries)}
    if against is not None and line is not against and against.entries[kind] and entries[0].row.ranks is not None:
        splits = [{split for _, split in one.covered(kind)} for one in (line, against)]
        if splits[0] == splits[1] and line.group != _CHOSEN:
            found["difference"] = asdict(paired(entries, against.entries[kind], metric))
    return found


def paired(a: Sequence[Entry], b: Sequence[Entry], metric: str) -> Difference:
    """What `vicc compare` says of two rows."""
    sides = [[f"{entry.path}:{entry.row.name}" for entry in entries] for entries in (a, b)]
    return compare(CompareConfig(a=sides[0], b=sides[1])).rows[0].metrics[metric].difference


def training(line: Line) -> dict[str, Any]:
    """Of a learned row the steps of each stage that it builds on, and their seconds by the log; medians of runs."""
    spent = [_spent(entry) for entry in line.entries["retrieval"] if line.group != _CHOSEN]
    if not any(spent):
        return {}
    steps = {stage: round(statistics.median(one[stage][0] for one in spent)) for stage in spent[0]}
    seconds = statistics.median(sum(part for _, part in one.values()) for one in spent)
    return {"steps": steps, "logged_seconds": round(seconds, 1)}


def _spent(entry: Entry) -> dict[str, tuple[int, float]]:
    """Steps and seconds of each stage that a row builds on."""
    job, row = entry.job, entry.row
    folders: dict[str, Path] = {}
    if job.name == LABELS:
        streams = STREAMS if row.kind == "fused" else (row.model["stream"],)
        folders = {stream: job.run / stream / CLASSIFIER_STAGE for stream in streams}
    elif job.name not in (UNTRAINED, IMAGENET):
        stages = Run(job.run).stages
        wanted = {
            stage.name for stage in stages if row.kind == "fused" or stage.name == Path(row.model["encoder"]).name
        }
        for stage in reversed(stages):
            wanted |= {stage.start_from or "", stage.teacher or ""} if stage.name in wanted else set()
        folders = {stage.name: job.run / stage.name for stage in stages if stage.name in wanted}
    logs = {name: read_log(folder) for name, folder in folders.items()}
    return {name: (len(log), sum(step["seconds"] + step["waited"] for step in log)) for name, log in logs.items()}


def unequal_times(rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> Iterator[str]:
    """A note for each learned row that took clearly more or less time than it was to take."""
    for row in rows:
        if options.steps is None and row["group"] in options.variants and row.get("steps"):
            recipe, stages = build_recipe(row["group"])
            meant = stages * options.seconds * len(row["steps"]) / len(recipe.stages)
            if abs(row["logged_seconds"] / meant - 1) > _UNEQUAL:
                yield (
                    f"**Not equal time**: {row['row']} took {row['logged_seconds']:.0f} s by the clock where "
                    f"{meant:.0f} were meant, since the machine was busier or idler when its steps were timed. Measure "
                    "again in another --out, on a quiet machine"
                )


def chosen_line(data: Data, lines: dict[str, Line], options: argparse.Namespace) -> tuple[Line, list[str]]:
    """What the inner folds of each test fold choose, R@1 and probe each for itself, and in words which that is.

    Raises:
        ViccError: not everything that it is chosen from is measured.
    """
    inner, outer = collect(all_jobs(data, options, inner=options.inner_choice)), data.outer_splits(options.folds)
    labels = [label for label, line in lines.items() if line.group in options.variants]
    line, words = Line(f"chosen on {options.inner_choice} inner folds", _CHOSEN), []
    for kind in _TITLES:
        for split in outer:
            wanted = {(seed, one) for seed in options.seeds for one in inner_splits(split, options.inner_choice)}
            scores = {}
            for label in labels:
                found = inner[label].entries[kind] if label in inner else []
                tried = [entry for entry in found if (entry.job.seed, entry.job.split) in wanted]
                here = {(seed, split) for seed in options.seeds} <= lines[label].covered(kind)
                if len(tried) < len(wanted) or not here:
                    raise ViccError(
                        f"--inner-choice {options.inner_choice}: {label} of {data.name} is not measured on all inner "
                        f"and test folds. Give the same command with --inner {options.inner_choice} in its place first."
                    )
                scores[label] = pooled(tried, METRICS[kind]).value
            best = max(labels, key=lambda label: scores[label])
            line.entries[kind] += [entry for entry in lines[best].entries[kind] if entry.job.split == split]
            words.append(f"{_TITLES[kind]}, {split}: chosen is {best} ({scores[best]:.3f} on the inner folds)")
    return line, words


def document(data: Data, options: argparse.Namespace) -> dict[str, Any]:
    """All that is finished of a data set, as plain values.

    Raises:
        ViccError: no such row as --against names, or see `chosen_line`.
    """
    lines, notes = collect(all_jobs(data, options, inner=options.inner)), list[str]()
    if options.inner_choice and any(line.group in options.variants for line in lines.values()):
        line, notes = chosen_line(data, lines, options)
        lines[line.label] = line
    if options.against and lines and options.against not in lines:
        raise ViccError(f"--against {options.against}: {data.name} has no such row yet; there are: {', '.join(lines)}.")
    order = ["chance", "baseline", "untrained", IMAGENET, *options.variants, _CHOSEN, LABELS]
    rows = []
    for line in sorted(lines.values(), key=lambda line: order.index(line.group)):
        cells = {kind: summary(line, kind, lines.get(options.against)) for kind in METRICS}
        rows.append({"row": line.label, "group": line.group, **cells, **training(line)})
    queries: dict[str, str] = {}
    for entry in (entry for line in lines.values() for entry in line.entries["retrieval"]):
        queries |= dict(zip(entry.result.queries.ids, entry.result.queries.groups, strict=True))
    return {
        "data": data.name,
        "videos": len(queries),
        "sources": len(set(queries.values())),
        "rows": rows,
        "notes": [*notes, *unequal_times(rows, options)],
    }


def markdown(found: dict[str, Any], options: argparse.Namespace) -> str:
    """One data set's table."""
    length = f"{options.steps:g} times the demo's steps" if options.steps else f"{options.seconds:g} CPU s a stage"
    what = f"{options.inner} inner folds of the training videos" if options.inner else "test folds"
    against = f" Differences from {options.against}, p: paired on the same videos." if options.against else ""
    titles = ["row", *("R@1", "seeds", "difference, p"), *("probe top-1", "seeds", "difference, p"), "own top-1"]
    titles += ["steps", "s (log)", "runs"]
    lines = [
        f"## {found['data']}, {what}\n",
        f"{found['videos']} videos of {found['sources']} sources, seeds {' '.join(map(str, options.seeds))}, {length}. "
        f"Brackets: 95 % bootstrap interval over sources, of the mean over seeds. Beside it each seed.{against} "
        "Own top-1: of the classifiers themselves (vicc test). Seconds are those of the training log.\n",
        f"| {' | '.join(titles)} |",
        "|---" * len(titles) + "|",
    ]
    for row in found["rows"]:
        cells = [*_texts(row["retrieval"]), *_texts(row["probe"]), _texts(row["test"])[0]]
        steps = " + ".join(map(str, row.get("steps", {}).values()))
        seconds = f"{row['logged_seconds']:.0f}" if "logged_seconds" in row else ""
        lines.append(f"| {row['row']} | {' | '.join([*cells, steps, seconds, str(row['retrieval']['runs'])])} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in found["notes"])]) + "\n"


def _texts(cell: dict[str, Any] | None) -> tuple[str, str, str]:
    """The number, each seed's, and the difference."""
    if cell is None:
        return "", "", ""
    between = "" if cell["low"] is None else f" ({cell['low']:.2f}–{cell['high']:.2f})"
    difference = ""
    if found := cell.get("difference"):
        reach = "" if found["low"] is None else f" ({found['low']:+.2f} to {found['high']:+.2f})"
        difference = f"{found['value']:+.3f}{reach}, {found['p']:.2g}"
    return f"{cell['value']:.3f}{between}", " ".join(f"{value:.2f}" for value in cell["seeds"].values()), difference


def draw(documents: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel for each data set, a line for each row: both numbers, their intervals, and each seed."""
    most = max(len(found["rows"]) for found in documents)
    figure = Figure(figsize=(7.5 * len(documents), 1.6 + 0.36 * most), layout="constrained")
    panels = figure.subplots(1, len(documents), squeeze=False)[0]
    for axes, found in zip(panels, documents, strict=True):
        names = [row["row"] for row in found["rows"]]
        for kind, color, shift in (("retrieval", "tab:blue", -0.15), ("probe", "tab:orange", 0.15)):
            for place, row in enumerate(found["rows"]):
                if row[kind] is not None:
                    _draw_cell(axes, row[kind], place + shift, color)
            axes.plot([], [], "o", color=color, label=_TITLES[kind])
        for place, row in enumerate(found["rows"]):
            if row["group"] == "chance":
                axes.axvline(row["retrieval"]["value"], color="grey", linestyle=":", linewidth=1)
            shade = {LABELS: "#e8f4e8", _CHOSEN: "#fdf3dc"}.get(row["group"], "0.95")
            if row["group"] in ("chance", "baseline", "untrained", IMAGENET, LABELS, _CHOSEN):
                axes.axhspan(place - 0.5, place + 0.5, color=shade, zorder=0)
        axes.set(
            title=f"{found['data']}: {found['videos']} videos of {found['sources']} sources", ylim=(most - 0.5, -0.5)
        )
        axes.set(yticks=range(len(names)), yticklabels=names, xlabel="share of videos; lines: 95 %, ticks: seeds")
        axes.grid(axis="x", alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    figure.savefig(path, dpi=110)


def _draw_cell(axes: Axes, cell: dict[str, Any], height: float, color: str) -> None:
    each = list(cell["seeds"].values())
    if cell["low"] is not None:
        axes.plot([cell["low"], cell["high"]], [height, height], color=color, linewidth=1.5)
        axes.plot(each, [height] * len(each), "|", color=color, markersize=9)
    axes.plot(cell["value"], height, "o", color=color, markersize=5)


def end_of_stages(job: Job) -> Iterator[tuple[str, str, float, dict[str, float]]]:
    """Of each stage of a run its name, its stream, its R@1, and what the log says without labels at its end."""
    stages = {stage.name: stage for stage in Run(job.run).stages}
    for row in read_result(job.run / "retrieval.json").rows:
        if row.kind == "trained":
            stage = stages[Path(row.model["encoder"]).name]
            last: dict[str, float] = {}
            for epoch in read_log(job.run / stage.name, EPOCHS_FILE):  # not every epoch is evaluated
                last |= {name: value for name, value in epoch.items() if name not in _NO_QUANTITY}
            if chance := stage.settings.chance_loss(stage.length.batch_size):
                last["loss over chance"] = last["loss"] / chance
            yield stage.name, stage.stream, row.metrics["R@1"].value, last


def correlations(data: Data, jobs: Sequence[Job]) -> str:
    """How well each quantity of the log orders runs, and variants (means of seeds and folds), as R@1 does."""
    runs: dict[tuple[str, str], list[tuple[str, float, float]]] = defaultdict(list)
    for job in jobs:
        if job.finished and job.name not in (UNTRAINED, LABELS, IMAGENET):
            for stage, stream, recall, values in end_of_stages(job):
                for name, value in values.items():
                    runs[stream, name].append((f"{job.name}: {stage}", value, recall))
    lines = [
        f"## {data.name}: rank correlation (Spearman) with R@1\n",
        "Of all runs, and of models, whose seeds and folds are averaged before.\n",
        "| stream | at the end of a stage | runs | correlation | models | correlation |",
        "|---|---|---|---|---|---|",
    ]
    for (stream, name), found in sorted(runs.items()):
        models: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for model, value, recall in found:
            models[model].append((value, recall))
        means = [np.mean(pairs, axis=0).tolist() for pairs in models.values()]
        both = ([pair[1:] for pair in found], means)
        cells = [f"{len(pairs)} | {_signed(rank_correlation(*zip(*pairs, strict=True)))}" for pairs in both]
        lines.append(f"| {stream} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's, equal values at their mean rank; None where one of them does not vary."""
    ranks = [[sum(other < value for other in x) + sum(other <= value for other in x) for value in x] for x in (a, b)]
    if min(len(set(one)) for one in ranks) < 2:
        return None
    return float(np.corrcoef(ranks)[0, 1])


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"
