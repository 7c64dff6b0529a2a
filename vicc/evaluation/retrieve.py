"""`vicc retrieve`: every finished stage of a run, both streams together, and what has learned nothing, in one table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from vicc.configs import RetrieveConfig
from vicc.device import Precision, choose_device, choose_precision
from vicc.distributed import on_first, processes
from vicc.evaluation.encoders import (
    Described,
    describe_all,
    fused_model,
    fused_rows,
    load_encoders,
    require_flow,
    window_words,
)
from vicc.evaluation.features import Windows
from vicc.evaluation.results import Estimate, Neighbours, Protocol, Queries, Result, Row, made_with, write_result
from vicc.evaluation.sets import Sets, open_sets
from vicc.evaluation.uncertainty import estimate_metric
from vicc.progress import say
from vicc.retrieval import KS, centered, chance_precision, chance_recall, fused, rank_classes, search
from vicc.settings import takes_settings

RESULT_FILE = "retrieval.json"
NEIGHBOURS_KEPT = 20


@takes_settings(RetrieveConfig)
def retrieve(config: RetrieveConfig) -> Result:
    """Measure retrieval and write it to RUN/retrieval.json, or where `result_path` says.

    Labelled videos: test videos search the training videos. Videos without labels: each searches all others, and only
    neighbours are given. Several processes (torchrun) share the work.

    Raises:
        ViccError: no such run, encoder or store, no finished stage, two encoders of one stream, nothing to test, or a
            split that does not fit (see `open_sets`).
    """
    device = choose_device(config.device)
    with processes(device):
        encoders = load_encoders(config)
        sets = open_sets(config, run=config.run)
        require_flow(encoders, sets.store)
        precision = choose_precision(config.precision, device)
        windows = Windows(config.window_step, shuffle=config.shuffle_frames)
        gallery = windows if config.gallery == "sliding" else replace(windows, one=True)
        described = describe_all(config, encoders, sets, precision, windows=windows, train_windows=gallery)
        protocol = _protocol(config, window_words(config.window_step, encoders))
        return on_first(partial(_measure, config, protocol, sets, precision, described))


def _measure(
    config: RetrieveConfig, protocol: Protocol, sets: Sets, precision: Precision, described: list[Described]
) -> Result:
    if not sets.labelled:
        say("no labels: nearest neighbours only, no table")
    both = [_centered(row, same=sets.test is sets.train) for row in described]
    rows = [*both, *(_fused(name, parts) for name, parts in fused_rows(both).items())]
    gallery = {video.id: str(video.label) for video in sets.train}
    result = Result(
        protocol=protocol,
        data=sets.data,
        queries=sets.queries,
        rows=[_chance(sets), *(retrieval_row(row, sets.queries, gallery) for row in rows)] if sets.labelled else [],
        neighbours={
            row.name: nearest_neighbours(row, sets.queries.ids, list(gallery), exclude_self=not sets.labelled)
            for row in rows
            if row.kind in ("trained", "fused")
        },
        made_with=made_with(precision=precision.name, device=str(precision.device)),
        gallery=gallery if sets.labelled else {},
    )
    write_result(result_path(config), result)
    return result


def result_path(config: RetrieveConfig) -> Path:
    """The file that `retrieve` writes: --out, or a file in the run or first encoder's folder; controls have files of
    their own, so that they do not overwrite the result.
    """
    if config.out is not None:
        return config.out
    name = RESULT_FILE.removesuffix(".json")
    name += "-published" * (config.gallery == "published") + "-shuffled" * config.shuffle_frames
    return (config.run or config.encoder[0]) / f"{name}.json"


def _protocol(config: RetrieveConfig, window_step: str | int) -> Protocol:
    return Protocol(
        f"retrieval-{config.gallery}",
        1,
        {
            "window_step": window_step,
            "centering": "each set by its own mean",
            **({"frames": "shuffled"} if config.shuffle_frames else {}),
        },
    )


def _centered(row: Described, *, same: bool) -> Described:
    test = centered(row.test)
    return replace(row, test=test, train=test if same else centered(row.train))


def _fused(name: str, parts: list[Described]) -> Described:
    test, train = (fused([getattr(part, side) for part in parts]) for side in ("test", "train"))
    return Described(name, "fused", test, train, fused_model({part.name: part.model for part in parts}))


def _chance(sets: Sets) -> Row:
    queries, gallery = ([str(video.label) for video in part] for part in (sets.test, sets.train))
    metrics = {f"R@{k}": Estimate(chance_recall(queries, gallery, k=k)) for k in KS}
    return Row("chance", "chance", {**metrics, "mAP": Estimate(chance_precision(queries, gallery))})


def retrieval_row(row: Described, queries: Queries, gallery: Mapping[str, str]) -> Row:
    """What a row's features, of unit length, find.

    Args:
        gallery: the searched videos in the order of `row.train`, with their labels.
    """
    wanted, labels = [str(label) for label in queries.labels], list(gallery.values())
    rankings = rank_classes(row.test, row.train, wanted, labels)
    _, nearest = search(row.test, row.train, k=1)
    places = {label: place for place, label in enumerate(sorted(set(labels)))}
    found = Row(
        row.name,
        row.kind,
        {},
        model=row.model,
        ranks=rankings.ranks.tolist(),
        precisions=[round(value, 6) for value in rankings.precisions.tolist()],
        predicted=[places[labels[place]] for place in nearest[:, 0].tolist()],
        outputs=row.outputs,
    )
    return replace(
        found, metrics={name: estimate_metric(found, queries, name) for name in (*(f"R@{k}" for k in KS), "mAP")}
    )


def nearest_neighbours(
    row: Described, queries: Sequence[str], gallery: Sequence[str], *, exclude_self: bool = False
) -> list[Neighbours]:
    """The nearest gallery videos of each query, by ids in the order of the row's features."""
    similarities, places = search(row.test, row.train, k=NEIGHBOURS_KEPT, exclude_self=exclude_self)
    distances: torch.Tensor = 1 - similarities
    return [
        Neighbours(query, [gallery[place] for place in found], [round(distance, 4) for distance in line])
        for query, found, line in zip(queries, places.tolist(), distances.tolist(), strict=True)
    ]
