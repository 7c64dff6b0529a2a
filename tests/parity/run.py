"""Every case of a folder of published numbers, compared."""

import fnmatch
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.parity.cases import KINDS, Case
from tests.parity.published_numbers import Comparison, Fixtures
from vicc.errors import ViccError
from vicc.progress import progress


@dataclass(frozen=True)
class CaseResult:
    """A case, and the quantity of it that comes nearest to its bound, or leaves it furthest behind."""

    case: str
    quantities: int
    worst: Comparison
    passed: bool


@dataclass(frozen=True)
class ParityReport:
    """All comparisons of a folder; `absent` are the kinds of cases it does not hold."""

    fixtures: str
    comparisons: list[Comparison]
    absent: list[str]

    @property
    def passed(self) -> bool:
        return all(comparison.passed for comparison in self.comparisons)

    def cases(self) -> list[CaseResult]:
        """One line a case."""
        by_case: dict[str, list[Comparison]] = {}
        for comparison in self.comparisons:
            by_case.setdefault(comparison.case, []).append(comparison)
        return [
            CaseResult(case, len(found), max(found, key=_closeness), all(entry.passed for entry in found))
            for case, found in by_case.items()
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "fixtures": self.fixtures,
            "passed": self.passed,
            "comparisons": [{**asdict(comparison), "passed": comparison.passed} for comparison in self.comparisons],
            "absent": self.absent,
        }


def check_parity(folder: Path, *, only: str = "*") -> ParityReport:
    """Compare vicc, in float64, with numbers of the published implementation.

    The folder holds arrays (.npz) and their descriptions (.json); weights and inputs are made from their names. Kinds
    of cases it does not hold are skipped. A case that fails or cannot be run does not stop the others.

    Args:
        only: the cases to run, by a pattern such as "vicc/*".

    Raises:
        ViccError: no folder, or one without a single case.
    """
    fixtures = Fixtures(folder)
    cases, absent = [], []
    for kind in KINDS:
        found = list(kind(fixtures))
        cases += [(name, case) for name, case in found if fnmatch.fnmatch(name, only)]
        if not found:
            absent.append(kind.__name__.removesuffix("_cases").replace("_", " "))
    if not cases:
        raise ViccError(
            f"{folder} holds no case{'' if only == '*' else f' that matches {only}'}. Expected "
            "files such as s3d.f64.npz, vicc.f64.npz with vicc_meta.json, traj_single_shuf.f64.npz with traj_meta.json."
        )
    comparisons: list[Comparison] = []
    with progress("parity", total=len(cases), unit="cases") as advance:
        for name, case in cases:
            comparisons += _run(name, case)
            advance(1, name)
    return ParityReport(str(folder), comparisons, absent)


def _run(name: str, case: Case) -> Iterator[Comparison]:
    try:
        yield from case()
    except (ViccError, KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        yield Comparison(name, "can be run", float("inf"), 0, f"{type(error).__name__}: {' '.join(str(error).split())}")


def _closeness(comparison: Comparison) -> float:
    return comparison.deviation / comparison.bound if comparison.bound else comparison.deviation * 1e9


def to_markdown(report: ParityReport) -> str:
    """The table, as Markdown."""
    rows = [
        f"| {result.case} | {result.quantities} | {result.worst.quantity} | {result.worst.deviation:.1e} | "
        f"{result.worst.bound:.0e} | {'equal within the bound' if result.passed else '**differs**'} |"
        for result in report.cases()
    ]
    head = "| case | quantities | worst of them | deviation | bound | |\n|---|---|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"
