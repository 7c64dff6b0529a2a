"""`vicc retrieve`: every finished stage of a run, both streams together, and the baselines, in one
table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from vicc.data.records import Video
from vicc.device import Precision, choose_device, choose_precision, choose_threads, computing_threads
from vicc.distributed import on_first, processes
from vicc.errors import ViccError
from vicc.evaluation.configs import RetrieveConfig
from vicc.evaluation.encoders import (
    RowFeatures,
    describe_all,
    fused_model,
    fused_rows,
    load_encoders,
    require_flow,
    require_room_for_results,
    window_words,
)
from vicc.evaluation.result import Estimate, Neighbours, Protocol, Queries, Result, Row, made_with, write_result
from vicc.evaluation.sets import Sets, open_sets
from vicc.evaluation.uncertainty import estimate_metric
from vicc.methods.features import Windows
from vicc.retrieval import KS, centered, chance_precision, chance_recall, fused, rank_classes, search, telling_ks
from vicc.settings import takes_settings
from vicc.training.run import Run
from vicc.words import nearest

RESULT_FILE = "retrieval.json"
NEIGHBOURS_KEPT = 20


@takes_settings(RetrieveConfig)
def retrieve(config: RetrieveConfig) -> Result:
    """Measure retrieval; the result is written to RUN/retrieval.json, or to `result_path(config)`.

    Labelled videos: test videos search the training videos. Videos without labels: each searches
    all others, and only neighbours are given. Several processes (torchrun) share the work.

    Returns:
        The result; where the config names a query, also with the neighbours of that video, the last
        of each row.

    Raises:
        ViccError: no such run, encoder, store or query, no finished stage, two encoders of one
            stream, nothing to test, or a split that does not fit (see `open_sets`).
    """
    device = choose_device(config.device)
    with processes(device), computing_threads(choose_threads(config.threads, device)):
        encoders = load_encoders(config)
        require_room_for_results(config, result_path(config))
        run = None if config.run is None else Run(config.run)
        sets = open_sets(config, run=run, encoders=config.encoder)
        require_flow(encoders, sets.store)
        asked = None if config.query is None else _video(config.query, sets)
        precision = choose_precision(config.precision, device)
        windows = Windows(config.window_step, shuffle=config.shuffle_frames)
        gallery = windows if config.gallery == "sliding" else replace(windows, one=True)
        described = describe_all(config, encoders, sets, precision, windows=windows, train_windows=gallery)
        protocol = _protocol(config, sets, window_words(config.window_step, encoders))
        result = on_first(partial(_measure, config, protocol, sets, precision, described))
        if asked is None or asked.id in sets.queries.ids:
            return result if asked is None else _with_entry_last(asked, result)
        one = [asked]
        alone = replace(sets, train=one, test=one, labelled=False)  # so that no baseline is computed
        of_asked = describe_all(config, encoders, alone, precision, windows=windows)
        return on_first(partial(_with_neighbours_of, asked, sets, result, of_asked, described))


def _video(query: str, sets: Sets) -> Video:
    """The video of the store that is meant.

    Raises:
        ViccError: there is none.
    """
    known = {video.id: video for video in sets.store.videos}
    if query in known:
        return known[query]
    near = [name for name in known if name.endswith(f"/{query}")] or nearest(query, known)
    told = f"The nearest are: {', '.join(near[:3])}." if near else f"The first is {next(iter(known))}."
    raise ViccError(
        f"--query {query}: there is no such video in {sets.store.path}. {told} See vicc store info STORE --videos."
    )


def _with_entry_last(asked: Video, result: Result) -> Result:
    """The result with the neighbours of one of its queries at the end of each row's."""
    return replace(
        result,
        neighbours={
            name: sorted(entries, key=lambda entry: entry.query == asked.id)
            for name, entries in result.neighbours.items()
        },
    )


def _with_neighbours_of(
    asked: Video, sets: Sets, result: Result, of_asked: list[RowFeatures], described: list[RowFeatures]
) -> Result:
    """The result with the nearest gallery videos of one video, itself left out, whichever side it
    is on.

    Its features are centred as the gallery's are, since it is no set of its own.
    """
    galleries = {row.name: row for row in described}
    rows = []
    for row in of_asked:
        gallery = galleries[row.name].train
        mean = gallery.mean(dim=0)
        test, train = (F.normalize(features - mean, dim=1) for features in (row.test, gallery))
        rows.append(replace(row, test=test, train=train))
    rows += [_fused(name, parts) for name, parts in fused_rows(rows).items()]
    names = [video.id for video in sets.train]
    others = [place for place, name in enumerate(names) if name != asked.id]
    left = [names[place] for place in others]
    found = {row.name: nearest_neighbours(replace(row, train=row.train[others]), [asked.id], left) for row in rows}
    return replace(result, neighbours={name: [*result.neighbours[name], *entry] for name, entry in found.items()})


def _measure(
    config: RetrieveConfig, protocol: Protocol, sets: Sets, precision: Precision, described: list[RowFeatures]
) -> Result:
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
        not_measured=without_meaning(sets.queries, gallery) if sets.labelled else {},
    )
    write_result(result_path(config), result)
    return result


def result_path(config: RetrieveConfig) -> Path:
    """The file that `retrieve` writes: --out, or a file in the run or first encoder's folder;
    controls have files of their own, so that they do not overwrite the result.
    """
    if config.out is not None:
        return config.out
    name = RESULT_FILE.removesuffix(".json")
    name += "-published" * (config.gallery == "published") + "-shuffled" * config.shuffle_frames
    return (config.run or config.encoder[0]) / f"{name}.json"


def _protocol(config: RetrieveConfig, sets: Sets, window_step: str | int) -> Protocol:
    return Protocol(
        f"retrieval-{config.gallery}",
        1,
        {
            "window_step": window_step,
            "centering": "each set by its own mean",
            **({"frames": "shuffled"} if config.shuffle_frames else {}),
            **({} if sets.labelled else {"searched": "by every video all others"}),
        },
    )


def _centered(row: RowFeatures, *, same: bool) -> RowFeatures:
    test = centered(row.test)
    return replace(row, test=test, train=test if same else centered(row.train))


def _fused(name: str, parts: list[RowFeatures]) -> RowFeatures:
    test, train = (fused([getattr(part, side) for part in parts]) for side in ("test", "train"))
    return RowFeatures(name, "fused", test, train, fused_model({part.name: part.model for part in parts}))


def _chance(sets: Sets) -> Row:
    queries, gallery = ([str(video.label) for video in part] for part in (sets.test, sets.train))
    metrics = {f"R@{k}": Estimate(chance_recall(queries, gallery, k=k)) for k in telling_ks(queries, gallery)}
    return Row("chance", "chance", {**metrics, "mAP": Estimate(chance_precision(queries, gallery))})


def retrieval_row(row: RowFeatures, queries: Queries, gallery: Mapping[str, str]) -> Row:
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
    metrics = [*(f"R@{k}" for k in telling_ks(wanted, labels)), "mAP"]
    return replace(found, metrics={name: estimate_metric(found, queries, name) for name in metrics})


def without_meaning(queries: Queries, gallery: Mapping[str, str]) -> dict[str, str]:
    """Each R@k that every order of the gallery brings to 100 %, with the reason; see
    `Result.not_measured`.
    """
    telling = telling_ks([str(label) for label in queries.labels], list(gallery.values()))
    reason = f"any order of the {len(gallery)} searched videos reaches 100 %"
    return {f"R@{k}": reason for k in KS if k not in telling}


def nearest_neighbours(
    row: RowFeatures, queries: Sequence[str], gallery: Sequence[str], *, exclude_self: bool = False
) -> list[Neighbours]:
    """The nearest gallery videos of each query, by ids in the order of the row's features."""
    similarities, places = search(row.test, row.train, k=NEIGHBOURS_KEPT, exclude_self=exclude_self)
    distances: torch.Tensor = 1 - similarities
    return [
        Neighbours(query, [gallery[place] for place in found], [round(distance, 4) for distance in line])
        for query, found, line in zip(queries, places.tolist(), distances.tolist(), strict=True)
    ]
