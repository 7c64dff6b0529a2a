"""`vicc retrieve`: every finished stage of a run, both streams together, and what has learned nothing, in one table."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from vicc.batch import Stream
from vicc.configs import RetrieveConfig
from vicc.data.frame_source import FrameSource
from vicc.data.splits import TEST_SHARE, Division, divide_videos
from vicc.data.store import Video
from vicc.device import Precision, choose_device, choose_precision
from vicc.errors import ViccError
from vicc.evaluation.baselines import baseline_features, baselines_of
from vicc.evaluation.features import calibrate_batchnorm, extract_features
from vicc.files import read_json, write_json
from vicc.methods.encoder import Encoder, EncoderConfig
from vicc.prepare.scan import SCAN_FILE, open_source, splits_of
from vicc.progress import say
from vicc.retrieval import KS, chance_recall, hits, nearest_neighbours, similarity, wilson_interval
from vicc.training.build import ENCODER_FOLDER
from vicc.training.checkpoint import load_encoder
from vicc.training.run_folder import RECIPE_FILE, run_division
from vicc.training.stage import Recipe, Stage

RESULT_FILE = "retrieval.json"
NEIGHBOURS_KEPT = 20


@dataclass(frozen=True)
class Row:
    """One line of the table. `recall[k]` is R@k, `interval[k]` its 95 % interval over queries (None for chance)."""

    name: str
    kind: Literal["chance", "baseline", "untrained", "trained", "fused"]
    recall: dict[str, float]
    interval: dict[str, tuple[float, float]] | None


@dataclass(frozen=True)
class Neighbours:
    """The nearest gallery videos of one query, nearest first. Distance is one minus cosine; of a fused row its mean."""

    query: str
    videos: list[str]
    distances: list[float]


@dataclass(frozen=True)
class RetrievalResult:
    """What `retrieve` measured, and how."""

    protocol: dict[str, Any]
    labelled: bool
    rows: list[Row]
    neighbours: dict[str, list[Neighbours]]
    """By row name, for trained and fused rows."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Sets:
    queries: list[Video]
    gallery: list[Video]
    labelled: bool
    split: str


def retrieve(config: RetrieveConfig) -> RetrievalResult:
    """Measure retrieval and write it to RUN/retrieval.json, or where `result_path` says.

    Labelled videos: test videos search the training videos. Videos without labels: each searches all others, and only
    neighbours are given.

    Raises:
        ViccError: no such run, encoder or store, no finished stage, two encoders of one stream, or nothing to test.
    """
    encoders = _encoders(config)
    store = open_source(config.store, config.videos, scan=None if config.run is None else config.run / SCAN_FILE)
    _require_flow(encoders, store)
    sets = _query_and_gallery(store, config)
    precision = choose_precision(config.precision, choose_device(config.device))

    def features(encoder: Encoder, name: str) -> torch.Tensor:
        return _similarities(
            sets,
            lambda videos: extract_features(
                encoder,
                store,
                videos,
                precision=precision,
                window_step=config.window_step,
                shuffle_frames=config.shuffle_frames,
                description=name,
            ),
        )

    similarities: dict[str, tuple[str, torch.Tensor]] = {}
    if sets.labelled and config.baselines:
        for name in baselines_of(store):
            similarities[name] = (
                "baseline",
                _similarities(sets, partial(baseline_features, name, store)),
            )
        for stream, encoder_config in _first_of_each_stream(encoders).items():
            name = f"untrained {stage_title(stream)}"
            similarities[name] = ("untrained", features(_untrained(encoder_config, store, sets, precision), name))
    for name, encoder in encoders:
        similarities[name] = ("trained", features(encoder, name))
    newest: dict[str, str] = {encoder.config.stream: name for name, encoder in encoders}
    fused = _fused(newest)
    for name, parts in fused.items():
        similarities[name] = ("fused", torch.stack([similarities[part][1] for part in parts]).mean(0))

    result = RetrievalResult(
        protocol=_protocol(config, sets, precision, fused),
        labelled=sets.labelled,
        rows=_table(sets, similarities) if sets.labelled else [],
        neighbours={
            name: _neighbours(sets, matrix)
            for name, (kind, matrix) in similarities.items()
            if kind in ("trained", "fused")
        },
    )
    write_json(result_path(config), result.to_json())
    return result


def result_path(config: RetrieveConfig) -> Path:
    """The file that `retrieve` writes: --out, or a file in the run or first encoder's folder; the shuffled control has
    a file of its own, so that it does not overwrite the result.
    """
    if config.out is not None:
        return config.out
    folder = config.run or config.encoder[0]
    return folder / (RESULT_FILE.replace(".json", "-shuffled.json") if config.shuffle_frames else RESULT_FILE)


def read_result(run: Path) -> RetrievalResult:
    """What `retrieve` wrote last.

    Raises:
        ViccError: nothing has been measured yet.
    """
    path = run / RESULT_FILE
    if not path.exists():
        raise ViccError(
            f"Nothing has been measured in {run} yet (no {RESULT_FILE}). Run: vicc retrieve --run {run} --store STORE"
        )
    content = read_json(path, what="retrieval result")
    try:
        return RetrievalResult(
            protocol=content["protocol"],
            labelled=content["labelled"],
            rows=[Row(**row) for row in content["rows"]],
            neighbours={
                name: [Neighbours(**entry) for entry in entries] for name, entries in content["neighbours"].items()
            },
        )
    except (KeyError, TypeError) as error:
        raise ViccError(
            f"The retrieval result {path} cannot be understood ({error}). Run vicc retrieve again."
        ) from error


def finished_stages(run: Path) -> list[Stage]:
    """The stages of a run that have an encoder, in the order of the recipe.

    Raises:
        ViccError: not a run, or no stage is finished.
    """
    if not (run / RECIPE_FILE).exists():
        raise ViccError(
            f"{run} is not a run (it has no {RECIPE_FILE}). Make one with: vicc pretrain --store STORE --run {run}"
        )
    recipe = Recipe.from_json(read_json(run / RECIPE_FILE, what="run description")["recipe"])
    stages = [stage for stage in recipe.stages if (run / stage.name / ENCODER_FOLDER / "config.json").exists()]
    if not stages:
        raise ViccError(f"No stage of {run} is finished yet. Go on with the same vicc pretrain command first.")
    return stages


def stage_title(name: str) -> str:
    """A stage's name as tables print it: rgb-1 becomes RGB-1, flow-1 Flow-1, diff-1 Diff-1."""
    return name.replace("rgb", "RGB").replace("flow", "Flow").replace("diff", "Diff")


def _query_and_gallery(store: FrameSource, config: RetrieveConfig) -> _Sets:
    division = _divide(store, config)
    gallery, queries = division.train, division.test
    if queries and gallery and all(video.label is not None for video in (*queries, *gallery)):
        unknown = {video.label for video in queries} - {video.label for video in gallery}
        if unknown:
            say(f"no training video of {', '.join(map(str, sorted(map(str, unknown))))}: their queries cannot succeed")
        return _Sets(queries, gallery, labelled=True, split=division.name)
    labels = Counter(video.label for video in store.videos)
    if len(labels) > 1 and None not in labels:
        raise ViccError(
            f"The {len(store.videos)} labelled videos of {store.path} cannot be divided into training and test videos "
            f"with whole groups (split {division.name}). Give more videos or groups, another --split or --test-share."
        )
    if len(store.videos) < 2:
        raise ViccError(f"There is {len(store.videos)} video in {store.path}; expected at least 2 to search in.")
    say("no labels: nearest neighbours only, no table")
    return _Sets(store.videos, store.videos, labelled=False, split="undivided")


def _divide(store: FrameSource, config: RetrieveConfig) -> Division[Video]:
    """The split asked for, else that of the run. Videos that the run was trained on are not tested unasked."""
    by_share = config.test_share is not None or config.split_seed is not None
    split = "grouped" if by_share else config.split
    own = run_division(config.run, store.videos) if config.run is not None else None
    if own is not None and split is None:
        division = own
    else:
        division = divide_videos(
            store.videos,
            split,
            splits_folder=splits_of(store, config.run),
            test_share=TEST_SHARE if config.test_share is None else config.test_share,
            seed=config.split_seed or 0,
        )
    for note in division.notes:
        say(note)
    trained = {video.id for video in own.train} if own is not None else set()
    seen = sum(video.id in trained for video in division.test)
    if seen:
        told = (
            f"{config.run} was trained on {seen} of the {len(division.test)} test videos of the split {division.name}"
        )
        if config.split is None:
            raise ViccError(f"{told}. Leave --test-share and --split-seed away, or give --split to test them even so.")
        say(f"warning: {told}: their numbers say little")
    return division


def _similarities(sets: _Sets, describe: Callable[[list[Video]], torch.Tensor]) -> torch.Tensor:
    if sets.queries is sets.gallery:
        features = describe(sets.gallery)
        return similarity(features, features)
    features = describe([*sets.queries, *sets.gallery])
    return similarity(*features.split((len(sets.queries), len(sets.gallery))))


def _encoders(config: RetrieveConfig) -> list[tuple[str, Encoder]]:
    """The trained encoders to measure, by the names of their rows."""
    if config.run is not None:
        run = config.run
        return [
            (stage_title(stage.name), load_encoder(run / stage.name / ENCODER_FOLDER)) for stage in finished_stages(run)
        ]
    loaded = [(folder, load_encoder(folder)) for folder in config.encoder]
    streams = Counter(encoder.config.stream for _, encoder in loaded)
    for stream, count in streams.items():
        if count > 1:
            which = " and ".join(str(folder) for folder, encoder in loaded if encoder.config.stream == stream)
            raise ViccError(
                f"--encoder {which} see {stream}, all of them; expected at most one encoder of each stream."
            )
    return [(f"{stage_title(encoder.config.stream)} ({folder.name})", encoder) for folder, encoder in loaded]


def _require_flow(encoders: list[tuple[str, Encoder]], store: FrameSource) -> None:
    names = [name for name, encoder in encoders if encoder.config.stream == "flow"]
    if names and store.settings.flow == "none":
        raise ViccError(
            f"{', '.join(names)} see flow, and the store {store.path} was prepared without it (--flow none). Prepare "
            "another store with flow to measure them."
        )


def _first_of_each_stream(encoders: list[tuple[str, Encoder]]) -> dict[Stream, EncoderConfig]:
    first: dict[Stream, EncoderConfig] = {}
    for _, encoder in encoders:
        first.setdefault(encoder.config.stream, encoder.config)
    return first


def _untrained(config: EncoderConfig, store: FrameSource, sets: _Sets, precision: Precision) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = Encoder(config)
    calibrate_batchnorm(encoder, store, sets.gallery, precision=precision)
    return encoder


def _table(sets: _Sets, similarities: dict[str, tuple[Any, torch.Tensor]]) -> list[Row]:
    queries, gallery = ([str(video.label) for video in part] for part in (sets.queries, sets.gallery))
    chance = {str(k): chance_recall(queries, gallery, k=k) for k in KS}
    rows = [Row("chance", "chance", chance, None)]
    for name, (kind, matrix) in similarities.items():
        counts = {str(k): int(hits(matrix, queries, gallery, k=k).sum()) for k in KS}
        rows.append(
            Row(
                name,
                kind,
                recall={k: count / len(queries) for k, count in counts.items()},
                interval={k: wilson_interval(count, len(queries)) for k, count in counts.items()},
            )
        )
    return rows


def _neighbours(sets: _Sets, matrix: torch.Tensor) -> list[Neighbours]:
    distances, places = nearest_neighbours(matrix, k=NEIGHBOURS_KEPT, exclude_self=sets.queries is sets.gallery)
    return [
        Neighbours(query.id, [sets.gallery[place].id for place in row], [round(distance, 4) for distance in line])
        for query, row, line in zip(sets.queries, places.tolist(), distances.tolist(), strict=True)
    ]


def _fused(newest: dict[str, str]) -> dict[str, list[str]]:
    """Rows of two streams together, each with the rows it is made of: RGB with every stream of motion."""
    return {
        row: [newest["rgb"], newest[motion]]
        for row, motion in (("R+F", "flow"), ("R+D", "diff"))
        if "rgb" in newest and motion in newest
    }


def _protocol(config: RetrieveConfig, sets: _Sets, precision: Precision, fused: dict[str, list[str]]) -> dict[str, Any]:
    return {
        "name": "sliding",
        "queries": len(sets.queries),
        "gallery": len(sets.gallery),
        "classes": len({video.label for video in sets.queries}) if sets.labelled else 0,
        "window_step": config.window_step or "half a clip",
        "fused": fused,
        "shuffled_frames": config.shuffle_frames,
        "precision": precision.name,
        "store" if config.videos is None else "videos": str(config.videos or config.store),
        "split": sets.split,
        "intervals": "95 %, Wilson, over queries",
    }


def in_short(result: RetrievalResult) -> RetrievalResult:
    """The result without neighbours, for printing."""
    return replace(result, neighbours={})
