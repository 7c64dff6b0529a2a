"""Results as tables for people."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.markup import escape
from rich.table import Column, Table

from vicc.evaluation.retrieve import RetrievalResult, Row
from vicc.evaluation.runs import RunState, StageState
from vicc.progress import duration


def retrieval_table(result: RetrievalResult) -> Table:
    """R@k in percent with 95 % intervals, one line a row of the result."""
    protocol = result.protocol
    table = Table(
        title=f"retrieval: {protocol['queries']} test videos search {protocol['gallery']} training videos, "
        f"{protocol['classes']} classes, split {protocol['split']}"
        + (", frames shuffled" if protocol["shuffled_frames"] else ""),
        caption="R@k: share of queries with one of their class among the k nearest; in brackets the 95 % interval",
    )
    ks = list(result.rows[0].recall)
    table.add_column("")
    for k in ks:
        table.add_column(f"R@{k}", justify="right")
    previous = result.rows[0].kind
    for row in result.rows:
        if row.kind != previous:
            table.add_section()
            previous = row.kind
        name = f"{row.name} ({' + '.join(protocol['fused'][row.name])})" if row.kind == "fused" else row.name
        table.add_row(name, *(_cell(row, k) for k in ks))
    return table


def _cell(row: Row, k: str) -> str:
    if row.interval is None:
        return f"{100 * row.recall[k]:.1f}"
    low, high = row.interval[k]
    return f"{100 * row.recall[k]:.1f} ({100 * low:.0f}–{100 * high:.0f})"


def runs_tables(runs: Sequence[RunState]) -> Iterator[Table | str]:
    """Every stage that has begun of every run; the runs as a whole; the settings in which they differ, if they do."""
    titles = ("steps", "loss", "ln K", "own\nvideo", "label", "clips/s", "time", "alarms")
    table = Table(
        Column("run\n  stage", overflow="fold"),
        *(Column(name, justify="right", no_wrap=True) for name in titles),
        box=box.SIMPLE,
        pad_edge=False,  # so that ten columns fit 80 characters
        caption="loss: mean of the last 20 steps; own video, label: R@1 in percent of the last evaluation while "
        "training, of training videos",
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
    yield _percent(stage.label_recall)
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
