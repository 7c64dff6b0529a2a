"""What an evaluation found, as one JSON file: the protocol, the data, every row's numbers and every
query's outcome.
"""

import hashlib
import json
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from vicc.errors import ViccError
from vicc.files import read_json, write_json
from vicc.progress import say
from vicc.version import __version__
from vicc.words import did_you_mean

RESULT_VERSION = 1
MEAN_CLASS_ACCURACY = "mean class accuracy"
ROW_NAMES_BEFORE = {
    "mean absolute flow": "mean flow magnitude",
    "absolute flow, camera removed": "camera-compensated flow magnitude",
}
"""Names of rows in results of earlier versions, with those that they have today."""
Kind = Literal["chance", "baseline", "untrained", "trained", "fused"]


@dataclass(frozen=True)
class Protocol:
    """How something was measured. Numbers of the same name, version and settings may stand in one
    column.

    Attributes:
        name: for instance "retrieval-sliding"; docs/evaluation.md describes each.
        version: raised whenever the same settings would give another number.
        settings: all else that the number depends on, but for model and data.
    """

    name: str
    version: int
    settings: dict[str, Any]

    @property
    def family(self) -> str:
        """What is measured: "retrieval" of "retrieval-sliding". Only numbers of one family mean the
        same thing.
        """
        return self.name.partition("-")[0]

    @property
    def title(self) -> str:
        """In one line, as it is printed with every result."""
        settings = ", ".join(f"{name.replace('_', ' ')} {_words(value)}" for name, value in self.settings.items())
        return f"{self.name} v{self.version}" + (f" ({settings})" if settings else "")


@dataclass(frozen=True)
class Data:
    """What was measured on.

    Attributes:
        name: "ucf101", "hmdb51", "kinetics400" where the official division of one of these is
            whole, else "own".
        place: the store or folder.
        content: fingerprint of all labelled videos (ids, labels, frames), whatever the split.
        split: the division, as --split takes it; "undivided" where all videos search all others.
        train, test: videos on each side; of retrieval the gallery and the queries.
        classes: labels of the gallery or of the training videos, sorted; their places are what
            `Row.predicted` holds.
    """

    name: str
    place: str
    content: str
    split: str
    train: int
    test: int
    classes: list[str]


@dataclass(frozen=True)
class Queries:
    """The tested videos, in the order of everything that has a value for each."""

    ids: list[str]
    labels: list[str | None]
    groups: list[str]
    """The recording a video was cut from; a video without a group is one of its own. Queries of a
    group are not independent of one another, so intervals draw whole groups.
    """


@dataclass(frozen=True)
class Estimate:
    """A share from 0 to 1 with its 95 % interval; None where there is none, as for chance and of
    one or two groups.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        metrics: by name: "R@1", ..., "mAP", "top-1", "top-5", "mean class accuracy".
        model: what the row measures: "encoder" or "classifier" (place), "weights" (fingerprint),
            "stream", "seed"; "start" of a training that did not begin with random weights.
        ranks: for every query the place, from 1, of the first gallery video of its class, or of its
            own class among the classes; beyond what was looked at, the number of all.
        precisions: for every query its average precision, where there is mAP.
        predicted: for every query the place in `Data.classes` of the nearest video's class, or the
            most probable class.
        outputs: file with the values that were compared, see `video_table`.
    """

    name: str
    kind: Kind
    metrics: dict[str, Estimate]
    model: dict[str, Any] = field(default_factory=dict)
    ranks: list[int] | None = None
    precisions: list[float] | None = None
    predicted: list[int] | None = None
    outputs: str | None = None

    def scores(self, metric: str) -> np.ndarray | None:
        """What each query adds to a metric, (Q,); their mean, of the mean class accuracy that of
        its classes' means, is the metric. None for one that has no such values.
        """
        if metric == "mAP":
            return None if self.precisions is None else np.array(self.precisions)
        family, _, k = metric.replace(MEAN_CLASS_ACCURACY, "top-1").replace("top-", "R@").partition("@")
        if family != "R" or self.ranks is None:
            return None
        return (np.array(self.ranks) <= int(k)).astype(float)


@dataclass(frozen=True)
class Neighbours:
    """The nearest gallery videos of one query, nearest first. Distance is one minus cosine; of a
    fused row its mean.
    """

    query: str
    videos: list[str]
    distances: list[float]


@dataclass(frozen=True)
class Result:
    """What one command measured."""

    protocol: Protocol
    data: Data
    queries: Queries
    rows: list[Row]
    neighbours: dict[str, list[Neighbours]]
    """By row name, for trained and fused rows of a retrieval."""
    made_with: dict[str, Any]
    """Command, versions, machine, precision, time, seed: what produced it and what the numbers do
    not depend on.
    """
    gallery: dict[str, str] = field(default_factory=dict)
    """Of a retrieval with labels the searched videos, in their order, with their labels."""
    not_measured: dict[str, str] = field(default_factory=dict)
    """Metrics that would say nothing on these videos, with the reason."""

    @property
    def labelled(self) -> bool:
        """Whether there is a table; without labels there are neighbours only."""
        return bool(self.rows)

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics of all rows, in the order in which they first stand."""
        return list(dict.fromkeys(name for row in self.rows for name in row.metrics))

    def row(self, name: str) -> Row:
        """The row of that name, or of the name that it had in an earlier version.

        Raises:
            ViccError: there is none.
        """
        name = ROW_NAMES_BEFORE.get(name, name)
        for row in self.rows:
            if row.name == name:
                return row
        names = [row.name for row in self.rows]
        raise ViccError(f"There is no row {name!r}; there are: {', '.join(names)}.{did_you_mean(name, names)}")

    def to_json(self) -> dict[str, Any]:
        return {"vicc_result": RESULT_VERSION, **asdict(self)}


def made_with(**facts: Any) -> dict[str, Any]:
    """What a result was produced by; `facts` are added, such as precision, device and seed."""
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "vicc": __version__,
        "torch": torch.__version__,
        "machine": platform.node(),
        **facts,
    }


def write_result(path: Path, result: Result) -> None:
    """Write a result, atomically. That one of other videos, or of something else measured, stood
    there is said, for it cannot be had back.
    """
    with suppress(ViccError):  # none there, or none that can be read
        found = read_result(path)
        before = found.data
        if (before.place, before.content, before.split) != (result.data.place, result.data.content, result.data.split):
            say(f"{path} held the result on {before.place}, split {before.split}, and is replaced; --out keeps another")
        elif found.protocol.name != result.protocol.name:
            say(f"{path} held a result of {found.protocol.name}, and is replaced; --out keeps another")
    write_json(path, result.to_json())


def read_result(path: Path) -> Result:
    """Read a result. Rows that an earlier version has written under another name have today's.

    Raises:
        ViccError: no such file, or none that this version understands.
    """
    content = read_json(path, what="result")
    try:
        if content["vicc_result"] != RESULT_VERSION:
            raise ViccError(
                f"The result {path} has version {content['vicc_result']}; this vicc reads version {RESULT_VERSION}. "
                "Measure again."
            )
        result = Result(
            protocol=Protocol(**content["protocol"]),
            data=Data(**content["data"]),
            queries=Queries(**content["queries"]),
            rows=[_read_row(row) for row in content["rows"]],
            neighbours={
                name: [Neighbours(**entry) for entry in entries] for name, entries in content["neighbours"].items()
            },
            made_with=content["made_with"],
            gallery=content.get("gallery", {}),
            not_measured=content.get("not_measured", {}),
        )
        _require_whole(result)
        return result
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ViccError(f"The result {path} cannot be understood ({error}). Measure again.") from error


def _read_row(content: dict[str, Any]) -> Row:
    name = ROW_NAMES_BEFORE.get(content["name"], content["name"])
    metrics = {metric: Estimate(**value) for metric, value in content["metrics"].items()}
    return Row(**{**content, "name": name, "metrics": metrics})


def _require_whole(result: Result) -> None:
    """Raises ValueError if parts do not fit one another, or a number is none."""
    queries = len(result.queries.ids)
    if not queries == len(result.queries.labels) == len(result.queries.groups):
        raise ValueError("queries, labels and groups are not as many")
    texts = [*result.queries.ids, *result.queries.groups, *result.data.classes, *(row.name for row in result.rows)]
    if not all(isinstance(text, str) for text in (*texts, result.data.name, result.data.split, result.protocol.name)):
        raise ValueError("a name of a video, group, class or row is not a text")
    if not all(isinstance(label, str | None) for label in result.queries.labels):
        raise ValueError("a label is not a text")
    if not all(isinstance(text, str) for pair in result.not_measured.items() for text in pair):
        raise ValueError("what was not measured is not said in texts")
    for row in result.rows:
        if row.kind not in get_args(Kind):
            raise ValueError(f"{row.name} is of the kind {row.kind!r}, expected one of {', '.join(get_args(Kind))}")
        for metric, estimate in row.metrics.items():
            row.scores(metric)
            given = [share for share in (estimate.low, estimate.high) if share is not None]
            given.append(estimate.value)
            if not all(0 <= share <= 1 for share in given):  # not of NaN either
                raise ValueError(f"{metric} of {row.name} is {given}, expected numbers from 0 to 1")
        for values in (row.ranks, row.precisions, row.predicted):
            if values is not None and len(values) != queries:
                raise ValueError(f"{row.name} has {len(values)} values for {queries} queries")
        if row.ranks is not None and min(row.ranks, default=1) < 1:
            raise ValueError(f"{row.name} has the rank {min(row.ranks)}, expected at least 1")
        if row.precisions is not None and not all(0 <= value <= 1 for value in row.precisions):
            raise ValueError(f"{row.name} has average precisions outside 0 to 1")
        if row.predicted is not None and not all(0 <= place < len(result.data.classes) for place in row.predicted):
            raise ValueError(f"{row.name} has predictions beyond the {len(result.data.classes)} classes")


def in_short(result: Result) -> Result:
    """The result without what there is for each query, for printing."""
    rows = [replace(row, ranks=None, precisions=None, predicted=None) for row in result.rows]
    return replace(result, queries=Queries([], [], []), rows=rows, neighbours={}, gallery={})


def not_from_scratch(starts: Mapping[str, str | None]) -> Iterator[str]:
    """Sentences, without their last point, on the rows whose training did not begin with random
    weights.

    Args:
        starts: the fact "start" of each row, by its name; None for random weights.
    """
    names: dict[str, list[str]] = {}
    for name, start in starts.items():
        if start is not None:
            names.setdefault(start, []).append(name)
    for start, rows in names.items():
        yield f"Not from scratch: {', '.join(rows)} ({start})"


def fingerprint(facts: Any) -> str:
    """A short name for plain values: 128 bits of BLAKE2b in hexadecimal."""
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _words(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(str, value))
    return str(value)
