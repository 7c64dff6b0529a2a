"""Commands that put results and runs side by side."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from vicc.cli.outcome import Outcome, command_line, print_parts, say_next
from vicc.results.configs import CompareConfig, FuseConfig, RunsConfig, TableConfig
from vicc.text_table import print_line, print_table


def table(config: TableConfig) -> Outcome:
    from vicc.results.formats import render, text_table
    from vicc.results.table import show_table

    sheet, document = show_table(config)

    def show() -> None:
        if config.out is not None:
            print_line(f"written to {config.out}")
        elif config.format == "text":
            print_table(text_table(sheet))
            for note in sheet.notes:
                print_line(note)
            say_next(_after_table(config, document))
        else:
            print(render(sheet, config.format), end="")

    return Outcome(document, show)


def _after_table(config: TableConfig, document: Any) -> str:
    """From many to two, from all classes of one to its classes, and to which are taken for which.

    Args:
        document: of the table shown; of models, those that can be compared stand in one group of
            columns.
    """
    from vicc.results.comparable import open_measured

    first, *others = config.results
    # A folder in which results lie further down is no result by itself.
    alone = [not Path(place).is_dir() or (Path(place) / "retrieval.json").exists() for place in config.results]
    if not alone[0]:
        return command_line("runs", first)
    if config.view == "models" and [len(one["splits"]) for one in document["measurements"]] == [1]:
        if others and alone[1]:
            return command_line("compare", first, others[0])
        names = [row.name for row in open_measured(first).rows if row.kind != "chance"]
        if not others and len(names) > 1:
            return command_line("compare", *(f"{first}:{name}" for name in names[-2:]))
    return command_line("table", first, "--view", "confusions" if config.view == "classes" else "classes")


def compare(config: CompareConfig) -> Outcome:
    from vicc.results.comparison import compare as run
    from vicc.results.printed import comparison_tables

    found = run(config)

    def show() -> None:
        print_parts(comparison_tables(found))
        say_next(command_line("table", *(side[0] for side in config.sides)))

    return Outcome(found.to_json(), show)


def fuse(config: FuseConfig) -> Outcome:
    from vicc.evaluation.result import in_short
    from vicc.results.fusion import fuse as run
    from vicc.results.fusion import fused_path
    from vicc.results.printed import result_table

    result = run(config)

    def show() -> None:
        print_table(result_table(result))
        print_line(f"written to {fused_path(config)}")
        say_next(command_line("compare", fused_path(config), config.results[0]))

    return Outcome(in_short(result).to_json(), show)


def runs(config: RunsConfig) -> Outcome:
    from vicc.results.printed import runs_tables
    from vicc.results.runs import compare_runs

    found = compare_runs(config)

    def show() -> None:
        print_parts(runs_tables(found))
        if config.out is not None:
            print_line(f"plot: {config.out.absolute()}")
        following = next((run.following for run in found if run.following), None)
        if following is not None:
            say_next(following)

    return Outcome([asdict(run) for run in found], show)
