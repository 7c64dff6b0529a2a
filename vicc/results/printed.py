"""Results as tables for people."""

from collections.abc import Iterator, Sequence

from vicc.evaluation.result import Estimate, Result, not_from_scratch
from vicc.evaluation.uncertainty import FEW_QUERIES, FEWEST_GROUPS
from vicc.progress import duration
from vicc.results.comparison import Comparison, MetricComparison
from vicc.results.runs import RunState, StageState
from vicc.text_table import TextTable

_CLASSES_SHOWN = 5


def result_table(result: Result) -> TextTable:
    """Every metric in percent with its 95 % interval, one line a row of the result."""
    data = result.data
    # Names, and six metrics with their intervals below them, fit 80 characters.
    between = "\n" if len(result.metrics) > 3 else " "
    sections: dict[str, list[list[str]]] = {}
    for row in result.rows:
        parts = " + ".join(row.model.get("fused", []))
        name = f"{row.name} ({parts})" if parts not in ("", row.name) else row.name
        cells = [_cell(row.metrics.get(metric), between) for metric in result.metrics]
        sections.setdefault(row.kind, []).append([name, *cells])
    return TextTable(
        ["", *result.metrics],
        list(sections.values()),
        title=f"{data.test} test videos, {data.train} training videos, {len(data.classes)} classes, split {data.split}",
        caption=". ".join([result.protocol.title, *what_numbers_mean(result)]),
        numbers=True,
    )


def neighbours_tables(result: Result, queries: int) -> Iterator[TextTable | str]:
    """The nearest videos of the last queries, in the row of all streams together if there is one."""
    row, entries = list(result.neighbours.items())[-1]
    labels = {**dict(zip(result.queries.ids, result.queries.labels, strict=True)), **result.gallery}
    for entry in entries[-queries:]:
        label = labels.get(entry.query)
        found = [
            [f"{video} ({labels[video]})" if labels.get(video) else video, f"{1 - distance:.3f}"]
            for video, distance in zip(entry.videos, entry.distances, strict=True)
        ]
        yield TextTable([f"nearest to {entry.query}" + (f" ({label})" if label else ""), "similarity"], [found])
        yield ""
    fused = next((one.model.get("fused") for one in result.rows if one.name == row), None)
    told = f", the mean over {' and '.join(fused)}" if fused else ""
    yield f"By {row}, of {result.data.train} videos; similarity is the cosine{told}. {result.protocol.title}"


def what_numbers_mean(result: Result) -> Iterator[str]:
    """Sentences, without their last point, on what the numbers are and what is not shown because it
    says nothing.
    """
    queries, groups = len(result.queries.ids), len(set(result.queries.groups))
    if groups >= FEWEST_GROUPS:
        yield "In percent, in brackets the 95 % interval"
    else:
        yield f"In percent; {no_interval(groups)}"
    if queries <= FEW_QUERIES:
        yield f"One of the {queries} queries is {100 / queries:.1f} points"
    yield from not_from_scratch({row.name: row.model.get("start") for row in result.rows})
    reasons: dict[str, list[str]] = {}
    for metric, reason in result.not_measured.items():
        reasons.setdefault(reason, []).append(metric)
    for reason, metrics in reasons.items():
        yield f"Not shown: {', '.join(metrics)}, since {reason}"


def no_interval(groups: int) -> str:
    """Why numbers of so few groups stand without an interval."""
    return f"no interval, since the queries are of {groups} group{'s' * (groups > 1)} only"


def _cell(estimate: Estimate | None, between: str) -> str:
    if estimate is None:
        return "-"
    value = f"{100 * estimate.value:.1f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value}{between}({100 * estimate.low:.0f}–{100 * estimate.high:.0f})"


def comparison_tables(found: Comparison) -> Iterator[TextTable | str]:
    """A table for each row, a line a metric: both, their difference with its interval and p; then
    the classes.
    """
    yield f"{found.queries} queries of {found.groups} groups, split {', '.join(found.splits)}"
    for row in found.rows:
        yield TextTable(
            ["", "A", "B", "A - B", "p", "only A", "only B"],
            [[[metric, *_comparison_cells(entry)] for metric, entry in row.metrics.items()]],
            title=row.a if row.a == row.b else f"{row.a} (A) and {row.b} (B)",
            numbers=True,
        )
        yield ""
    for side, paths in (("A", found.a), ("B", found.b)):
        yield f"{side}: {', '.join(paths)}"
    yield found.protocol.title
    drawn = "in brackets the 95 % interval, of groups of queries resampled"
    yield (
        f"In percent; {drawn if found.groups >= FEWEST_GROUPS else no_interval(found.groups)}. p: "
        + " and ".join({entry.difference.test: None for row in found.rows for entry in row.metrics.values()})
        + "; of each line by itself. Only A, only B: queries that one of them does better; where there is none, "
        "nothing differs. None of it holds what another training would give."
    )
    for row in found.rows:
        shown = [entry for entry in row.classes if entry.a != entry.b][:_CLASSES_SHOWN]
        if shown:
            worst = ", ".join(
                f"{entry.label} {100 * (entry.a - entry.b):+.0f} ({entry.queries} queries)" for entry in shown
            )
            metric = next(iter(row.metrics))
            yield f"{row.a} - {row.b}, largest differences of a class in {metric}: {worst}"


def _comparison_cells(entry: MetricComparison) -> Iterator[str]:
    yield f"{100 * entry.a:.1f}"
    yield f"{100 * entry.b:.1f}"
    found = entry.difference
    if entry.only_a == entry.only_b == 0:
        yield "none"
        yield "-"
    else:
        between = ""
        if found.low is not None and found.high is not None:
            between = f" ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
        yield f"{100 * found.value:+.1f}{between}"
        yield f"{found.p:.4f}" if found.p >= 0.0001 else "< 0.0001"
    yield str(entry.only_a)
    yield str(entry.only_b)


def runs_tables(runs: Sequence[RunState]) -> Iterator[TextTable | str]:
    """Every stage that has begun of every run; the runs as a whole; the settings in which they
    differ, if they do.
    """
    yield TextTable(
        ["run\n  stage", "steps", "loss", "ln K", "instance\nR@1", "label\nR@1", "clips/s", "time", "alarms"],
        [[[run.run], *(list(_stage_cells(stage)) for stage in run.stages if stage.steps)] for run in runs],
        caption="loss: mean of the last 20 steps; ln K: loss at chance; instance R@1: instance retrieval R@1 (same "
        "video), and label R@1: R@1 by label, in percent, of the last evaluation while training, on training videos; "
        "of a classifier, label R@1 is the accuracy on validation videos",
        numbers=True,
    )
    yield ""
    yield _whole_runs(runs)
    for run in runs:
        if run.start:
            yield f"{run.run} is not from scratch: {run.start}"
        if run.differs:
            settings = ", ".join(f"{name}={value}" for name, value in run.differs.items())
            yield f"{run.run} differs: {settings}"


def _stage_cells(stage: StageState) -> Iterator[str]:
    yield f"  {stage.name}"
    yield f"{stage.steps:,}" if stage.steps == stage.total_steps else f"{stage.steps:,} of {stage.total_steps:,}"
    yield "-" if stage.loss is None else f"{stage.loss:.3f}"
    yield "-" if stage.chance_loss is None else f"{stage.chance_loss:.3f}"
    yield _percent(stage.instance_recall)
    yield _percent(stage.label_recall if stage.val_accuracy is None else stage.val_accuracy)
    yield "-" if stage.clips_per_second is None else f"{stage.clips_per_second:.3g}"
    minutes, seconds = divmod(round(3600 * stage.hours), 60)
    yield f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
    yield str(stage.alarms or "-")


def _whole_runs(runs: Sequence[RunState]) -> TextTable:
    rows = []
    for run in runs:
        done = sum(stage.finished for stage in run.stages)
        state = run.state if run.state == "finished" else f"{run.state}, {done} of {len(run.stages)} stages done"
        found = "\n".join(f"{name} {_percent(recall)}" for name, recall in run.retrieval.items()) or "-"
        time = duration(3600 * run.hours)
        rows.append([run.run, run.recipe, state, found, str(run.processes), run.precision, run.threads, time])
    header = ["run", "recipe", "state", "retrieval R@1", "processes", "precision", "threads", "time"]
    return TextTable(header, [rows])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
