"""Commands that hand on what was found: a page, and files of the published code."""

from dataclasses import asdict

from vicc.cli.outcome import Outcome, command_line, say_next, shell_word
from vicc.published.configs import ExportConfig, ImportConfig
from vicc.results.configs import ReportConfig
from vicc.text_table import TextTable, print_line, print_table


def report(config: ReportConfig) -> Outcome:
    from vicc.results.page import write_report

    path = write_report(config)

    def show() -> None:
        print_line(f"report: {path.absolute()}")
        place = ["--store", config.store] if config.videos is None else ["--videos", config.videos]
        say_next(f"{command_line('retrieve', '--run', config.run, *place)} --query VIDEO, for one video's neighbours")

    return Outcome({"report": str(path), "bytes": path.stat().st_size}, show)


def import_(config: ImportConfig) -> Outcome:
    from vicc.files import require_writable
    from vicc.published.importing import import_published

    require_writable(config.out / "config.json")
    found = import_published(config.file, config.out, stream=config.stream, allow_partial=config.allow_partial)

    def show() -> None:
        facts = {
            "method": found.title,
            "backbone": f"{found.backbone}, {found.features} features",
            "stream": found.stream,
            "epoch": found.epoch,
            "iteration": found.iteration,
            "tensors": found.tensors,
            "prototypes": found.prototypes,
            "queue": found.queue,
            "classes": found.classes,
            **{f"{prefix}.*": folder for prefix, folder in found.folders.items()},
        }
        rows = [[name, str(value)] for name, value in facts.items() if value is not None]
        print_table(TextTable(["found", found.file], [rows]))
        for what, names in (("left out", found.left_out), ("missing in the file", found.missing)):
            if names:
                print_line(f"{what}, {len(names)} tensors: {', '.join(names)}")
        print_line("left out: the optimiser's state, since vicc resumes no published training")
        measure = "retrieve --encoder" if found.classes is None else "test --classifier"
        say_next(f"vicc {measure} {shell_word(config.out)} --store STORE")

    return Outcome(asdict(found), show)


def export(config: ExportConfig) -> Outcome:
    from vicc.files import require_writable
    from vicc.published.exporting import export_published

    require_writable(config.out)
    written = export_published(config.source, config.out)

    def show() -> None:
        print_line(
            f"{written.file}: {written.title}, {written.backbone}, {written.tensors} tensors; optimizer is empty"
        )
        if written.lacks:
            print_line(f"not in {config.source}, so not in the file: {', '.join(written.lacks)}")
        say_next(
            f"give {written.file} to the published code, or back: vicc import {shell_word(written.file)} --out FOLDER"
        )

    return Outcome(asdict(written), show)
