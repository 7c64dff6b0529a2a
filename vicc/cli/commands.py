"""What stands between a command line and a library function: call it, and say how its result reads."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from vicc.configs import (
    DemoConfig,
    DemoVideosConfig,
    PrepareConfig,
    PretrainConfig,
    RecipesConfig,
    ReportConfig,
    RetrieveConfig,
)


@dataclass(frozen=True)
class Outcome:
    """What a command leaves: a document for machines, a way to show it to people, an exit status."""

    document: Any
    show: Callable[[], None]
    status: int = 0


def demo_videos(config: DemoVideosConfig) -> Outcome:
    from vicc.prepare.demo_videos import write_demo_videos
    from vicc.progress import progress

    with progress("videos", total=config.train + config.test, unit="videos") as advance:
        done = 0

        def on_progress(finished: int, total: int) -> None:
            nonlocal done
            advance(finished - done, "")
            done = finished

        count = write_demo_videos(
            config.folder,
            num_train=config.train,
            num_test=config.test,
            seed=config.seed,
            num_workers=config.workers,
            on_progress=on_progress,
        )
    document = {"folder": str(config.folder), "train": config.train, "test": config.test, "written": count}
    return Outcome(
        document, lambda: _print(f"{config.train} training and {config.test} test videos in {config.folder}")
    )


def prepare(config: PrepareConfig) -> Outcome:
    from vicc.prepare.build import prepare_videos

    report = prepare_videos(config)

    def show() -> None:
        if config.dry_run:
            return
        table = Table("store", "videos", "frames", "size", "classes", "set aside")
        table.add_row(
            escape(report.store),
            f"{report.found} found, {report.prepared} new",
            f"{report.frames:,}",
            f"{report.store_bytes / 1e6:.1f} MB",
            str(len(report.labels)) if report.labels else "no labels",
            str(len(report.set_aside)),
        )
        Console().print(table)
        _reasons("set aside", [(entry.id, entry.reason) for entry in report.set_aside])
        _reasons("partly readable", list(report.notes.items()))

    return Outcome(asdict(report), show)


def pretrain(config: PretrainConfig) -> Outcome:
    from vicc.cli import EXIT_STOPPED
    from vicc.recipes import create_recipe
    from vicc.training.engine import Stopped
    from vicc.training.pretrain import pretrain as run

    recipe = create_recipe(config.recipe, views=config.views, changes=config.set)
    try:
        stages = run(recipe, config)
    except Stopped:
        return Outcome({"run": str(config.run), "stopped": True}, lambda: None, EXIT_STOPPED)
    document = {"run": str(config.run), "recipe": recipe.name, "stages": [asdict(stage) for stage in stages]}

    def show() -> None:
        titles = ("stage", "method", "from", "teacher", "videos x clips a step", "steps", "state")
        table = Table(*(Column(title, overflow="fold") for title in titles))
        for stage, summary in zip(recipe.stages, stages, strict=True):
            early = summary.schedule_steps != summary.total_steps
            table.add_row(
                stage.name,
                stage.method,
                stage.start_from or "random weights",
                stage.teacher or "-",
                f"{summary.batch_size} x {sum(stage.clips_encoded)}",
                f"{summary.steps} of {summary.total_steps}" + early * f" (schedule {summary.schedule_steps})",
                "finished" if summary.finished else "planned" if config.dry_run else "not finished",
            )
        Console().print(table)
        if not config.dry_run:
            _print(f"finished: encoders are in {config.run}/STAGE/encoder")

    return Outcome(document, show)


def retrieve(config: RetrieveConfig) -> Outcome:
    from vicc.evaluation.retrieve import in_short, result_file
    from vicc.evaluation.retrieve import retrieve as run
    from vicc.evaluation.tables import retrieval_table

    result = run(config)
    where = config.run / result_file(shuffled=config.shuffle_frames)

    def show() -> None:
        if result.labelled:
            Console().print(retrieval_table(result))
        _print(
            f"written to {where}"
            + ("" if result.labelled else " (nearest neighbours; without labels there is no table)")
        )

    return Outcome(in_short(result).to_json(), show)


def report(config: ReportConfig) -> Outcome:
    from vicc.evaluation.report import write_report

    path = write_report(config)
    return Outcome({"report": str(path), "bytes": path.stat().st_size}, lambda: _print(f"report: {path.absolute()}"))


def recipes(config: RecipesConfig) -> Outcome:
    from vicc.cli.recipes import list_recipes, show_recipe

    return list_recipes() if config.name is None else show_recipe(config.name, config)


def demo(config: DemoConfig) -> Outcome:
    from vicc.cli.demo import walk

    return walk(config)


def _reasons(title: str, entries: list[tuple[str, str]]) -> None:
    if entries:
        table = Table(title, "reason")
        for name, reason in entries:
            table.add_row(escape(name), escape(reason))
        Console().print(table)


def _print(line: str) -> None:
    Console().print(line, markup=False, highlight=False, soft_wrap=True)
