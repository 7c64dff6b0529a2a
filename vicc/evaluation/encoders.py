"""The encoders that a command measures, untrained and hand-made baselines beside them, and all
their features.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from vicc.batch import Stream
from vicc.data.frame_reader import FrameReader
from vicc.data.loading_limits import prefetched_batches
from vicc.data.records import Video
from vicc.device import Precision
from vicc.distributed import on_first
from vicc.errors import ViccError
from vicc.evaluation.baselines import baseline_features, baselines_of
from vicc.evaluation.configs import MeasuredEncoders
from vicc.evaluation.feature_cache import FeatureCache
from vicc.evaluation.result import ROW_NAMES_BEFORE, Kind, fingerprint
from vicc.evaluation.sets import Sets
from vicc.files import require_writable
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.methods.features import Windows, calibrate_batchnorm, extract_features, pass_bytes
from vicc.methods.registry import row_prefix
from vicc.progress import Advance
from vicc.training.checkpoint import load_encoder, weights_fingerprint
from vicc.training.plan import num_workers
from vicc.training.run import Run
from vicc.training.stage import Stage

FEATURES_FOLDER = "features"
"""Where features are kept, beside the result."""
_TRAINING = ("seed", "recipe", "training")  # facts of a run that all its rows share
_KEPT_AS = {now: before for before, now in ROW_NAMES_BEFORE.items()}
"""Names in the keys of kept features where rows have been renamed since: a key never changes."""
_FEATURES_VERSION = 1  # of what `extract_features` and the baselines compute


@dataclass(frozen=True)
class RowFeatures:
    """The features of one row.

    Attributes:
        test, train: (N, D) of the tested and of the training videos; of retrieval queries and
            gallery.
        model: see `Row.model`.
        outputs: file with the features; None if they are not kept.
    """

    name: str
    kind: Kind
    test: torch.Tensor
    train: torch.Tensor
    model: dict[str, Any] = field(default_factory=dict)
    outputs: str | None = None


@dataclass(frozen=True)
class _Subject:
    """Something to be measured: how its features are computed, and what they depend on."""

    name: str
    kind: Kind
    key: dict[str, Any]
    describe: Callable[[list[Video], Windows, Advance], torch.Tensor]
    model: dict[str, Any] = field(default_factory=dict)


def describe_all(
    config: MeasuredEncoders,
    encoders: list[tuple[str, Encoder]],
    sets: Sets,
    precision: Precision,
    *,
    windows: Windows,
    train_windows: Windows | None = None,
) -> list[RowFeatures]:
    """The features of baselines, untrained encoders and encoders, in this order; called in all
    processes.

    Args:
        windows: of the tested videos, and of the training videos where `train_windows` is None.
    """
    for _, encoder in encoders:  # before the baselines, which may take minutes
        prefetched_batches(num_workers(config.workers), pass_bytes(encoder.config, windows))
    cache = FeatureCache(features_folder(config) if config.cache else None, sets.store)
    result = []
    for subject in _subjects(config, encoders, sets, precision):

        def features(videos: list[Video], windows: Windows, subject: _Subject = subject) -> tuple[torch.Tensor, Any]:
            key = {"version": _FEATURES_VERSION, **subject.key}
            if "encoder" in key or "untrained" in key:
                key |= {"windows": asdict(windows), "precision": precision.name}
            found = cache.features(
                key,
                videos,
                lambda some, advance: subject.describe(some, windows, advance),
                description=subject.name,
            )
            return found, cache.path(key)

        model = dict(subject.model)
        if train_windows is None or train_windows == windows:
            both, path = features(sets.train if sets.test is sets.train else [*sets.test, *sets.train], windows)
            test, train = (both, both) if sets.test is sets.train else (both[: len(sets.test)], both[len(sets.test) :])
        else:
            (test, path), (train, train_path) = features(sets.test, windows), features(sets.train, train_windows)
            model["train_outputs"] = None if train_path is None else str(train_path.absolute())
        outputs = None if path is None else str(path.absolute())
        result.append(RowFeatures(subject.name, subject.kind, test, train, model, outputs))
    return result


def require_room_for_results(config: MeasuredEncoders, result: Path) -> None:
    """Before anything is computed: can the result be written, and the features be kept?

    Raises:
        ViccError: one of them cannot.
    """

    def look() -> None:
        require_writable(result)
        if config.cache:
            folder = features_folder(config)
            require_writable(folder / "features", instead="Give --no-cache to keep no features")

    on_first(look)


def features_folder(config: MeasuredEncoders) -> Path:
    """Where the features of a command are kept: in its run, or in its first encoder's folder."""
    return (config.run or config.encoder[0]) / FEATURES_FOLDER


def _subjects(
    config: MeasuredEncoders, encoders: list[tuple[str, Encoder]], sets: Sets, precision: Precision
) -> Iterator[_Subject]:
    store, training = sets.store, _training(config)

    def of_encoder(encoder: Encoder) -> Callable[[list[Video], Windows, Advance], torch.Tensor]:
        return lambda videos, windows, advance: extract_features(
            encoder,
            store,
            videos,
            windows=windows,
            precision=precision,
            workers=num_workers(config.workers),
            advance=advance,
        )

    if sets.labelled and config.baselines:
        for name in baselines_of(store):
            yield _Subject(name, "baseline", {"baseline": _KEPT_AS.get(name, name)}, _of_baseline(name, store))
        for stream, encoder_config in _first_of_each_stream(encoders).items():
            yield _untrained_subject(stream, encoder_config, sets, precision, of_encoder, seed=training["seed"] or 0)
    origins = _origins(config)
    for name, encoder in encoders:
        weights = weights_fingerprint(encoder.state_dict())
        yield _Subject(
            name,
            "trained",
            {"encoder": weights, "config": in_keys(encoder.config)},
            of_encoder(encoder),
            {
                "stream": encoder.config.stream,
                "backbone": encoder.config.backbone,
                "clip": clip_words(encoder.config),
                "method": origins[name].method,
                "encoder": str(origins[name].place),
                "weights": weights,
                **training,
                **started_from(origins[name].place),
            },
        )


def _of_baseline(name: str, store: FrameReader) -> Callable[[list[Video], Windows, Advance], torch.Tensor]:
    """The features of a baseline, which has no windows; the first process computes them."""
    return lambda videos, windows, advance: on_first(lambda: baseline_features(name, store, videos, advance))


def _untrained_subject(
    stream: Stream,
    config: EncoderConfig,
    sets: Sets,
    precision: Precision,
    of_encoder: Callable[[Encoder], Callable[[list[Video], Windows, Advance], torch.Tensor]],
    *,
    seed: int,
) -> _Subject:
    built: list[Encoder] = []

    def describe(videos: list[Video], windows: Windows, advance: Advance) -> torch.Tensor:
        if not built:  # only where features are missing: calibrating takes a while
            built.append(_untrained(config, sets.store, sets.train, precision, seed=seed))
        return of_encoder(built[0])(videos, windows, advance)

    key = {
        "untrained": in_keys(config),
        "seed": seed,
        "calibrated": fingerprint([[video.id, video.source.blake2b, video.num_frames] for video in sets.train]),
    }
    about = {"stream": stream, "backbone": config.backbone, "clip": clip_words(config), "seed": seed}
    return _Subject(f"untrained {stage_title(stream)}", "untrained", key, describe, about)


def _untrained(
    config: EncoderConfig, store: FrameReader, videos: list[Video], precision: Precision, *, seed: int
) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(config)
    calibrate_batchnorm(encoder, store, videos, precision=precision)
    return encoder


def load_encoders(config: MeasuredEncoders) -> list[tuple[str, Encoder]]:
    """The trained encoders to measure, by the names of their rows.

    Raises:
        ViccError: no such run or encoder, no finished stage, or two encoders of one stream.
    """
    if config.run is not None:
        run = _trained_run(config.run)
        return [(row_name(stage), run.load_encoder(stage.name)) for stage in run.finished]
    loaded = [(folder, load_encoder(folder)) for folder in config.encoder]
    streams = Counter(encoder.config.stream for _, encoder in loaded)
    for stream, count in streams.items():
        if count > 1:
            which = " and ".join(str(folder) for folder, encoder in loaded if encoder.config.stream == stream)
            raise ViccError(
                f"--encoder {which} see {stream}, all of them; expected at most one encoder of each stream."
            )
    return [(_encoder_name(encoder, folder), encoder) for folder, encoder in loaded]


def _encoder_name(encoder: Encoder, folder: Path) -> str:
    return f"{stage_title(encoder.config.stream)} ({folder.name})"


def in_keys(config: EncoderConfig) -> dict[str, Any]:
    """A config in the keys of kept features, which never change: without what came later, where that
    is as it was before.
    """
    values = asdict(config)
    if config.rgb_normalization == "imagenet":
        del values["rgb_normalization"]
    if config.crop == "frame":
        del values["crop"]
    return values


def started_from(place: Path) -> dict[str, str]:
    """The fact "start" of a row, from where something was trained: with which weights that training
    began. Nothing where these were random, or nothing is known.
    """
    run = Run.of(place)
    words = "" if run is None else run.start_in_words
    return {"start": words} if words else {}


@dataclass(frozen=True)
class _Origin:
    """Where an encoder comes from, and which method has trained it; "" for ViCC and where nothing
    is known.
    """

    place: Path
    method: str


def _origins(config: MeasuredEncoders) -> dict[str, _Origin]:
    if config.run is not None:
        run = _trained_run(config.run)
        return {row_name(s): _Origin(run.folder / s.name, row_prefix(s.method)) for s in run.finished}
    return {_encoder_name(load_encoder(folder), folder): _Origin(folder, "") for folder in config.encoder}


def _training(config: MeasuredEncoders) -> dict[str, Any]:
    """What tells models of one training from those of another, and its seeds apart; of encoders
    nothing is known.
    """
    if config.run is None:
        return {"seed": None}
    run = Run(config.run)
    # As this version writes it, or runs of another one would not be pooled with ours.
    recipe = run.recipe.to_json()
    weights = run.description.get("start_weights")
    training = fingerprint(recipe if weights is None else [recipe, weights])
    return {"seed": run.seed, "recipe": recipe["name"], "training": training}


def _trained_run(folder: Path) -> Run:
    """Raises ViccError if it is not a run, or no stage of it is finished."""
    run = Run(folder)
    if not run.finished:
        raise ViccError(f"No stage of {folder} is finished yet. Go on with the same vicc pretrain command first.")
    return run


def stage_title(name: str) -> str:
    """A stage's name as tables print it: rgb-1 becomes RGB-1, flow-1 Flow-1, diff-1 Diff-1."""
    return name.replace("rgb", "RGB").replace("flow", "Flow").replace("diff", "Diff")


def row_name(stage: Stage) -> str:
    """The row of a stage's encoder: ViCC's by the stage alone (RGB-2), those of its baselines with
    their method's name before it (CoCLR RGB-2), so that tables of several runs keep them apart. A
    classifier's has its stream's name.
    """
    name = stage.stream if stage.settings.classifies else stage.name
    return f"{row_prefix(stage.method)} {stage_title(name)}".lstrip()


def fused_rows(described: list[RowFeatures]) -> dict[str, list[RowFeatures]]:
    """Rows of two streams together, each with the rows it is made of: the newest RGB with each
    stream of motion's.
    """
    newest = {row.model["stream"]: row for row in described if row.kind == "trained"}
    method = newest["rgb"].model["method"] if "rgb" in newest else ""
    return {
        f"{method} {name}".lstrip(): [newest["rgb"], newest[motion]]
        for name, motion in (("R+F", "flow"), ("R+D", "diff"))
        if "rgb" in newest and motion in newest
    }


def fused_model(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a fused row is made of, and what its parts, `Row.model` by row name, have in common of
    their training.
    """
    facts = [[model.get(fact) for model in parts.values()] for fact in _TRAINING]
    same = {fact: values[0] for fact, values in zip(_TRAINING, facts, strict=True) if len({*values}) == 1}
    starts = dict.fromkeys(model["start"] for model in parts.values() if "start" in model)
    return {"fused": list(parts), **same, **({"start": "; ".join(starts)} if starts else {})}


def clip_words(config: EncoderConfig) -> str:
    """What clips an encoder takes, in words."""
    stride = f", every {config.stride}" if config.stride > 1 else ""
    cropped = ", around the motion" if config.crop == "motion" else ""
    return f"{config.clip_frames} frames{stride}, {config.size} x {config.size}{cropped}"


def window_words(step: int | None, encoders: list[tuple[str, Encoder]]) -> str | int:
    """The step of windows as protocols name it: the published one, in whatever way it was asked
    for, or a number.
    """
    usual = all(step == Windows().step_of(encoder.config) for _, encoder in encoders)
    return "15/32 of a clip" if step is None or usual else step


def require_flow(encoders: list[tuple[str, Encoder]], store: FrameReader) -> None:
    """Raises ViccError if an encoder sees flow that the store does not have."""
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
