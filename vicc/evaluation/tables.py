"""Results as tables for people."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.markup import escape
from rich.table import Column, Table

from vicc.evaluation.results import Estimate, Result
from vicc.evaluation.runs import RunState, StageState
from vicc.progress import duration


def result_table(result: Result) -> Table:
    """Every metric in percent with its 95 % interval, one line a row of the result."""
    data = result.data
    table = Table(
        title=f"{data.test} test videos, {data.train} training videos, {len(data.classes)} classes, "
        f"split {escape(data.split)}",
        caption=f"{escape(result.protocol.title)}; in percent, in brackets the 95 % interval",
    )
    table.add_column("")
    for metric in result.metrics:
        table.add_column(metric, justify="right")
    previous = result.rows[0].kind
    for row in result.rows:
        if row.kind != previous:
            table.add_section()
            previous = row.kind
        name = f"{row.name} ({' + '.join(row.model['fused'])})" if row.kind == "fused" else row.name
        table.add_row(escape(name), *(_cell(row.metrics.get(metric)) for metric in result.metrics))
    return table


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    value = f"{100 * estimate.value:.1f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({100 * estimate.low:.0f}–{100 * estimate.high:.0f})"


def runs_tables(runs: Sequence[RunState]) -> Iterator[Table | str]:
    """Every stage that has begun of every run; the runs as a whole; the settings in which they differ, if they do."""
    titles = ("steps", "loss", "ln K", "own\nvideo", "label", "clips/s", "time", "alarms")
    table = Table(
        Column("run\n  stage", overflow="fold"),
        *(Column(name, justify="right", no_wrap=True) for name in titles),
        box=box.SIMPLE,
        pad_edge=False,  # so that ten columns fit 80 characters
        caption="loss: mean of the last 20 steps; own video, label: R@1 in percent of the last evaluation while "
        "training, of training videos; of a classifier, label: accuracy on validation videos",
    )
    for run in runs:
        table.add_section()
        table.add_row(escape(run.run))
        for stage in run.stages:
            if stage.steps:
                table.add_row(*_stage_cells(stage))
    yield table
    yield _whole_runs(runs)
    for run in runs:
        if run.differs:
            settings = ", ".join(f"{name}={value}" for name, value in run.differs.items())
            yield escape(f"{run.run} differs: {settings}")


def _stage_cells(stage: StageState) -> Iterator[str]:
    yield f"  {escape(stage.name)}"
    yield f"{stage.steps:,}" if stage.steps == stage.total_steps else f"{stage.steps:,} of {stage.total_steps:,}"
    yield "-" if stage.loss is None else f"{stage.loss:.3f}"
    yield f"{stage.chance_loss:.3f}"
    yield _percent(stage.own_video_recall)
    yield _percent(stage.label_recall if stage.val_accuracy is None else stage.val_accuracy)
    yield "-" if stage.clips_per_second is None else f"{stage.clips_per_second:.3g}"
    minutes, seconds = divmod(round(3600 * stage.hours), 60)
    yield f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
    yield str(stage.alarms or "-")


def _whole_runs(runs: Sequence[RunState]) -> Table:
    titles = ("run", "recipe", "state", "retrieval\nR@1", "processes", "precision", "time")
    table = Table(*(Column(name, overflow="fold") for name in titles), box=box.SIMPLE, pad_edge=False)
    for run in runs:
        done = sum(stage.finished for stage in run.stages)
        table.add_row(
            escape(run.run),
            escape(run.recipe),
            run.state if run.state == "finished" else f"{run.state}, {done} of {len(run.stages)} stages done",
            "\n".join(f"{name} {_percent(recall)}" for name, recall in run.retrieval.items()) or "-",
            str(run.processes),
            run.precision,
            duration(3600 * run.hours),
        )
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
