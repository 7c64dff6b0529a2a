"""One result class by class: how often each is found, and which are taken for which."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vicc.errors import ViccError
from vicc.evaluation.result import Estimate, Result, Row
from vicc.evaluation.uncertainty import FEWEST_GROUPS, estimate, reported
from vicc.results.formats import FormattedTable


@dataclass(frozen=True)
class ClassRow:
    """One class: its queries, the groups they are of, and of each model how many are right at once
    (R@1, top-1).
    """

    label: str
    queries: int
    groups: int
    shares: dict[str, Estimate]


@dataclass(frozen=True)
class Confusion:
    """So many of a class's queries whose nearest video, or most probable class, is another class's."""

    label: str
    taken_for: str
    count: int
    of: int


def class_rows(result: Result, rows: Sequence[Row]) -> list[ClassRow]:
    """Every class of the queries, sorted by name; rows without values of queries are left out."""
    places: dict[str, list[int]] = {}
    for place, label in enumerate(result.queries.labels):
        places.setdefault(str(label), []).append(place)
    first = {row.name: scores for row in rows if (scores := row.scores("R@1")) is not None}
    found = []
    for label in sorted(places):
        mine = places[label]
        groups = [result.queries.groups[place] for place in mine]
        shares = {name: reported(estimate(scores[mine], groups), groups) for name, scores in first.items()}
        found.append(ClassRow(label, len(mine), len(set(groups)), shares))
    return found


def confusion_counts(result: Result, row: Row) -> dict[str, Counter[str]]:
    """For each class of the queries, sorted, how many of them are taken for which class, the right
    one included.

    Raises:
        ViccError: the row does not hold what its queries were taken for.
    """
    if row.predicted is None:
        raise ViccError(f"The row {row.name!r} does not hold what each query was taken for.")
    counts: dict[str, Counter[str]] = {label: Counter() for label in sorted(map(str, result.queries.labels))}
    for label, predicted in zip(result.queries.labels, row.predicted, strict=True):
        counts[str(label)][result.data.classes[predicted]] += 1
    return counts


def confusions(result: Result, row: Row) -> list[Confusion]:
    """Pairs of classes by how many queries of the one are taken for the other, most first."""
    found = [
        Confusion(label, other, count, counts.total())
        for label, counts in confusion_counts(result, row).items()
        for other, count in counts.items()
        if other != label
    ]
    return sorted(found, key=lambda pair: (-pair.count, -pair.count / pair.of, pair.label, pair.taken_for))


def most_confused(counts: dict[str, Counter[str]], size: int) -> list[str]:
    """So many classes, sorted, that hold the most frequent confusions; all, where there are fewer."""
    labels = sorted({*counts, *(other for row in counts.values() for other in row)})
    if len(labels) <= size:
        return labels
    pairs = Counter(
        {(label, other): count for label, row in counts.items() for other, count in row.items() if other != label}
    )
    chosen: dict[str, None] = {}
    for pair, _ in sorted(pairs.items(), key=lambda item: (-item[1], item[0])):
        chosen |= dict.fromkeys(name for name in pair if len(chosen) + len({*pair} - {*chosen}) <= size)
    return sorted([*chosen, *(label for label in labels if label not in chosen)][:size])


def classes_table(result: Result, rows: Sequence[Row]) -> tuple[FormattedTable, Any]:
    """Every class by itself: a table in words, and as a document."""
    found = class_rows(result, rows)
    names = list(found[0].shares)
    lines = [
        [row.label, str(row.queries), str(row.groups), *(_share(row.shares[name]) for name in names)] for row in found
    ]
    metric = next((name for name in result.metrics if name in ("R@1", "top-1")), "right at once")
    notes = [
        f"{metric} in percent, of the queries of each class; in brackets the 95 % interval, of their groups drawn "
        f"anew; none of a class of fewer than {FEWEST_GROUPS} groups",
        result.protocol.title,
    ]
    table = FormattedTable(f"classes, {metric}", ["class", "queries", "groups", *names], [lines], notes)
    return table, [{**asdict(row), "metric": metric, "protocol": result.protocol.title} for row in found]


def confusions_table(result: Result, rows: Sequence[Row]) -> tuple[FormattedTable, Any]:
    """For each row that has them, which classes are taken for which: a table in words, and as a
    document.
    """
    found = {row.name: confusions(result, row) for row in rows if row.predicted is not None}
    if not found:
        raise ViccError("No row of this result holds what its queries were taken for.")
    sections = [
        [[name, pair.label, pair.taken_for, str(pair.count), f"{100 * pair.count / pair.of:.1f}"] for pair in pairs]
        for name, pairs in found.items()
    ]
    header = ["model", "class", "taken for", "queries", "% of the class"]
    table = FormattedTable("confusions", header, sections, [result.protocol.title])
    about = {"protocol": result.protocol.title}
    return table, {
        name: [{**asdict(pair), "share": pair.count / pair.of, **about} for pair in pairs]
        for name, pairs in found.items()
    }


def _share(share: Estimate) -> str:
    between = "" if share.low is None or share.high is None else f" ({100 * share.low:.0f}–{100 * share.high:.0f})"
    return f"{100 * share.value:.1f}{between}"
