"""`vicc knn` and `vicc probe`: the classes of test videos from stored features, in seconds."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vicc.data.records import Video
from vicc.data.splits import group_name, grouped_folds
from vicc.device import Precision, choose_device, choose_precision, choose_threads, computing_threads
from vicc.distributed import on_first, processes
from vicc.evaluation.accuracy import chance_row, classification_row, write_probabilities
from vicc.evaluation.configs import KnnConfig, ProbeConfig
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
from vicc.evaluation.result import Protocol, Result, Row, made_with, write_result
from vicc.evaluation.sets import Sets, few_labels, open_sets
from vicc.evaluation.solvers import Solver, nearest_vote, ridge_classifier, sgd_classifier
from vicc.methods.features import Windows
from vicc.progress import say
from vicc.settings import takes_settings
from vicc.training.run import Run

_KNN_VERSION = 2  # 1: classes without a vote could be among the top five, in the order of their names
_FOLDS = 5  # in which the closed form looks for its penalty


@dataclass(frozen=True)
class _Method:
    """A classifier: its protocol's name, version and settings, and what makes it for some training
    videos.
    """

    name: str
    version: int
    settings: dict[str, Any]
    solver: Callable[[Sequence[Video]], Solver]


@takes_settings(KnnConfig)
def knn(config: KnnConfig) -> Result:
    """Classify test videos by their nearest training videos; the result is written to RUN/knn.json,
    or to `result_path(config)`.

    Raises:
        ViccError: as `vicc.retrieve`; and videos without labels.
    """
    settings: dict[str, Any] = {"k": config.k, "temperature": config.temperature}
    return _classify(config, _Method("knn", _KNN_VERSION, settings, lambda videos: partial(nearest_vote, **settings)))


@takes_settings(ProbeConfig)
def probe(config: ProbeConfig) -> Result:
    """Train and test a linear classifier on stored features; the result is written to
    RUN/probe.json, or to `result_path(config)`.

    Raises:
        ViccError: as `vicc.retrieve`; and videos without labels.
    """

    def solver(videos: Sequence[Video]) -> Solver:
        if config.solver == "sgd":
            return sgd_classifier
        return partial(ridge_classifier, folds=_fold_numbers(videos))

    return _classify(config, _Method("probe-features", 1, {"solver": config.solver}, solver))


def result_path(config: KnnConfig | ProbeConfig) -> Path:
    """The file that is written: --out, or one in the run or first encoder's folder. Another solver
    and fewer labels have files of their own.
    """
    if config.out is not None:
        return config.out
    name = "knn"
    if isinstance(config, ProbeConfig):
        name = "probe" + "-closed-form" * (config.solver == "closed-form")
    if config.label_share < 1:
        name += f"-{100 * config.label_share:g}-percent-seed-{config.label_seed}"
    return (config.run or config.encoder[0]) / f"{name}.json"


def _classify(config: KnnConfig | ProbeConfig, method: _Method) -> Result:
    device = choose_device(config.device)
    with processes(device), computing_threads(choose_threads(config.threads, device)):
        encoders = load_encoders(config)
        require_room_for_results(config, result_path(config))
        run = None if config.run is None else Run(config.run)
        sets = open_sets(config, run=run, encoders=config.encoder, need_labels=True)
        require_flow(encoders, sets.store)
        precision = choose_precision(config.precision, device)
        described = describe_all(config, encoders, sets, precision, windows=Windows(config.window_step))
        protocol = _protocol(config, method, window_words(config.window_step, encoders))
        return on_first(partial(_measure, config, method, protocol, sets, precision, described))


def _measure(
    config: KnnConfig | ProbeConfig,
    method: _Method,
    protocol: Protocol,
    sets: Sets,
    precision: Precision,
    described: list[RowFeatures],
) -> Result:
    kept = few_labels(sets.train, config.label_share, seed=config.label_seed)
    if len(kept) < len(sets.train):
        least, most = _least_and_most(kept)
        say(f"labels of {len(kept)} of {len(sets.train)} training videos, {least} to {most} of a class")
    path = result_path(config)
    result = Result(
        protocol=protocol,
        data=replace(sets.data, train=len(kept)),
        queries=sets.queries,
        rows=[chance_row(len(sets.data.classes)), *_rows(method, sets, kept, described, path)],
        neighbours={},
        made_with=made_with(precision=precision.name, device=str(precision.device), label_seed=config.label_seed),
    )
    write_result(path, result)
    return result


def _rows(method: _Method, sets: Sets, kept: list[Video], described: list[RowFeatures], path: Path) -> list[Row]:
    classes = sets.data.classes
    numbers = {label: number for number, label in enumerate(classes)}
    labels = torch.tensor([numbers[str(video.label)] for video in kept])
    places = {video.id: place for place, video in enumerate(sets.train)}
    used = torch.tensor([places[video.id] for video in kept])
    solve = method.solver(kept)
    probabilities = {row.name: solve(row.train[used], labels, row.test, len(classes)) for row in described}
    about = {row.name: (row.kind, row.model) for row in described}
    for name, parts in fused_rows(described).items():
        probabilities[name] = torch.stack([probabilities[part.name] for part in parts]).mean(0)
        about[name] = "fused", fused_model({part.name: part.model for part in parts})
    rows = []
    for name, (kind, model) in about.items():
        learned = kind in ("trained", "fused")
        outputs = write_probabilities(path, name, probabilities[name], sets.queries, classes) if learned else None
        rows.append(
            classification_row(name, kind, probabilities[name], sets.queries, classes, model=model, outputs=outputs)
        )
    return rows


def _protocol(config: KnnConfig | ProbeConfig, method: _Method, window_step: str | int) -> Protocol:
    settings = {**method.settings, "window_step": window_step}
    if config.label_share < 1:
        settings["label_share"] = config.label_share
    return Protocol(method.name, method.version, settings)


def _fold_numbers(videos: Sequence[Video]) -> list[int]:
    """A fold for each video, groups whole; all in one where there is a single group."""
    groups = len({group_name(video) for video in videos})
    if groups < 2:
        return [0] * len(videos)
    table = grouped_folds(videos, folds=min(_FOLDS, groups))
    return [table.cells[video.id].index("test") for video in videos]


def _least_and_most(videos: Sequence[Video]) -> tuple[int, int]:
    counts = Counter(video.label for video in videos).values()
    return min(counts), max(counts)
