"""What classifiers are trained with, and what encoders and classifiers are measured with."""

import math
from dataclasses import dataclass, field
from typing import Literal

from vicc.places import (
    ExistingClassifier,
    ExistingEncoder,
    ExistingRun,
    ExistingStore,
    ExistingVideos,
    NewFile,
    require_store_or_videos,
)
from vicc.settings import Settings, flag_word, require, require_seed, sections
from vicc.training.configs import TrainingConfig, require_loaders, require_threads


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(TrainingConfig):
    """The flags of commands that train a classifier on an encoder."""

    SECTIONS = sections(
        ("run", ("encoder",)),
        ("what to train on", ("label_share", "label_seed", "validation_share")),
        ("recipe", ("schedule", "epochs", "milestones", "learning_rate")),
        ("watching", ("evaluate_epochs",)),
    )

    encoder: ExistingEncoder
    """Encoder to start from: a stage of a run (RUN/rgb-2), or an encoder folder such as `vicc
    import` makes.
    """
    schedule: Literal["default", "published"] = "default"
    """default: made for small data sets, steps in proportion to the published ones. published:
    batches, epochs, learning rates and augmentation exactly as published, for UCF101.
    """
    epochs: int | None = None
    """Epochs over the training videos. Default: the published number with --schedule published,
    else 100, or as many as make 1,000 steps where that is more.
    """
    milestones: tuple[int, ...] | None = None
    """Epochs at which the learning rate is divided by ten. Default: the published ones, in
    proportion to --epochs.
    """
    learning_rate: float | None = None
    """Learning rate for the batch size that is used. Default: the published 0.1 for 128 videos, in
    proportion to the batch.
    """
    label_share: float = 1.0
    """Share of each class's training videos whose labels are used, at least one video a class:
    0.01, 0.05, 0.1, 0.5. The others are not used.
    """
    label_seed: int = 0
    """Seed that chooses these videos, as for `vicc probe`; with one seed, a smaller share is part
    of every larger one.
    """
    validation_share: float | None = None
    """Share of the training videos, whole groups, that is held out to choose the epoch whose
    weights are kept; test videos are never used for that. 0: none, the last epoch is kept. Default:
    0.15; 0 with --label-share.
    """
    batch_size: int | Literal["auto"] | None = None
    """Videos a step, of all processes together; the learning rate follows. auto: as many as fit
    into memory, at most a fiftieth of the videos. Default: 32, with --schedule published 128.
    """
    set: list[str] = field(default_factory=list)
    """Further changes, each classifier.FIELD=VALUE, for instance classifier.augmentation.flip=0
    classifier.weight_decay=1e-4."""
    evaluate_epochs: int | None = None
    """Epochs from one evaluation on the validation videos to the next. Default: so that there are
    fifty.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "evaluate_epochs"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{flag_word(name)} {value}: expected at least 1.")
        require(
            self.learning_rate is None or 0 < self.learning_rate < math.inf,
            f"--learning-rate {self.learning_rate}: expected a number above 0.",
        )
        require(
            self.learning_rate is None or self.batch_size != "auto",
            f"--learning-rate {self.learning_rate} and --batch-size auto: expected one of the two, since the right "
            "rate depends on the batch.",
        )
        _require_share(self.label_share)
        require_seed("--label-seed", self.label_seed)
        require(
            self.validation_share is None or 0 <= self.validation_share <= 0.5,
            f"--validation-share {self.validation_share}: expected 0 to 0.5.",
        )

    @property
    def validated_share(self) -> float:
        """`validation_share`, its default in place."""
        if self.validation_share is not None:
            return self.validation_share
        return 0.15 if self.label_share == 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(ClassifierConfig):
    """Train an encoder on with labels: dropout, a linear layer, cross-entropy (the published
    fine-tuning).

    Given again with the same --run, the command resumes. The classifier is RUN/classifier; `vicc
    test` measures it.

    Example:
        vicc finetune --encoder run/rgb-2 --store store --run ft
        vicc finetune --encoder run/flow-2 --store store --run ft-flow --label-share 0.1
        vicc finetune --encoder imported-rgb --store ucf101 --run ft --schedule published
    """

    SECTIONS = sections(("recipe", ("dropout", "backbone_learning_rate_ratio")))

    dropout: float | None = None
    """Share of the features that is dropped at random. Default: 0.5; with --schedule published 0.9.
    """
    backbone_learning_rate_ratio: float = 1.0
    """Learning rate of the backbone over that of the linear layer: 1 in the published scripts, 0.1
    in their README.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.dropout is None or 0 <= self.dropout < 1, f"--dropout {self.dropout}: expected 0 or more, below 1."
        )
        ratio = self.backbone_learning_rate_ratio
        require(
            0 < ratio < math.inf,
            f"--backbone-learning-rate-ratio {ratio}: expected a number above 0; to leave the backbone as it is, give "
            "`vicc probe`.",
        )


@dataclass(frozen=True, kw_only=True)
class ProbeClipsConfig(ClassifierConfig):
    """Train a linear classifier on random clips through a frozen backbone (the published linear
    probe, end to end).

    The classifier is BatchNorm and a linear layer on features of unit length. `vicc probe` learns
    from stored features instead, in seconds. The classifier is RUN/classifier; `vicc test` measures
    it.

    Example:
        vicc probe-clips --encoder run/rgb-2 --store store --run probe
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not self.checkpoint_activations,
            "--checkpoint-activations: a frozen backbone keeps no activations. Leave it out.",
        )


@dataclass(frozen=True)
class MeasuredVideos(Settings):
    """The flags of every command that measures: which videos, how divided, computed where."""

    SECTIONS = sections(
        ("what to measure", ()),
        ("on which videos", ("store", "videos", "split", "test_share", "split_seed", "intersection")),
        ("how", ()),
        ("result", ()),
        ("speed and memory", ("workers", "threads", "device", "precision")),
    )

    store: ExistingStore | None = None
    """Store with the videos; may be another than the encoders were trained on. Give this, or
    --videos.
    """
    videos: ExistingVideos | None = None
    """Folder of videos in place of a store; see `vicc pretrain --videos`."""
    split: str | None = None
    """Training and test videos: NAME:FOLD of a split of the store (official:1, grouped-5:3),
    FILE.csv:FOLD, folders (the videos' own train and test; folders:val tests val in place of test)
    or grouped. Default: the run's, else official:1, then folders, then grouped.
    """
    test_share: float | None = None
    """Share of each class that is tested with --split grouped, which keeps the clips of one
    recording together. Default: 0.3.
    """
    split_seed: int | None = None
    """Seed of --split grouped. Default: 0."""
    intersection: bool = False
    """Measure without them where a split names videos that are missing, or has classes without
    training videos. Default: refuse and name them.
    """
    workers: int | None = None
    """Processes that load clips beside this one; 0: this one loads them. Default: as for `vicc
    pretrain`. Results do not depend on it.
    """
    threads: int | Literal["auto"] = "auto"
    """Threads that compute on CPUs. auto: measured at the start, fewer where other programs keep
    the cores busy; OMP_NUM_THREADS is taken where it is set.
    """
    device: str | None = None
    """Device: cpu, cuda, cuda:1, mps. Default: the fastest kind that this machine has."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Precision of the network. auto: bf16 where the device computes it natively, which is faster
    and changes a rank here and there.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        require_store_or_videos(self.store, self.videos)
        require_seed("--split-seed", self.split_seed)
        require(
            self.test_share is None or 0 < self.test_share < 1,
            f"--test-share {self.test_share}: expected a number between 0 and 1.",
        )
        require(
            self.split in (None, "grouped") or (self.test_share is None and self.split_seed is None),
            f"--test-share and --split-seed are for --split grouped, not for --split {self.split}.",
        )
        require_loaders(self.workers)
        require_threads(self.threads)


@dataclass(frozen=True)
class MeasuredEncoders(MeasuredVideos):
    """The flags of commands that measure encoders by their features."""

    SECTIONS = sections(
        ("what to measure", ("run", "encoder", "baselines")),
        ("how", ("window_step",)),
        ("result", ("out", "cache")),
    )

    run: ExistingRun | None = None
    """Run made by `vicc pretrain`: all its finished stages are measured. Give this, or --encoder.
    """
    encoder: list[ExistingEncoder] = field(default_factory=list)
    """Encoder folders, such as `vicc import` makes, at most one of each stream; rgb and flow give
    R+F too, rgb and diff R+D.
    """
    out: NewFile | None = None
    """File to write, .json. Default: named after the command, in the run or in the first encoder's
    folder.
    """
    window_step: int | None = None
    """Frames from one window of a video to the next. Default: 15 for a clip of 32 frames, as
    published, and in proportion for others.
    """
    baselines: bool = True
    """Also measure untrained and hand-made baselines: histograms of colour and motion, flow
    magnitude, untrained encoders.
    """
    cache: bool = True
    """Keep features in features/ beside the result, and take them from there when encoder, videos
    and protocol are the same. --no-cache computes all and keeps none.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            (self.run is None) != (not self.encoder),
            f"{'Both --run and --encoder are' if self.encoder else 'Neither --run nor --encoder is'} given: expected "
            "one of the two.",
        )
        require(
            self.window_step is None or self.window_step > 0, f"--window-step {self.window_step}: expected above 0."
        )


@dataclass(frozen=True)
class RetrieveConfig(MeasuredEncoders):
    """Measure retrieval: is one of the k nearest training videos of a test video of the same class?

    Prints R@k and mean average precision with 95 % intervals for every finished stage of the run,
    both streams together, chance, and untrained and hand-made baselines. Videos without labels get
    no table: each searches all others, and the nearest neighbours of the first are printed.

    Example:
        vicc retrieve --run run --store store
        vicc retrieve --run run --store store --query class/video.mp4
        vicc retrieve --encoder imported-rgb imported-flow --store store
        vicc retrieve --encoder ucf101-rgb --store hmdb51 --gallery published
    """

    SECTIONS = sections(("how", ("query", "gallery", "shuffle_frames")))

    gallery: Literal["sliding", "published"] = "sliding"
    """sliding: gallery videos are described by the mean over sliding windows, as the queries.
    published: by one window, as the published code does it; which one depends on the video's id
    alone.
    """
    shuffle_frames: bool = False
    """A control: put the frames of every window in random order, which destroys motion and keeps
    appearance.
    """
    query: str | None = None
    """Print the nearest neighbours of this video of the store, by its id, labelled or not."""


@dataclass(frozen=True)
class KnnConfig(MeasuredEncoders):
    """Classify test videos by their nearest training videos, without training anything.

    The k nearest vote for their classes, each with the weight exp(similarity / temperature). From
    all features the mean of the training videos is subtracted, and each is brought to unit length.

    Example:
        vicc knn --run run --store store
        vicc knn --encoder imported-rgb --store store --k 5
    """

    SECTIONS = sections(("how", ("k", "temperature", "label_share", "label_seed")))

    k: int = 20
    """Number of nearest training videos that vote."""
    temperature: float = 0.07
    """Temperature of the votes: lower values give near neighbours more weight."""
    label_share: float = 1.0
    """Share of each class's training videos whose labels are used, at least one video a class:
    0.01, 0.05, 0.1, 0.5.
    """
    label_seed: int = 0
    """Seed that chooses these videos; with one seed, a smaller share is part of every larger one.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.k > 0, f"--k {self.k}: expected at least 1.")
        require(0 < self.temperature < math.inf, f"--temperature {self.temperature}: expected a number above 0.")
        _require_share(self.label_share)
        require_seed("--label-seed", self.label_seed)


@dataclass(frozen=True)
class ProbeConfig(MeasuredEncoders):
    """Train a linear classifier on the features of training videos, and measure it on test videos.

    Features are those of `vicc retrieve`, computed once and kept, so that this takes seconds. The
    encoder is frozen. R+F is the mean of both streams' probabilities. For the published probe,
    whose classifier sees new random clips in every epoch, see `vicc probe-clips`.

    Example:
        vicc probe --run run --store store
        vicc probe --run run --store store --solver closed-form --label-share 0.1
    """

    SECTIONS = sections(("how", ("solver", "label_share", "label_seed")))

    solver: Literal["sgd", "closed-form"] = "sgd"
    """sgd: BatchNorm and a linear layer, with the published schedule (100 epochs, a tenth of the
    rate at 60 and 80). closed-form: ridge regression on the classes, its penalty chosen on the
    training videos by folds that keep groups whole.
    """
    label_share: float = 1.0
    """Share of each class's training videos whose labels are used, at least one video a class:
    0.01, 0.05, 0.1, 0.5.
    """
    label_seed: int = 0
    """Seed that chooses these videos; with one seed, a smaller share is part of every larger one.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_share(self.label_share)
        require_seed("--label-seed", self.label_seed)


@dataclass(frozen=True)
class MeasuredClassifiers(MeasuredVideos):
    """Measure classifiers on test videos: top-1, top-5 and mean class accuracy, with 95 %
    intervals.

    Probabilities are averaged over sliding windows and crops; nothing is random. They are written
    beside the result, for `vicc fuse`.

    Example:
        vicc test --classifier ft --store store
        vicc test --classifier ft --store store --crops ten
        vicc test --classifier imported-classifier --store ucf101 --crops ten
    """

    SECTIONS = sections(
        ("what to measure", ("classifier",)),
        ("how", ("crops", "window_step")),
        ("result", ("out",)),
    )

    classifier: list[ExistingClassifier] = field(default_factory=list)
    """Runs of `vicc finetune`, or folders of classifiers such as `vicc import` makes; several stand
    in one table.
    """
    crops: Literal["center", "five", "ten"] = "center"
    """Squares of 224/240 of a frame's shorter side. center: the one in the centre. five: those in
    the corners as well. ten: the five and their mirror images, as published.
    """
    out: NewFile | None = None
    """File to write, .json. Default: test.json in the first classifier's folder,
    test-five-crop.json or test-ten-crop.json with --crops.
    """
    window_step: int | None = None
    """Frames from one window of a video to the next. Default: 15 for a clip of 32 frames, as
    published, and in proportion for others.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.classifier) > 0, "Expected --classifier with at least one run of `vicc finetune`.")
        require(
            self.window_step is None or self.window_step > 0, f"--window-step {self.window_step}: expected above 0."
        )


def _require_share(share: float) -> None:
    require(0 < share <= 1, f"--label-share {share}: expected a number above 0, up to 1.")
