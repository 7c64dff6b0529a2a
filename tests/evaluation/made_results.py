"""Small results for tests, as evaluation commands write them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vicc.evaluation.result import Data, Estimate, Kind, Protocol, Queries, Result, Row, write_result
from vicc.evaluation.uncertainty import estimate_metric

CLASSES = ["clap", "jump", "run", "turn"]
PROTOCOL = Protocol("retrieval-sliding", 1, {"window_step": "15/32 of a clip", "centering": "each set by its own mean"})


def made_queries(count: int = 40, *, fold: int = 1, group_size: int = 2) -> Queries:
    ids = [f"{fold}-{number}.mp4" for number in range(count)]
    labels: list[str | None] = [CLASSES[number // group_size % len(CLASSES)] for number in range(count)]
    return Queries(ids, labels, [f"{fold}-group-{number // group_size}" for number in range(count)])


def made_row(name: str, queries: Queries, *, right: float, seed: int = 0, kind: Kind = "trained", **model: Any) -> Row:
    """A row that finds about that share of the queries' classes at once."""
    rng = np.random.default_rng(seed)
    found = rng.random(len(queries.ids)) < right
    places = [CLASSES.index(str(label)) for label in queries.labels]
    row = Row(
        name,
        kind,
        {},
        model={"seed": seed, "weights": f"{name}-{seed}", "recipe": "made", "training": "f00", **model},
        ranks=[1 if hit else 3 for hit in found],
        precisions=[1.0 if hit else 0.25 for hit in found],
        predicted=[place if hit else (place + 1) % 4 for place, hit in zip(places, found, strict=True)],
    )
    return replace(row, metrics={name: estimate_metric(row, queries, name) for name in ("R@1", "R@5", "mAP")})


def made_result(rows: Sequence[Row], queries: Queries, *, split: str = "f:1") -> Result:
    chance = Row("chance", "chance", {"R@1": Estimate(0.25), "R@5": Estimate(0.8), "mAP": Estimate(0.3)})
    data = Data("own", "store", "c0ffee", split, 60, len(queries.ids), CLASSES)
    made_with = {"command": "vicc retrieve", "precision": "fp32"}
    return Result(PROTOCOL, data, queries, [chance, *rows], {}, made_with)


def made_file(path: Path, *, seed: int = 0, fold: int = 1, right: float = 0.6, **model: Any) -> Path:
    """A result of one fold and seed with the row RGB-1, written to a file."""
    queries = made_queries(fold=fold)
    rows = [made_row("RGB-1", queries, right=right, seed=seed, **model)]
    write_result(path, made_result(rows, queries, split=f"f:{fold}"))
    return path
