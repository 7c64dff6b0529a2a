"""`vicc table`: results side by side, models down, what was measured across; only what means the
same in one column.
"""

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from vicc.errors import ViccError
from vicc.evaluation.result import Data, Estimate, Kind, Protocol, Result, Row, not_from_scratch
from vicc.evaluation.uncertainty import FEW_QUERIES, FEWEST_GROUPS, estimate, reported
from vicc.files import atomic_write, require_writable
from vicc.results.classes import classes_table, confusions_table
from vicc.results.comparable import (
    Measured,
    data_differences,
    find_results,
    open_measured,
    protocol_differences,
    some,
)
from vicc.results.configs import TableConfig
from vicc.results.formats import FormattedTable, render
from vicc.results.literature import how_published, published_rows
from vicc.results.pool import pooled_queries, pooled_scores, strata_of
from vicc.words import did_you_mean

_KINDS: tuple[Kind, ...] = ("chance", "baseline", "untrained", "trained", "fused")
# What is another in every seed of the same model, and in every place it is kept.
_OF_A_TRAINING = ("training", "fused", "fusion_weights")  # with the row's name this says which model it is
_OF_A_SEED = ("seed", "weights", "encoder", "classifier", "train_outputs")


@dataclass(frozen=True)
class Cell:
    """A metric of a model.

    Attributes:
        value: the mean over splits of the mean over seeds.
        low, high: 95 % interval over groups of queries, of all splits together; None where there is
            none.
        spread: standard deviation over seeds of the mean over splits; of a single seed, over
            splits; None of a single measurement, and where the seeds have not all the same splits.
        seeds, splits: how many were measured; none of a published number.
    """

    value: float
    low: float | None = None
    high: float | None = None
    spread: float | None = None
    seeds: int = 0
    splits: int = 0


@dataclass(frozen=True)
class Measurement:
    """What a group of columns measures.

    Attributes:
        not_measured: metrics that would say nothing in one of its results, with the reason.
    """

    protocol: Protocol
    data: Data
    splits: list[str]
    not_measured: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TableRow:
    """One model.

    Attributes:
        kind: that of its results; "published" for one of the literature.
        cells: by column; columns that it lacks are not there.
        start: with which weights its training began, where these were not random.
    """

    name: str
    kind: str
    cells: dict[str, Cell]
    source: str | None = None
    start: str | None = None

    @property
    def counts(self) -> list[tuple[int, int]]:
        """How many seeds and splits were measured, each pair once; more than one where columns
        differ.
        """
        return list(dict.fromkeys((cell.seeds, cell.splits) for cell in self.cells.values()))


@dataclass(frozen=True)
class ModelTable:
    """Columns by their title, with the number of their measurement."""

    measurements: list[Measurement]
    columns: dict[str, int]
    rows: list[TableRow]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Entry:
    """One row of one result."""

    measured: Measured
    row: Row

    @property
    def result(self) -> Result:
        return self.measured.result

    @property
    def split(self) -> str:
        return self.result.data.split

    @property
    def model(self) -> str:
        """What is the same for all seeds and splits of one model, and for no other model."""
        model = self.row.model
        if "training" in model:
            facts = {name: model[name] for name in _OF_A_TRAINING if name in model}
        else:
            # Without a seed there is nothing but the weights to tell one encoder from another.
            left_out = [name for name in _OF_A_SEED if name != "weights" or model.get("seed") is not None]
            facts = {name: value for name, value in model.items() if name not in left_out}
        return json.dumps([self.row.name, self.row.kind, facts], sort_keys=True, default=str)

    @property
    def seed(self) -> str:
        """Of the training, and of which labels were used where these are few."""
        return str([self.row.model.get("seed"), self.result.made_with.get("label_seed")])


_Model = list[_Entry]  # the entries of one model


def show_table(config: TableConfig) -> tuple[FormattedTable, Any]:
    """The table that is asked for, and as a document; written to `config.out` if that is given.

    Raises:
        ViccError: no result, one that cannot be read, or results that may not stand in one column.
    """
    if config.out is not None:
        require_writable(config.out)
    if config.view == "models":
        table = make_table(
            find_results(config.results),
            metrics=config.metrics,
            separate=config.separate,
            published=config.published,
        )
        formatted, document = formatted_table(table), table.to_json()
    else:
        measured = open_measured(config.results[0])
        view = classes_table if config.view == "classes" else confusions_table
        formatted, document = view(measured.result, measured.rows)
    if config.out is not None:
        with atomic_write(config.out) as file:
            file.write(render(formatted, config.format))
    return formatted, document


def make_table(
    found: Sequence[Measured], *, metrics: Sequence[str] = (), separate: bool = False, published: bool = True
) -> ModelTable:
    """One table of several results.

    Args:
        metrics: those shown, in this order; all by default.
        separate: columns of their own for each protocol, data set and set of splits.
        published: add rows of the literature where protocol and data are theirs.

    Raises:
        ViccError: results that differ in one column, or a metric that none of them has.
    """
    models = _models(found)
    groups = [group for group in _groups(models, separate=separate) if _shown_metrics(group, metrics)]
    if not groups:
        known = _all_metrics(found)
        raise ViccError(
            f"No result has the metrics {', '.join(metrics)}; they have: {', '.join(known)}."
            f"{did_you_mean(metrics[0], known)}"
        )
    if not separate:
        for group in groups:
            _require_one_measurement(group)
    measurements = [_measurement(group) for group in groups]
    shown = [_shown_metrics(group, metrics) for group in groups]
    rows: dict[str, TableRow] = {}
    columns: dict[str, int] = {}
    for number, (group, measurement, names) in enumerate(zip(groups, measurements, shown, strict=True)):
        titles = {name: name if len(groups) == 1 else f"{name} [{_letter(number)}]" for name in names}
        columns |= dict.fromkeys(titles.values(), number)
        lines = [(key, _table_row(title, model, titles)) for key, title, model in _titled(models, group)]
        if published:
            lines += [(f"published {row.name} {row.source}", row) for row in _published(measurement, titles)]
        for key, row in lines:
            rows[key] = row if key not in rows else replace(rows[key], cells=rows[key].cells | row.cells)
    order = [*_KINDS, "published"]
    return ModelTable(
        measurements,
        columns,
        sorted(rows.values(), key=lambda row: order.index(row.kind)),
        list(_notes(measurements, list(rows.values()))),
    )


def _models(found: Sequence[Measured]) -> dict[str, _Model]:
    models: dict[str, _Model] = {}
    for measured in found:
        for row in measured.rows:
            entry = _Entry(measured, row)
            models.setdefault(entry.model, []).append(entry)
    return models


def _groups(models: dict[str, _Model], *, separate: bool) -> list[dict[str, _Model]]:
    """The models of each group of columns, with their entries there; groups in the order of the
    results' names.
    """
    groups: dict[tuple[str, ...], dict[str, _Model]] = {}
    for key, model in models.items():
        for entry in model:
            data, protocol = entry.result.data, entry.result.protocol
            place: tuple[str, ...] = (protocol.family, data.name)
            if separate:
                place += (json.dumps(asdict(protocol), sort_keys=True, default=str), data.content)
            groups.setdefault(place, {}).setdefault(key, []).append(entry)
    found = [groups[place] for place in sorted(groups)]
    return [part for group in found for part in _by_splits(group)] if separate else found


def _by_splits(group: dict[str, _Model]) -> list[dict[str, _Model]]:
    """The models of a group that were measured on the same splits; what was not trained, on what it
    has of these.
    """
    trained = {key: model for key, model in group.items() if _is_trained(model)} or group
    parts = []
    for splits in sorted({tuple(_splits(model)) for model in trained.values()}):
        part = {}
        for key, model in group.items():
            entries = [entry for entry in model if entry.split in splits]
            if tuple(_splits(entries)) == splits and (key not in trained or len(entries) == len(model)):
                part[key] = entries
        parts.append(part)
    return parts


def _is_trained(model: _Model) -> bool:
    return model[0].row.kind in ("trained", "fused")


def _require_one_measurement(group: dict[str, _Model]) -> None:
    """One column, one meaning."""
    ordered = sorted(group.values(), key=_is_trained, reverse=True)
    first = ordered[0]
    for model in ordered:
        for entry in model:
            one, other = first[0].measured, entry.measured
            differing = protocol_differences(one.result.protocol, other.result.protocol)
            differing += data_differences(one.result.data, other.result.data)
            if differing:
                raise ViccError(
                    f"{one.path} and {other.path} may not stand in one column, since they differ in "
                    f"{'; '.join(differing)}. Give results of one protocol and data set, or --separate for columns of "
                    "their own."
                )
        if _splits(model) != _splits(first):
            names = [f"{part[0].row.name} ({part[0].measured.path})" for part in (first, model)]
            raise ViccError(
                f"{names[0]} was measured on the splits {some(_splits(first))}, {names[1]} on {some(_splits(model))}: "
                "their means are of different videos. Give the same splits of both, or --separate to keep them apart."
            )


def _measurement(group: dict[str, _Model]) -> Measurement:
    entries = [entry for model in group.values() for entry in model]
    result = entries[0].result
    not_measured = {name: why for entry in entries for name, why in entry.result.not_measured.items()}
    return Measurement(result.protocol, result.data, _splits(entries), not_measured)


def _shown_metrics(group: dict[str, _Model], wanted: Sequence[str]) -> list[str]:
    there = _all_metrics([entry.measured for model in group.values() for entry in model])
    return [name for name in wanted if name in there] if wanted else there


def _all_metrics(found: Sequence[Measured]) -> list[str]:
    return list(dict.fromkeys(name for measured in found for name in measured.result.metrics))


def _titled(models: dict[str, _Model], group: dict[str, _Model]) -> Iterator[tuple[str, str, _Model]]:
    """Each model of a group with a title that no other model of the table has."""
    for key, model in group.items():
        alike = [other for other in models.values() if other[0].row.name == model[0].row.name]
        yield key, model[0].row.name + _what_tells_apart(model, alike), model


def _what_tells_apart(model: _Model, alike: list[_Model]) -> str:
    """In brackets: the recipe, the clip or the backbone if that is enough, else the first file."""
    if len(alike) == 1:
        return ""
    for fact in ("recipe", "clip", "backbone"):
        values = [str(other[0].row.model.get(fact)) for other in alike]
        if len(set(values)) == len(alike):
            return f" ({model[0].row.model.get(fact)})"
    return f" ({model[0].measured.path})"


def _table_row(title: str, model: _Model, titles: dict[str, str]) -> TableRow:
    cells = {column: cell for metric, column in titles.items() if (cell := _cell(model, metric)) is not None}
    return TableRow(title, model[0].row.kind, cells, start=model[0].row.model.get("start"))


def _cell(model: _Model, metric: str) -> Cell | None:
    if any(metric not in entry.row.metrics for entry in model):
        return None
    by_seed: dict[Any, dict[str, list[float]]] = {}
    for entry in model:
        by_seed.setdefault(entry.seed, {}).setdefault(entry.split, []).append(entry.row.metrics[metric].value)
    found = _pooled(model, metric)
    return Cell(found.value, found.low, found.high, _spread(by_seed), len(by_seed), len(_splits(model)))


def _pooled(model: _Model, metric: str) -> Estimate:
    """Of a single result what that says; else of all queries together."""
    if len(model) == 1:
        return model[0].row.metrics[metric]
    queries = pooled_queries([entry.result for entry in model])
    scores = pooled_scores([(entry.result, entry.row) for entry in model], metric, queries)
    if scores is None:
        of_splits = [
            statistics.mean(entry.row.metrics[metric].value for entry in model if entry.split == split)
            for split in _splits(model)
        ]
        return Estimate(statistics.mean(of_splits))
    groups = [query.group for query in queries]
    return reported(estimate(scores, groups, strata=strata_of(metric, queries)), groups)


def _spread(by_seed: dict[Any, dict[str, list[float]]]) -> float | None:
    of_splits = [{split: statistics.mean(values) for split, values in seed.items()} for seed in by_seed.values()]
    if len(of_splits) > 1:
        if len({frozenset(seed) for seed in of_splits}) > 1:
            return None
        return statistics.stdev(statistics.mean(seed.values()) for seed in of_splits)
    values = list(of_splits[0].values())
    return statistics.stdev(values) if len(values) > 1 else None


def _published(measurement: Measurement, titles: dict[str, str]) -> Iterator[TableRow]:
    if len(measurement.splits) > 1:
        return
    for row in published_rows(measurement.protocol, measurement.data):
        cells = {titles[metric]: Cell(value) for metric, value in row.metrics.items() if metric in titles}
        if cells:
            yield TableRow(row.name, "published", cells, row.source)


def _notes(measurements: Sequence[Measurement], rows: Sequence[TableRow]) -> Iterator[str]:
    for number, measurement in enumerate(measurements):
        data = measurement.data
        label = f"[{_letter(number)}] " if len(measurements) > 1 else ""
        place = data.place if data.name == "own" else f"{data.name} ({data.place})"
        yield f"{label}{measurement.protocol.title}; {place}, split {', '.join(measurement.splits)}"
        if data.test <= FEW_QUERIES:
            yield f"{label}One of the {data.test} queries of a split is {100 / max(1, data.test):.1f} points."
        for metric, reason in measurement.not_measured.items():
            yield f"{label}{metric} is not shown, since {reason}."
    yield "In percent; in brackets the 95 % interval, of groups of queries resampled (bootstrap)."
    if any(cell.low is None for row in rows if row.kind not in ("chance", "published") for cell in row.cells.values()):
        yield f"No interval stands where the queries are of fewer than {FEWEST_GROUPS} groups."
    if _repeated(rows):
        yield (
            "Of several splits and seeds the mean over splits of the mean over seeds; ± is the standard deviation over "
            "seeds, of a single seed over splits. The interval is of the queries of all splits, each averaged over "
            "seeds: it does not hold what another training would give."
        )
    for sentence in not_from_scratch({row.name: row.start for row in rows}):
        yield f"{sentence}."
    if any(row.kind == "published" for row in rows):
        yield "Published: numbers of the literature, on the same data and by the same protocol; not measured here."
    for flags in {how_published(one.protocol, one.data): None for one in measurements}:
        if flags is not None:
            yield f"Published numbers were measured in another way and are left out; {flags} measures in theirs."


def formatted_table(table: ModelTable) -> FormattedTable:
    """The table in words."""
    repeated = _repeated(table.rows)
    sections: dict[str, list[list[str]]] = {}
    for row in table.rows:
        name = row.name if row.source is None else f"{row.name} (published, {row.source})"
        count = ", ".join(f"{seeds} x {splits}" for seeds, splits in row.counts) if row.kind != "published" else "-"
        cells = [_cell_text(row.cells.get(column)) for column in table.columns]
        sections.setdefault(row.kind, []).append([name, *([count] if repeated else []), *cells])
    header = ["", *(["seeds x splits"] if repeated else []), *table.columns]
    title = ", ".join(dict.fromkeys(one.protocol.family for one in table.measurements))
    return FormattedTable(title, header, list(sections.values()), table.notes)


def _repeated(rows: Sequence[TableRow]) -> bool:
    return any(max(counts) > 1 for row in rows for counts in row.counts)


def _cell_text(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    spread = "" if cell.spread is None else f" ± {100 * cell.spread:.1f}"
    between = "" if cell.low is None or cell.high is None else f" ({100 * cell.low:.1f}–{100 * cell.high:.1f})"
    return f"{100 * cell.value:.1f}{spread}{between}"


def _splits(entries: Sequence[_Entry]) -> list[str]:
    return sorted({entry.split for entry in entries})


def _letter(number: int) -> str:
    """a, b, ..., z, aa, ..."""
    more, place = divmod(number, 26)
    return (_letter(more - 1) if more else "") + chr(ord("a") + place)
