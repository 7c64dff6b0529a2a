"""Commands that measure encoders and classifiers."""

from dataclasses import replace
from typing import TYPE_CHECKING

from vicc.cli.outcome import Outcome, command_line, print_parts, say_next
from vicc.evaluation.configs import KnnConfig, MeasuredClassifiers, MeasuredEncoders, ProbeConfig, RetrieveConfig
from vicc.text_table import print_line, print_table

if TYPE_CHECKING:
    from pathlib import Path

    from vicc.evaluation.result import Result

_QUERIES_SHOWN = 5  # of videos without labels: the page shows all


def retrieve(config: RetrieveConfig) -> Outcome:
    from vicc.evaluation.result import in_short
    from vicc.evaluation.retrieve import result_path
    from vicc.evaluation.retrieve import retrieve as run
    from vicc.results.printed import neighbours_tables

    result, where = run(config), result_path(config)
    if config.query is None and result.labelled:
        return _measured(result, where, _after_retrieve(config, labelled=True))
    shown = 1 if config.query is not None else _QUERIES_SHOWN
    if config.query is None:  # the first ones
        result = replace(result, neighbours={row: entries[:shown] for row, entries in result.neighbours.items()})

    def show() -> None:
        print_parts(neighbours_tables(result, shown))
        print_line(f"written to {where}")
        say_next(_after_retrieve(config, labelled=result.labelled))

    few = {row: entries[-shown:] for row, entries in result.neighbours.items()}
    return Outcome(replace(in_short(result), neighbours=few).to_json(), show)


def _after_retrieve(config: RetrieveConfig, *, labelled: bool) -> str:
    """A page to look at, which runs have; encoders alone are classified, or asked where no video
    has a label.
    """
    flags = _encoder_flags(config)
    if config.run is not None and config.out is None:
        return command_line("report", *flags)
    return command_line("knn", *flags) if labelled else f"{command_line('retrieve', *flags)} --query VIDEO"


def knn(config: KnnConfig) -> Outcome:
    from vicc.evaluation.classify_features import knn as run
    from vicc.evaluation.classify_features import result_path

    return _measured(run(config), result_path(config), command_line("probe", *_encoder_flags(config)))


def probe(config: ProbeConfig) -> Outcome:
    from vicc.evaluation.classify_features import probe as run
    from vicc.evaluation.classify_features import result_path

    following = (
        command_line("table", config.run) if config.run is not None else command_line("table", result_path(config))
    )
    return _measured(run(config), result_path(config), following)


def _encoder_flags(config: MeasuredEncoders) -> list[object]:
    """What was measured, as flags of another command."""
    which = ["--run", config.run] if config.run is not None else ["--encoder", *config.encoder]
    return [*which, *(["--store", config.store] if config.videos is None else ["--videos", config.videos])]


def test(config: MeasuredClassifiers) -> Outcome:
    from vicc.evaluation.measure_classifiers import measure_classifiers, result_path

    where = result_path(config)
    return _measured(measure_classifiers(config), where, command_line("table", where, "--view", "classes"))


def _measured(result: "Result", where: "Path", following: str) -> Outcome:
    """What a command that measures leaves; the first process shows it, and names the command that
    is useful next.
    """
    from vicc.evaluation.result import in_short
    from vicc.progress import process_number
    from vicc.results.printed import result_table

    def show() -> None:
        if process_number() != 0:
            return
        print_table(result_table(result))
        print_line(f"written to {where}")
        say_next(following)

    return Outcome(in_short(result).to_json(), show)
