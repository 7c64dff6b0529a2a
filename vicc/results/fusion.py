"""`vicc fuse`: two or more streams as one model, from what results keep: similarities or
probabilities averaged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from vicc.errors import ViccError
from vicc.evaluation.accuracy import classification_row, write_probabilities
from vicc.evaluation.encoders import RowFeatures, fused_model
from vicc.evaluation.result import Protocol, Queries, Result, Row, made_with, write_result
from vicc.evaluation.retrieve import nearest_neighbours, retrieval_row, without_meaning
from vicc.evaluation.video_values import VideoValues, read_video_values
from vicc.files import require_writable
from vicc.progress import say
from vicc.results.comparable import data_differences, open_measured, some
from vicc.results.configs import FuseConfig
from vicc.retrieval import centered, fused

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class _Part:
    """One stream: a result, the row of it that is meant, and what it keeps of each video."""

    path: Path
    result: Result
    row: Row
    outputs: VideoValues
    train_outputs: VideoValues
    """Of a retrieval the features of the gallery; most often the same table."""

    @property
    def labels(self) -> dict[str, str | None]:
        return dict(zip(self.result.queries.ids, self.result.queries.labels, strict=True))


def fuse(config: FuseConfig) -> Result:
    """Fuse rows of results and write the new result, of one row, to `fused_path(config)`.

    Similarities of retrieval are averaged (published: added, which orders alike), of classification
    the probabilities.

    Raises:
        ViccError: results of different protocols, data, splits, videos or classes, or that do not
            keep what is needed.
    """
    require_writable(fused_path(config))
    parts = [_part(place, config.kind) for place in config.results]
    _require_same_measurement(parts, intersection=config.intersection)
    labels = _shared(parts, lambda part: part.labels, "queries", intersection=config.intersection)
    groups = dict(zip(parts[0].result.queries.ids, parts[0].result.queries.groups, strict=True))
    queries = Queries(list(labels), list(labels.values()), [groups[name] for name in labels])
    model = fused_model({_part_name(part, parts): part.row.model for part in parts})
    if config.weights:
        model["fusion_weights"] = config.weights
    name = config.name or " + ".join(model["fused"])
    result = Result(
        protocol=_protocol(parts),
        data=replace(parts[0].result.data, test=len(labels)),
        queries=queries,
        rows=[],
        neighbours={},
        made_with=made_with(fused=[str(part.path) for part in parts]),
    )
    if len(labels) < max(len(part.labels) for part in parts):
        result = replace(result, data=replace(result.data, split=f"{result.data.split}, intersection"))
    finish = _fuse_similarities if parts[0].result.protocol.family == "retrieval" else _fuse_probabilities
    result = finish(config, parts, result, Row(name, "fused", {}, model=model))
    write_result(fused_path(config), result)
    return result


def fused_path(config: FuseConfig) -> Path:
    """The file that `fuse` writes: --out, or fused.json beside the first result."""
    return config.out or open_measured(config.results[0], config.kind).path.parent / "fused.json"


def _part(place: str, kind: str) -> _Part:
    measured = open_measured(place, kind)
    row = measured.row or _only_trained_row(measured.path, measured.result)
    if row.outputs is None:
        why = "it is fused itself: name its parts" if row.kind == "fused" else "measure again, without --no-cache"
        raise ViccError(f"The row {row.name!r} of {measured.path} keeps no features or probabilities ({why}).")
    outputs = read_video_values(measured.path.parent / row.outputs)
    train = row.model.get("train_outputs")
    part = _Part(
        measured.path,
        measured.result,
        row,
        outputs,
        outputs if train is None else read_video_values(measured.path.parent / train),
    )
    _require_outputs(part)
    return part


def _part_name(part: _Part, parts: Sequence[_Part]) -> str:
    """The row's name; with its file's folder where another part has the same."""
    alike = [other for other in parts if other.row.name == part.row.name]
    return part.row.name if len(alike) == 1 else f"{part.row.name} ({part.path.parent})"


def _only_trained_row(path: Path, result: Result) -> Row:
    rows = [row for row in result.rows if row.kind == "trained"]
    if len(rows) == 1:
        return rows[0]
    names = ", ".join(row.name for row in rows) or "none"
    raise ViccError(f"{path} has {len(rows)} trained rows ({names}). Say which is meant, for instance {path}:RGB-2")


def _require_outputs(part: _Part) -> None:
    known, searched = set(part.outputs.ids), set(part.train_outputs.ids)
    lacking = [name for name in part.result.queries.ids if name not in known]
    lacking += [name for name in part.result.gallery if name not in searched]
    if lacking:
        raise ViccError(
            f"{part.row.outputs} lacks {len(lacking)} videos of {part.path} ({some(lacking)}). Measure again."
        )
    if part.result.protocol.family == "retrieval" and not part.result.gallery:
        raise ViccError(f"{part.path} does not say which videos were searched. Measure again with this vicc.")


def _require_same_measurement(parts: Sequence[_Part], *, intersection: bool) -> None:
    first = parts[0].result
    for part in parts[1:]:
        one, other = first.protocol, part.result.protocol
        differing = (
            []
            if (one.name, one.version) == (other.name, other.version)
            else [f"protocol {one.name} v{one.version} and {other.name} v{other.version}"]
        )
        if not intersection:
            differing += data_differences(first.data, part.result.data)
        if first.data.split != part.result.data.split:
            differing.append(f"split {first.data.split} and {part.result.data.split}")
        if differing:
            raise ViccError(
                f"{parts[0].path} and {part.path} cannot be fused, since they differ in {'; '.join(differing)}."
            )


def _shared(
    parts: Sequence[_Part], videos: Callable[[_Part], Mapping[str, _Value]], what: str, *, intersection: bool
) -> dict[str, _Value]:
    """The videos that all parts have, in the order of the first, with their labels."""
    first, *others = map(videos, parts)
    shared = {name: label for name, label in first.items() if all(name in other for other in others)}
    for part, other in zip(parts[1:], others, strict=True):
        relabelled = [name for name in shared if other[name] != first[name]]
        if relabelled:
            raise ViccError(f"{len(relabelled)} {what} have other labels in {part.path}: {some(relabelled)}.")
        only = [
            f"{len(names)} only {path} has ({some(names)})"
            for path, names in (
                (parts[0].path, [name for name in first if name not in other]),
                (part.path, [name for name in other if name not in first]),
            )
            if names
        ]
        if only and not (intersection and shared):
            raise ViccError(
                f"The {what} differ: {len(shared)} are in all results, {' and '.join(only)}."
                + (" Give --intersection to evaluate on the common ones." if shared else "")
            )
        if only:
            say(f"evaluated on the {len(shared)} {what} that all results have: {' and '.join(only)}")
    return shared


def _protocol(parts: Sequence[_Part]) -> Protocol:
    """That of the parts; a setting in which they differ with the values of all."""
    first = parts[0].result.protocol
    settings = dict(first.settings)
    for name in dict.fromkeys(name for part in parts for name in part.result.protocol.settings):
        values = [part.result.protocol.settings.get(name) for part in parts]
        settings[name] = values[0] if all(value == values[0] for value in values) else values
    return replace(first, settings=settings)


def _fuse_similarities(config: FuseConfig, parts: Sequence[_Part], result: Result, row: Row) -> Result:
    gallery = _shared(parts, lambda part: part.result.gallery, "gallery videos", intersection=config.intersection)
    sides = [
        [centered(table.of(list(videos))) for table in tables]
        for tables, videos in (
            ([part.outputs for part in parts], result.queries.ids),
            ([part.train_outputs for part in parts], gallery),
        )
    ]
    test, train = (fused(side, config.weights or None) for side in sides)
    described = RowFeatures(row.name, "fused", test, train, row.model)
    return replace(
        result,
        data=replace(result.data, train=len(gallery), classes=sorted(set(gallery.values()))),
        rows=[retrieval_row(described, result.queries, gallery)],
        neighbours={row.name: nearest_neighbours(described, result.queries.ids, list(gallery))},
        gallery=gallery,
        not_measured=without_meaning(result.queries, gallery),
    )


def _fuse_probabilities(config: FuseConfig, parts: Sequence[_Part], result: Result, row: Row) -> Result:
    classes = result.data.classes
    weights = config.weights or [1.0] * len(parts)
    mean = torch.zeros(len(result.queries.ids), len(classes), dtype=torch.float64)
    for part, weight in zip(parts, weights, strict=True):
        mean += weight / sum(weights) * _probabilities(part, result.queries.ids, classes)
    outputs = write_probabilities(fused_path(config), row.name, mean, result.queries, classes)
    found = classification_row(row.name, row.kind, mean, result.queries, classes, model=row.model, outputs=outputs)
    return replace(result, rows=[found])


def _probabilities(part: _Part, ids: Sequence[str], classes: Sequence[str]) -> torch.Tensor:
    """Of some videos, for classes in the order given, (N, C)."""
    theirs = part.outputs.facts.get("classes")
    if not isinstance(theirs, list) or len(theirs) != part.outputs.values.shape[1]:
        raise ViccError(f"{part.row.outputs} does not say which classes its probabilities are of. Measure again.")
    only = [
        f"{len(names)} only {who} has ({some(names)})"
        for who, names in (
            ("the first result", sorted({*classes} - {*theirs})),
            (str(part.path), sorted({*theirs} - {*classes})),
        )
        if names
    ]
    if only:
        raise ViccError(f"The classes differ: {' and '.join(only)}. Only results of the same classes can be fused.")
    return part.outputs.of(ids)[:, [theirs.index(label) for label in classes]].double()
