"""`python -m tests.parity`: the comparison as a table or as JSON; status 0 if all is within its bound, 1 if not, 2 for
folders that cannot be read.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.parity.run import ParityReport, check_parity, to_markdown
from vicc.errors import ViccError
from vicc.files import atomic_write
from vicc.progress import complain
from vicc.text_table import TextTable, print_line, print_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; returns the exit status."""
    flags = argparse.ArgumentParser(prog="python -m tests.parity", description=check_parity.__doc__.splitlines()[0])
    flags.add_argument("--fixtures", type=Path, required=True, metavar="DIR", help="folder of published numbers")
    flags.add_argument("--only", default="*", metavar="GLOB", help="cases to run, by a pattern such as 'vicc/*'")
    flags.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table to this file, as Markdown")
    flags.add_argument("--json", action="store_true", help="print one JSON document in place of the table")
    given = flags.parse_args(arguments)
    try:
        report = check_parity(given.fixtures, only=given.only)
        if given.markdown is not None:
            with atomic_write(given.markdown) as file:
                file.write(to_markdown(report))
    except ViccError as error:
        complain(str(error))
        return 2
    if given.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        _show(report)
    return 0 if report.passed else 1


def _show(report: ParityReport) -> None:
    rows = []
    for result in report.cases():
        worst = result.worst
        which = f"{worst.quantity}: {worst.note}" if worst.note else worst.quantity
        numbers = [f"{worst.deviation:.1e}", f"{worst.bound:.0e}"]
        rows.append([result.case, str(result.quantities), which, *numbers, "ok" if result.passed else "differs"])
    header = ["case", "quantities", "worst of them", "deviation", "bound", "verdict"]
    print_table(TextTable(header, [rows], alarming=["differs"]))
    if report.absent:
        print_line(f"not in {report.fixtures}: {', '.join(report.absent)}")
    failed = [entry for entry in report.comparisons if not entry.passed]
    print_line(f"{len(report.comparisons)} quantities compared, {len(failed)} beyond their bound")


if __name__ == "__main__":
    sys.exit(main())
