"""`vicc compare`: two models on the same queries: the difference, how sure it is, and where it
lies.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vicc.errors import ViccError
from vicc.evaluation.result import Protocol
from vicc.evaluation.uncertainty import Difference, estimate, paired_difference
from vicc.files import require_writable, write_json
from vicc.progress import say
from vicc.results.comparable import (
    Measured,
    data_differences,
    expanded,
    open_measured,
    protocol_differences,
    some,
)
from vicc.results.configs import CompareConfig
from vicc.results.pool import Measurement, PooledQuery, pooled_queries, pooled_scores, strata_of


@dataclass(frozen=True)
class MetricComparison:
    """One metric of both models. Where several files are averaged, a query counts for the one that
    does it better.

    Attributes:
        a, b: the metric of each.
        difference: a minus b.
        only_a, only_b: queries that only the one gets right; of average precision, for which it is
            higher.
    """

    a: float
    b: float
    difference: Difference
    only_a: int
    only_b: int


@dataclass(frozen=True)
class ClassComparison:
    """The first metric in one class, of so many queries."""

    label: str
    queries: int
    a: float
    b: float


@dataclass(frozen=True)
class RowComparison:
    """Two rows; classes with the largest difference first."""

    a: str
    b: str
    metrics: dict[str, MetricComparison]
    classes: list[ClassComparison]


@dataclass(frozen=True)
class Comparison:
    """What `compare` found, and on what.

    Attributes:
        left_out: queries that only one side has, where --intersection was given.
    """

    protocol: Protocol
    a: list[str]
    b: list[str]
    splits: list[str]
    queries: int
    groups: int
    left_out: int
    rows: list[RowComparison]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Side:
    """The files of one model: folds, whose queries are pooled, and seeds, over which each query is
    averaged.
    """

    name: str
    measured: list[Measured]

    @property
    def asked(self) -> str | None:
        """The row asked for, if one was."""
        asked = {one.row.name for one in self.measured if one.row is not None}
        if len(asked) > 1:
            raise ViccError(f"{self.name} is one model; got the rows {', '.join(sorted(asked))}. Give one of them.")
        return next(iter(asked), None)

    @property
    def rows(self) -> list[str]:
        """The row asked for, else those that every file has and that have values of queries."""
        if self.asked is not None:
            return [self.asked]
        first, *rest = ([row.name for row in one.result.rows if row.ranks is not None] for one in self.measured)
        return [name for name in first if all(name in names for names in rest)]

    @property
    def splits(self) -> list[str]:
        return sorted({one.result.data.split for one in self.measured})

    def queries(self) -> list[PooledQuery]:
        return pooled_queries([one.result for one in self.measured])

    def of(self, row: str) -> list[Measurement]:
        return [(one.result, one.result.row(row)) for one in self.measured]


def compare(config: CompareConfig) -> Comparison:
    """Compare rows of results: the two that are asked for, else all that both sides have by name.

    Raises:
        ViccError: another protocol, other data, splits or queries on the two sides, or no row that
            both have.
    """
    if config.out is not None:
        require_writable(config.out)
    a, b = (
        _Side(name, [open_measured(place, config.kind) for place in expanded(places)])
        for name, places in zip("AB", config.sides, strict=True)
    )
    _require_same_measurement(a, b, intersection=config.intersection)
    pairs = _pairs(a, b)
    queries, left_out = _shared_queries(a, b, intersection=config.intersection)
    result = Comparison(
        protocol=a.measured[0].result.protocol,
        a=[str(one.path) for one in a.measured],
        b=[str(one.path) for one in b.measured],
        splits=a.splits,
        queries=len(queries),
        groups=len({query.group for query in queries}),
        left_out=left_out,
        rows=[_compare_rows((row_a, row_b), a.of(row_a), b.of(row_b), queries) for row_a, row_b in pairs],
    )
    if config.out is not None:
        write_json(config.out, result.to_json())
    return result


def _require_same_measurement(a: _Side, b: _Side, *, intersection: bool) -> None:
    first = a.measured[0]
    for other in (*a.measured[1:], *b.measured):
        differing = protocol_differences(first.result.protocol, other.result.protocol)
        if not intersection:
            differing += data_differences(first.result.data, other.result.data)
        if differing:
            raise ViccError(
                f"{first.path} and {other.path} cannot be compared, since they differ in {'; '.join(differing)}. "
                "Measure both in the same way, on the same store."
            )
    if a.splits != b.splits:
        raise ViccError(
            f"The splits differ: {', '.join(a.splits)} of A, {', '.join(b.splits)} of B. Give results of the same "
            "splits."
        )


def _pairs(a: _Side, b: _Side) -> list[tuple[str, str]]:
    of_a, of_b = a.rows, b.rows
    if a.asked is not None and b.asked is not None:
        return [(a.asked, b.asked)]
    shared = [(name, name) for name in of_a if name in of_b]
    if not shared:
        raise ViccError(
            f"No row of A has the name of one of B: {', '.join(of_a)}; {', '.join(of_b)}. Name one of each as FILE:ROW."
        )
    return shared


def _shared_queries(a: _Side, b: _Side, *, intersection: bool) -> tuple[list[PooledQuery], int]:
    """The queries that are compared, and how many are not."""
    of_a, of_b = a.queries(), b.queries()
    there = set(of_b)
    shared = [query for query in of_a if query in there]
    both = set(shared)
    only = {name: [query.id for query in queries if query not in both] for name, queries in (("A", of_a), ("B", of_b))}
    left_out = sum(map(len, only.values()))
    if left_out and not (intersection and shared):
        parts = " and ".join(f"{len(ids)} only {side} has ({some(ids)})" for side, ids in only.items() if ids)
        raise ViccError(
            f"The queries differ in name, label or group: {len(shared)} are on both sides, {parts}."
            + (" Give --intersection to compare on the common ones." if shared else "")
        )
    if left_out:
        say(f"compared on the {len(shared)} queries that both have; {left_out} that only one side has are left out")
    return shared, left_out


def _compare_rows(
    names: tuple[str, str], a: list[Measurement], b: list[Measurement], queries: list[PooledQuery]
) -> RowComparison:
    metrics: dict[str, MetricComparison] = {}
    classes: list[ClassComparison] = []
    for metric in a[0][1].metrics:
        of_a, of_b = (pooled_scores(side, metric, queries) for side in (a, b))
        if of_a is None or of_b is None:
            continue
        strata = strata_of(metric, queries)
        groups = [query.group for query in queries]
        value_a, value_b = (estimate(scores, groups, strata=strata).value for scores in (of_a, of_b))
        metrics[metric] = MetricComparison(
            value_a,
            value_b,
            paired_difference(of_a, of_b, groups, strata=strata),
            int((of_a > of_b).sum()),
            int((of_b > of_a).sum()),
        )
        classes = classes or _by_class(of_a, of_b, [query.label for query in queries])
    return RowComparison(*names, metrics, classes)


def _by_class(a: np.ndarray, b: np.ndarray, labels: list[str]) -> list[ClassComparison]:
    of = np.array(labels, dtype=object)
    found = [
        ClassComparison(label, int((of == label).sum()), float(a[of == label].mean()), float(b[of == label].mean()))
        for label in sorted(set(labels))
    ]
    return sorted(found, key=lambda entry: (-abs(entry.a - entry.b), entry.label))
