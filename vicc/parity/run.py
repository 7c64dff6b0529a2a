"""`vicc parity`: every case of a folder of published numbers, as a table."""

import fnmatch
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from vicc.configs import ParityConfig
from vicc.errors import ViccError
from vicc.files import atomic_write
from vicc.parity.cases import KINDS, Case
from vicc.parity.fixtures import Comparison, Fixtures
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


def check_parity(config: ParityConfig) -> ParityReport:
    """Run the cases of a folder, each for itself: one that fails or cannot be run does not stop the others.

    Raises:
        ViccError: no folder, or one without a single case.
    """
    fixtures = Fixtures(config.fixtures)
    cases, absent = [], []
    for kind in KINDS:
        found = list(kind(fixtures))
        cases += [(name, case) for name, case in found if fnmatch.fnmatch(name, config.only)]
        if not found:
            absent.append(kind.__name__.removesuffix("_cases").replace("_", " "))
    if not cases:
        raise ViccError(
            f"{config.fixtures} holds no case{'' if config.only == '*' else f' that matches {config.only}'}. Expected "
            "files such as s3d.f64.npz, vicc.f64.npz with vicc_meta.json, traj_single_shuf.f64.npz with traj_meta.json."
        )
    comparisons: list[Comparison] = []
    with progress("parity", total=len(cases), unit="cases") as advance:
        for name, case in cases:
            comparisons += _run(name, case)
            advance(1, name)
    report = ParityReport(str(config.fixtures), comparisons, absent)
    if config.markdown is not None:
        with atomic_write(config.markdown) as file:
            file.write(_markdown(report))
    return report


def _run(name: str, case: Case) -> Iterator[Comparison]:
    try:
        yield from case()
    except (ViccError, KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        yield Comparison(name, "can be run", float("inf"), 0, f"{type(error).__name__}: {' '.join(str(error).split())}")


def _closeness(comparison: Comparison) -> float:
    return comparison.deviation / comparison.bound if comparison.bound else comparison.deviation * 1e9


def _markdown(report: ParityReport) -> str:
    rows = [
        f"| {result.case} | {result.quantities} | {result.worst.quantity} | {result.worst.deviation:.1e} | "
        f"{result.worst.bound:.0e} | {'equal within the bound' if result.passed else '**differs**'} |"
        for result in report.cases()
    ]
    head = "| case | quantities | worst of them | deviation | bound | |\n|---|---|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"
