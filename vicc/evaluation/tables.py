"""Results as tables for people."""

from collections.abc import Iterator, Sequence

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


def runs_tables(runs: Sequence[RunState]) -> Iterator[Table]:
    """Every stage that has begun of every run; then the settings in which the runs differ, if they do."""
    titles = ("run", "stage", "state", "steps", "loss (ln K)", "own video", "label", "clips/s", "time", "alarms")
    table = Table(
        *(Column(name, justify="left" if name in ("run", "stage", "state") else "right") for name in titles),
        caption="loss: mean of the last 20 steps; own video, label: R@1 in percent of the last evaluation while "
        "training, of training videos",
    )
    for run in runs:
        table.add_section()
        begun = [stage for stage in run.stages if stage.steps]
        for number, stage in enumerate(begun):
            table.add_row(escape(run.run) if number == 0 else "", *_stage_cells(run, stage))
        if not begun:
            table.add_row(escape(run.run), "-", run.state)
    yield table
    yield _whole_runs(runs)


def _stage_cells(run: RunState, stage: StageState) -> Iterator[str]:
    yield stage.name
    yield "finished" if stage.finished else run.state
    yield f"{stage.steps:,}" if stage.steps == stage.total_steps else f"{stage.steps:,} of {stage.total_steps:,}"
    yield "-" if stage.loss is None else f"{stage.loss:.3f} ({stage.chance_loss:.3f})"
    yield _percent(stage.own_video_recall)
    yield _percent(stage.label_recall)
    yield "-" if stage.clips_per_second is None else f"{stage.clips_per_second:.3g}"
    yield duration(3600 * stage.hours)
    yield str(stage.alarms or "-")


def _whole_runs(runs: Sequence[RunState]) -> Table:
    titles = ("run", "recipe", "state", "retrieval R@1", "processes", "precision", "time", "what differs")
    table = Table(*(Column(name, overflow="fold") for name in titles))
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
            escape("\n".join(f"{name}={value}" for name, value in run.differs.items())) or "-",
        )
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
