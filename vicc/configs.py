"""The settings of every command, one dataclass each: a field's docstring is the flag's help.

A leaf, free of heavy imports, so that `vicc COMMAND --help` answers at once. Contradictions are refused here, in the
words of the flags.
"""

import math
import re
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from vicc.errors import ViccError
from vicc.settings import Place, Positional, Settings, sections

# A folder or a URL. A Path would turn s3:// into s3:/.
StorePlace = Annotated[str | Path, Place("store to write", url=True)]
# What must be there before a command begins; `vicc.places` looks.
ExistingStore = Annotated[str | Path, Place("store", url=True)]
ExistingRun = Annotated[Path, Place("run")]
ExistingEncoder = Annotated[Path, Place("encoder")]
ExistingVideos = Annotated[Path, Place("videos")]
ExistingVideosOrStore = Annotated[str | Path, Place("videos or store", url=True)]
ExistingClassifier = Annotated[Path, Place("classifier")]
ExistingFolder = Annotated[Path, Place("folder")]
ExistingResult = Annotated[str, Place("result")]
NewFile = Annotated[Path, Place("new file")]
SinkName = Literal["tensorboard", "wandb", "mlflow"]
MIN_FRAMES = 3
"""Of a video that is used: two flow frames are the least that show a motion."""


@dataclass(frozen=True)
class DemoVideosConfig(Settings):
    """Write the demo's videos: a drawn figure doing ten actions, as .mp4 files in class folders.

    Example:
        vicc demo-videos videos --train 300 --test 100 --seed 0
    """

    folder: Annotated[Path, Positional]
    """Folder to write into; gets train/ACTION/*.mp4 and test/ACTION/*.mp4."""
    train: int = 300
    """Training videos, all ten actions together."""
    test: int = 100
    """Test videos, all ten actions together."""
    seed: int = 0
    """Videos of the same seed are the same, pixel for pixel."""
    workers: int | None = None
    """Processes that draw, at least 1. Default: one for each core."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            self.train >= 10 and self.test >= 0 and self.train % 10 == self.test % 10 == 0,
            f"--train {self.train} --test {self.test}: expected multiples of 10, as there are ten actions.",
        )
        _require_decoders(self.workers)
        _require_seed("--seed", self.seed)


@dataclass(frozen=True)
class PrepareConfig(Settings):
    """Decode videos, compute optical flow and write both to a store that training reads.

    Given again, it continues where it stopped. Files that cannot be read are listed with their reason.
    Layouts: VIDEOS/*.mp4 (no labels), VIDEOS/CLASS/*.mp4, and train/ and test/ (val/, dev/, ...) around either; a
    single file; a list (.csv, .parquet) with the column path and, as needed, label, group, split, start, end (seconds).
    A table says what was found, passed over, labelled, grouped and split; --dry-run shows it without preparing.

    Example:
        vicc prepare videos --store store
        vicc prepare UCF-101 --store ucf101 --official-splits ucfTrainTestlist
        vicc prepare footage.csv --store store --segment-seconds 10
        vicc prepare videos --store store --shard 3/16
        vicc prepare videos --store store --engine ray --ray-address head:6379
    """

    SECTIONS = sections(
        ("where to", ("store", "shard", "shard_mb", "dry_run")),
        ("what is known of the videos", ("groups", "official_splits")),
        (
            "frames and flow",
            ("short_side", "fps", "flow", "flow_bound", "flow_at", "codec", "quality", "flow_quality", "min_frames"),
        ),
        ("parts of long files", ("segment_seconds", "shots")),
        ("speed", ("workers", "engine", "ray_address")),
    )

    videos: Annotated[ExistingVideos, Positional]
    """Folder of videos, searched at every depth; or a video file; or a list of videos, .csv or .parquet."""
    store: StorePlace
    """Folder of the store; made if it does not exist. A URL such as s3://bucket/store is prepared in a folder in
    VICC_CACHE (default: ~/.cache/vicc), then copied there."""
    flow: Literal["dis", "tvl1", "none"] = "dis"
    """Optical flow: Dense Inverse Search, or the published and slower TV-L1. none: RGB only, much faster and half the
    size; train on such a store with --motion diff."""
    flow_bound: float = 20.0
    """Largest displacement that is kept, in pixels per frame at the stored size. A smaller bound is more precise."""
    short_side: int = 128
    """Shorter side of the stored frames in pixels. Smaller videos are not enlarged."""
    flow_at: Literal["store", "native"] = "store"
    """Frames that flow is computed from: the stored ones, or the file's own, as published and many times slower. Stored
    at the stored frames' size either way."""
    codec: Literal["h264", "jpeg"] = "h264"
    """How frames are stored. h264 takes a ninth of jpeg's bytes and loads about as fast."""
    quality: int | None = None
    """Of stored RGB frames. h264: 0 to 51, the smaller the better, default 23. jpeg: 1 to 100, the larger the better,
    default 90."""
    flow_quality: int | None = None
    """Of stored flow, on the same scale. Default: h264 0, which loses nothing; jpeg 90."""
    fps: float | None = None
    """Sample every video at this rate by time, so that all have one rate; right for variable rates, too. Default: keep
    every frame."""
    groups: Path | None = None
    """CSV with the columns path, group (and label): clips of one group are never split between training and test.
    Default: VIDEOS/groups.csv where there is one, else names as UCF101, HMDB51 and Kinetics have them."""
    official_splits: Path | None = None
    """Folder with the split files of UCF101 or HMDB51, or CSV of Kinetics. Default: found in VIDEOS or beside it."""
    segment_seconds: float | None = None
    """Cut longer files into parts of so many seconds; what is left at the end joins the last part if it is shorter
    than half of one. Default: files stay whole."""
    shots: bool = False
    """Cut files where one shot ends and another begins; with --segment-seconds, long shots are cut further."""
    min_frames: int = MIN_FRAMES
    """Videos of fewer frames are set aside: two flow frames are the least that show a motion."""
    workers: int | None = None
    """Processes that decode, at least 1. Default: one for each core, of the whole cluster with --engine ray."""
    engine: Literal["local", "ray"] = "local"
    """local: processes of this machine. ray: a Ray cluster (pip install 'vicc[ray]'), whose nodes see the videos at the
    same path; the store is written by this machine."""
    ray_address: str | None = None
    """host:port of the Ray cluster. Default: the variable RAY_ADDRESS, else a Ray of this machine's own."""
    shard: str | None = None
    """i/n: prepare only the i-th of n parts of the videos, into STORE.part-i-of-n, for jobs that run independently;
    `vicc store merge` puts the parts together. In a Slurm array 1-16: --shard $SLURM_ARRAY_TASK_ID/16."""
    shard_mb: int = 512
    """MiB at which a new file of the store is begun. A remote store is fetched in such pieces."""
    dry_run: bool = False
    """Say what would be done, how long it would take and what training would gain, measured on a few of the videos,
    and leave nothing behind."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(8 <= self.short_side <= 2048, f"--short-side {self.short_side}: expected 8 to 2048 pixels.")
        best, worst = (0, 51) if self.codec == "h264" else (1, 100)
        for flag, value in (("--quality", self.quality), ("--flow-quality", self.flow_quality)):
            _require(
                value is None or best <= value <= worst,
                f"{flag} {value} with --codec {self.codec}: expected {best} to {worst}.",
            )
        _require(self.fps is None or 0 < self.fps <= 1000, f"--fps {self.fps}: expected above 0, up to 1000.")
        _require(0 < self.flow_bound <= 1000, f"--flow-bound {self.flow_bound}: expected a number above 0, up to 1000.")
        _require(
            self.segment_seconds is None or 0.1 <= self.segment_seconds <= 86400,
            f"--segment-seconds {self.segment_seconds}: expected 0.1 to 86400.",
        )
        _require(self.shard_mb > 0, f"--shard-mb {self.shard_mb}: expected at least 1.")
        _require(self.min_frames >= 2, f"--min-frames {self.min_frames}: expected at least 2, or there is no flow.")
        _require_decoders(self.workers)
        _require(
            self.ray_address is None or self.engine == "ray",
            f"--ray-address {self.ray_address} without --engine ray: expected both, or neither.",
        )
        _require(
            self.shard is None or _is_shard(self.shard),
            f"--shard {self.shard!r}: expected i/n with i from 1 to n, for instance 3/16 (a Slurm array counts from 1 "
            "with --array=1-16).",
        )


@dataclass(frozen=True)
class CheckConfig(Settings):
    """Decode all videos and say which are readable, and what is wrong with the others; exit status 1 if any is not.

    Shows frames declared and decoded, size, rate, rotation, variable frame rates, and duplicates. Give files, folders
    of videos, or a store, whose frames are then decoded.

    Example:
        vicc check videos
        vicc check videos --fast --html check.html
        vicc check store
    """

    paths: Annotated[list[ExistingVideosOrStore], Positional]
    """Videos, folders that are searched at every depth, stores."""
    fast: bool = False
    """Of videos longer than 15 s, decode only a second at the beginning, in the middle and at the end."""
    html: NewFile | None = None
    """Also write a contact sheet to this file: a few pictures of each video, problems first."""
    all: bool = False
    """Print a row for every video. Default: when there are many, only for those with something to say."""
    workers: int | None = None
    """Processes that decode, at least 1. Default: one for each core."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(len(self.paths) > 0, "No paths are given: expected videos, folders of videos, or a store.")
        _require_decoders(self.workers)


@dataclass(frozen=True)
class StoreInfoConfig(Settings):
    """Say what a store holds: videos, labels, frames, bytes of each stream, settings.

    Example:
        vicc store info store
        vicc store info s3://bucket/store --json
    """

    store: Annotated[ExistingStore, Positional]
    """Store to look at."""
    videos: bool = False
    """List every video, and every file set aside, as well."""


@dataclass(frozen=True)
class StoreVerifyConfig(Settings):
    """Read all of a store and compare it with its checksums. Exit status 1 if something is damaged, with its name.

    Example:
        vicc store verify store
        vicc store verify store --decode
    """

    store: Annotated[ExistingStore, Positional]
    """Store to read."""
    decode: bool = False
    """Decode every frame too, which takes longer."""
    workers: int | None = None
    """Processes that read, at least 1. Default: one for each core."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_decoders(self.workers)


@dataclass(frozen=True)
class StoreMergeConfig(Settings):
    """Write a new store of all videos of several stores that were prepared with equal settings.

    Its files are the same, byte for byte, as those of a store prepared at once. A video that several stores have in the
    same form is taken once; one that they have in different forms is refused by name.

    Example:
        vicc store merge store.part-01-of-02 store.part-02-of-02 --store store
    """

    stores: Annotated[list[ExistingStore], Positional]
    """Stores to merge, folders or URLs."""
    store: StorePlace
    """Folder or URL of the new store."""
    shard_mb: int = 512
    """MiB at which a new shard is begun."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(len(self.stores) > 0, "vicc store merge: expected stores to merge.")
        _require(self.shard_mb > 0, f"--shard-mb {self.shard_mb}: expected at least 1.")


@dataclass(frozen=True)
class StoreDropConfig(Settings):
    """Take videos out of a store and give their space back. All that are named are taken out, or none.

    `vicc prepare` on a folder that still has their files would add them again.

    Example:
        vicc store drop store fight/clip-7.mp4 fight/clip-9.mp4
        vicc store drop store --label noFight --dry-run
    """

    store: Annotated[Path, Place("store"), Positional]
    """Folder of the store."""
    ids: Annotated[list[str], Positional] = field(default_factory=list)
    """Videos to drop; `vicc store info --videos` lists them."""
    label: list[str] = field(default_factory=list)
    """Drop all videos of these labels as well."""
    dry_run: bool = False
    """Say what would be dropped, and do nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(bool(self.ids or self.label), "vicc store drop: expected ids of videos, or --label.")


@dataclass(frozen=True)
class StoreCopyConfig(Settings):
    """Copy a store to a URL, from one, or to another folder. Given again, it sends only what is missing.

    Keys come from the environment, for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; the address of another server
    than Amazon's from AWS_ENDPOINT_URL. The manifest is copied last, so that half a copy is not taken for a store.

    Example:
        vicc store copy store s3://bucket/store
    """

    source: Annotated[ExistingStore, Positional]
    """Store to copy."""
    target: Annotated[StorePlace, Positional]
    """Where to: a folder, new or of an earlier copy, or a URL."""


@dataclass(frozen=True)
class SplitsConfig(Settings):
    """Divide videos into folds for cross-validation: each video is tested in one fold and trains in the others.

    No group of videos lies in two folds, and every class is spread as evenly as whole groups allow. The split is
    written to STORE/splits and is then known to `vicc pretrain` and `vicc retrieve` as --split NAME:FOLD.

    Example:
        vicc splits store --folds 5
        vicc pretrain --store store --run run-3 --split grouped-5:3
    """

    place: Annotated[ExistingVideosOrStore, Positional]
    """Store; or what `vicc prepare` takes, a folder or list of videos, and then --out."""
    folds: int = 5
    """Number of folds."""
    seed: int = 0
    """Another seed divides otherwise; the same one always the same."""
    name: str | None = None
    """Name of the split. Default: grouped-FOLDS, with -SEED after it if that is not 0."""
    out: NewFile | None = None
    """File to write, .csv, in place of one in the store."""
    groups: Path | None = None
    """CSV with the columns path and group, for a folder of videos, as for `vicc prepare`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_seed("--seed", self.seed)
        _require(2 <= self.folds <= 1000, f"--folds {self.folds}: expected 2 to 1000.")
        _require(self.out is None or self.name is None, "--name and --out are both given: expected one of the two.")
        _require(
            self.out is None or self.out.suffix == ".csv",
            f"--out {self.out}: expected a name that ends in .csv, since --split knows files by that.",
        )


@dataclass(frozen=True)
class BenchConfig(Settings):
    """Measure how fast a store feeds training on this machine.

    Prints samples a second of one process for each stream and for both (a sample is two clips), the share of time that
    goes into reading, decoding and augmenting, the clips a second that each loader worker gives, the frames a second
    of computing flow, and the bytes a frame. Nothing is written.

    Example:
        vicc bench data --store store
        vicc bench data --store store --preset default --clip-frames 16 --size 112
    """

    what: Annotated[Literal["data"], Positional]
    """What to measure: data is the way from a store to batches."""
    store: ExistingStore
    """Store made by `vicc prepare`, a folder or a URL."""
    preset: Literal["default", "published"] = "published"
    """Augmentation."""
    clip_frames: int = 32
    """Frames of a clip."""
    size: int = 128
    """Side of a view in pixels."""
    seconds: float = 5.0
    """How long each figure is measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.clip_frames >= 1, f"--clip-frames {self.clip_frames}: expected at least 1.")
        _require(self.size >= 8, f"--size {self.size}: expected at least 8 pixels.")
        _require(0 < self.seconds <= 3600, f"--seconds {self.seconds}: expected more than 0, up to 3600.")


@dataclass(frozen=True)
class SlurmConfig(Settings):
    """What a Slurm job asks for; only with --launcher slurm."""

    nodes: int = 1
    """Machines of a job."""
    gpus_per_node: int | None = None
    """GPUs of each machine; each gets a process of its own."""
    tasks_per_node: int | None = None
    """Processes of each machine, where they use no GPUs, or GPUs that are asked for by --sbatch."""
    time: str | None = None
    """Time limit of a job as Slurm writes it, MINUTES, HOURS:MINUTES:SECONDS, DAYS-HOURS and so on. A stage may take
    longer: its job goes back to the queue before its time is over and then goes on from the checkpoint."""
    signal_minutes: float = 5.0
    """Minutes before the time limit at which a job writes its checkpoint and goes back to the queue. Slurm may be a
    minute early."""
    partition: str | None = None
    """Partition, or several with commas between them. Default: the cluster's."""
    account: str | None = None
    """Account that pays. Default: yours."""
    qos: str | None = None
    """Quality of service. Default: yours."""
    constraint: str | None = None
    """Features that the machines must have, for instance a100."""
    cpus_per_task: int | None = None
    """Cores of each process; it loads clips with them. Default: the cluster's, which is often one, and too few."""
    mem: str | None = None
    """Memory of each machine, for instance 64G. Default: the cluster's."""
    sbatch: list[str] = field(default_factory=list)
    """Further options of sbatch, each KEY=VALUE or KEY, for instance gres=gpu:a100:4 exclusive."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"{_flag(name)} {value}: expected at least 1.")
        _require(
            self.gpus_per_node is None or self.tasks_per_node is None,
            f"--gpus-per-node {self.gpus_per_node} and --tasks-per-node {self.tasks_per_node}: expected one of the "
            "two, as each GPU gets one process.",
        )
        minutes = self.minutes
        _require(
            0 < self.signal_minutes <= 1000 and (minutes is None or self.signal_minutes < minutes),
            f"--signal-minutes {self.signal_minutes:g}: expected above 0, up to 1000, and less than --time"
            f"{'' if self.time is None else ' ' + self.time}.",
        )
        for name in ("partition", "account", "qos", "constraint", "mem"):
            _require(getattr(self, name) != "", f"{_flag(name)} '': expected something, or leave it out.")
        for option in self.sbatch:
            self._check_option(option)

    def _check_option(self, option: str) -> None:
        key = option.partition("=")[0]
        _require(
            re.fullmatch(r"[a-z][a-z-]*(=.+)?", option) is not None,
            f"--sbatch {option!r}: expected KEY=VALUE or KEY with an option of sbatch in its long form, without the "
            "dashes before it, for instance gres=gpu:a100:4.",
        )
        _require(
            key.replace("-", "_") not in {entry.name for entry in fields(self)},
            f"--sbatch {option}: there is a flag for it. Give --{key} in its place.",
        )
        _require(key not in _SET_BY_VICC, f"--sbatch {option}: {key} is what vicc sets itself. Leave it out.")

    @property
    def minutes(self) -> int | None:
        """The time limit in minutes, parts of one counted as whole, as Slurm does.

        Raises:
            ViccError: not a time.
        """
        if self.time is None:
            return None
        match = re.fullmatch(r"(?:([0-9]{1,4})-)?([0-9]{1,6})(?::([0-9]{1,2}))?(?::([0-9]{1,2}))?", self.time)
        _require(
            match is not None,
            f"--time {self.time!r}: expected a time as Slurm writes it, for instance 90 (minutes), 24:00:00 (hours), "
            "2-12 (days and hours).",
        )
        assert match is not None
        days, *rest = match.groups()
        first, second, third = (0 if part is None else int(part) for part in rest)
        if days is not None:
            seconds = ((int(days) * 24 + first) * 60 + second) * 60 + third
        elif rest[2] is not None:
            seconds = (first * 60 + second) * 60 + third
        else:
            seconds = first * 60 + second
        _require(seconds > 0, f"--time {self.time}: expected more than nothing.")
        return math.ceil(seconds / 60)

    @property
    def processes_per_node(self) -> int:
        return self.gpus_per_node or self.tasks_per_node or 1

    @property
    def processes(self) -> int:
        """All that train together."""
        return self.nodes * self.processes_per_node


_SET_BY_VICC = frozenset(
    {"array", "dependency", "error", "job-name", "kill-on-invalid-dep", "no-requeue", "ntasks", "ntasks-per-node"}
    | {"open-mode", "output", "parsable", "requeue", "signal", "test-only", "wait", "wrap"}
)
"""Options of sbatch that a chain of jobs, each of which requeues itself, cannot do without, or not do with."""


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """The flags of every command that trains: on which videos, how, watched how."""

    SECTIONS = sections(
        ("run", ("run", "seed", "dry_run", "checkpoint_minutes", "keep_checkpoints", "allow_elastic")),
        ("what to train on", ("store", "videos", "split")),
        ("recipe", ("set", "batch_size")),
        (
            "speed and memory",
            (
                *("device", "precision", "threads", "workers", "cache_mb"),
                *("accumulate", "checkpoint_activations", "compile"),
            ),
        ),
        ("watching", ("log_to", "hang_minutes")),
        ("jobs of a Slurm cluster", ("launcher", "slurm")),
    )

    run: Path
    """Folder of the run: checkpoints, logs, results."""
    store: ExistingStore | None = None
    """Store made by `vicc prepare`; give this, or --videos. One behind a URL is copied to VICC_CACHE (default:
    ~/.cache/vicc), once."""
    videos: ExistingVideos | None = None
    """Folder of videos, in place of a store: they are decoded and DIS flow is computed while training, at a short side
    of 128 pixels. That is slower; the measured difference is said. For large and lasting work, prepare a store."""
    split: str | None = None
    """Training videos: NAME:FOLD of a split of the store (official:1, grouped-5:3), FILE.csv:FOLD, folders (the videos'
    own train and test; folders:val tests val in place of test) or grouped (a hash of the groups). Default: official:1
    where there is one, then folders, then grouped."""
    seed: int = 31
    """Start of every random stream: initial weights, order of the videos, clips, augmentation."""
    set: list[str] = field(default_factory=list)
    """Changes to the recipe, each STAGE.FIELD=VALUE, for instance rgb-1.epochs=50 flow-1.learning_rate=0.3."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps. Default: the best that is there."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp64"] = "auto"
    """auto: bf16 autocast where the device computes it natively, else fp32. fp16 scales its gradients; for GPUs without
    bf16. fp64 is for comparing numbers."""
    batch_size: int | Literal["auto"] | None = None
    """Videos a step in all stages, of all processes together; the learning rate follows, and the queue stays whole
    batches. auto: as many as fit into memory, at most a fiftieth of the videos. Default: what the recipe says."""
    accumulate: int = 1
    """Parts in which a batch goes through the encoder, one in memory at a time: larger batches in the same memory, for
    a good third more time. The loss is that of the whole batch."""
    checkpoint_activations: bool = False
    """Compute activations a second time in place of keeping them: about half the memory, a good third more time."""
    compile: bool = False
    """torch.compile the encoders. For GPUs; on CPUs it takes minutes and was not measured to gain anything."""
    threads: int | Literal["auto"] = "auto"
    """Threads that compute on CPUs, of each process. auto: measured at the first start, fewer where other programs keep
    the cores busy; OMP_NUM_THREADS is taken where it is set. A run keeps its number, which its numbers depend on."""
    workers: int | None = None
    """Processes that load clips beside this one; 0: this one loads them. Default: 0 on two cores or fewer, else up to
    8."""
    cache_mb: int = 1024
    """Memory for decoded frames, in MiB and for each process that loads; a store that fits is decoded only once."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints. One is also written at the end of every epoch and when training is stopped."""
    keep_checkpoints: int = 2
    """How many of a stage's newest checkpoints are kept; the best is kept beside them."""
    allow_elastic: bool = False
    """Resume although the result is then no longer bit-equal to that of an undisturbed run: with another number of
    processes (they share the same batches, and queues are redistributed), or another --precision, --threads, kind of
    --device, --accumulate or --compile than the run has had."""
    hang_minutes: float = 20.0
    """Minutes without a step after which a process says which process, step and video hangs, and ends; 0 for never."""
    log_to: tuple[SinkName, ...] = ("tensorboard",)
    """Where numbers go beside the run folder's own log: tensorboard (RUN/STAGE/tensorboard), wandb (pip install
    'vicc[wandb]'), mlflow (pip install 'vicc[mlflow]'); nothing after --log-to for none of them."""
    dry_run: bool = False
    """Print the plan (stages, steps, clips) and do nothing. With --launcher slurm: also print the jobs' script."""
    launcher: Literal["here", "slurm"] = "here"
    """here: train in this process. slurm: submit a job for each stage that is not finished, each after the one before,
    and return (pip install 'vicc[slurm]')."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """What a Slurm job asks for; only with --launcher slurm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_store_or_videos(self.store, self.videos)
        _require_loaders(self.workers)
        _require_seed("--seed", self.seed)
        _require(self.cache_mb >= 0, f"--cache-mb {self.cache_mb}: expected 0 (nothing is kept) or more.")
        _require(self.keep_checkpoints >= 1, f"--keep-checkpoints {self.keep_checkpoints}: expected at least 1.")
        _require(
            self.batch_size in (None, "auto") or self.batch_size >= 1,  # type: ignore[operator]
            f"--batch-size {self.batch_size}: expected at least 1, or auto.",
        )
        taken = [change for change in self.set if re.match(r"[^=]*\.(batch_size|learning_rate)=", change)]
        _require(
            self.batch_size is None or not taken,
            f"--batch-size {self.batch_size} and --set {' '.join(taken)}: expected one of the two, since the learning "
            "rate follows --batch-size.",
        )
        _require(self.accumulate >= 1, f"--accumulate {self.accumulate}: expected at least 1.")
        _require_threads(self.threads)
        _require(
            not (self.compile and self.checkpoint_activations),
            "--compile and --checkpoint-activations: expected one of the two; a compiled encoder decides itself what "
            "it computes again.",
        )
        for name in ("checkpoint_minutes", "hang_minutes"):
            value = getattr(self, name)
            _require(value >= 0, f"{_flag(name)} {value}: expected 0 or more.")
        self._check_launcher()

    def _check_launcher(self) -> None:
        if self.launcher == "here":
            given = [_flag(f.name) for f in fields(SlurmConfig) if getattr(self.slurm, f.name) != _default_of(f)]
            _require(not given, f"{', '.join(given)} without --launcher slurm: expected both, or neither.")
            return
        _require(
            self.slurm.gpus_per_node is not None or self.slurm.tasks_per_node is not None,
            "--launcher slurm: expected --gpus-per-node N (one process for each), or, for machines without GPUs, "
            "--tasks-per-node N.",
        )
        _require(
            self.slurm.time is not None,
            "--launcher slurm: expected the time limit of a job as well, for instance --time 24:00:00.",
        )


@dataclass(frozen=True)
class PretrainConfig(TrainingConfig):
    """Train the encoders of a recipe on a store or a folder of videos, without labels, stage after stage.

    Given again with the same --run it resumes, in the middle of an epoch if need be, or says that it is finished.

    Example:
        vicc pretrain --recipe demo --store store --run run
        vicc pretrain --recipe default --store store --run run --set rgb-1.epochs=50 --dry-run
        vicc pretrain --recipe demo --videos videos --motion diff --run run
        vicc pretrain --store store --run run --launcher slurm --nodes 2 --gpus-per-node 4 --time 24:00:00
    """

    SECTIONS = sections(
        ("recipe", ("recipe", "motion", "views", "fit_to_data", "stages")),
        ("watching", ("evaluate_epochs", "best")),
    )

    recipe: str = "default"
    """Name of the recipe; `vicc recipes` lists them."""
    motion: Literal["flow", "diff"] = "flow"
    """What shows motion: optical flow, or diff, how RGB changes from each frame to the next, which needs no flow: the
    recipe's flow-1 becomes diff-1."""
    views: str | None = None
    """Views of the ViCC stages, for instance 2x128+4x96: two of 128 pixels, and four of 96 that are predicted only.
    Default: what the recipe says. Changes of --set come after it."""
    fit_to_data: bool = False
    """Let the number of prototypes and the length of the queue follow the number of training videos."""
    stages: list[str] = field(default_factory=list)
    """Train only these stages of the recipe, for instance one a job. Default: all that are not finished."""
    best: Literal["loss", "own_video_recall", "label_recall"] = "loss"
    """What makes a checkpoint the best: the mean loss of an epoch, or R@1 of the small evaluation, for a clip of the
    own video or, with labels, of the own class."""
    evaluate_epochs: int | None = None
    """Epochs from one small evaluation without labels to the next: does a clip find the other clip of its own video
    among those of up to 200 training videos? One more at a stage's end. 0: none. Default: so that a twelfth as many
    videos are looked at as are trained on, which costs less than 5 % of the time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            self.evaluate_epochs is None or self.evaluate_epochs >= 0,
            f"--evaluate-epochs {self.evaluate_epochs}: expected 0 or more.",
        )
        _require(
            self.best == "loss" or self.evaluate_epochs != 0,
            f"--best {self.best} and --evaluate-epochs 0: there is no {self.best} without an evaluation.",
        )


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
    """Encoder to start from: a stage of a run (RUN/rgb-2), or an encoder folder such as `vicc import` makes."""
    schedule: Literal["default", "published"] = "default"
    """default: made for small data sets, steps in proportion to the published ones. published: batches, epochs,
    learning rates and augmentation exactly as published, for UCF101."""
    epochs: int | None = None
    """Epochs over the training videos. Default: the published number with --schedule published, else 100, or as many
    as make 1,000 steps where that is more."""
    milestones: tuple[int, ...] | None = None
    """Epochs at which the learning rate is divided by ten. Default: the published ones, in proportion to --epochs."""
    learning_rate: float | None = None
    """Learning rate of the batches as they are. Default: the published 0.1 for 128 videos, in proportion to the batch,
    as in all of vicc."""
    label_share: float = 1.0
    """Share of each class's training videos whose labels are used, at least one video a class: 0.01, 0.05, 0.1, 0.5.
    The others are not looked at."""
    label_seed: int = 0
    """Seed of which videos those are, the same as for `vicc probe`; of one seed, a smaller share is part of every
    larger one."""
    validation_share: float | None = None
    """Share of the training videos, whole groups, that is held out and chooses the epoch whose weights are kept. Test
    videos choose nothing. 0: none, the last epoch is kept. Default: 0.15; 0 with --label-share."""
    batch_size: int | Literal["auto"] | None = None
    """Videos a step, of all processes together; the learning rate follows. auto: as many as fit into memory, at most a
    fiftieth of the videos. Default: 32, with --schedule published 128."""
    set: list[str] = field(default_factory=list)
    """Further changes, each classifier.FIELD=VALUE, for instance classifier.augmentation.flip=0
    classifier.weight_decay=1e-4."""
    evaluate_epochs: int | None = None
    """Epochs from one look at the validation videos to the next. Default: fifty looks in all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "evaluate_epochs"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{_flag(name)} {value}: expected at least 1.")
        _require(
            self.learning_rate is None or 0 < self.learning_rate < math.inf,
            f"--learning-rate {self.learning_rate}: expected a number above 0.",
        )
        _require(
            self.learning_rate is None or self.batch_size != "auto",
            f"--learning-rate {self.learning_rate} and --batch-size auto: expected one of the two, since the right "
            "rate depends on the batch.",
        )
        _require_share(self.label_share)
        _require_seed("--label-seed", self.label_seed)
        _require(
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
    """Train an encoder on with labels: dropout, a linear layer, cross-entropy (the published fine-tuning).

    Given again with the same --run it resumes, or says that it is finished. The classifier is RUN/classifier; `vicc
    test` measures it.

    Example:
        vicc finetune --encoder run/rgb-2 --store store --run ft
        vicc finetune --encoder run/flow-2 --store store --run ft-flow --label-share 0.1
        vicc finetune --encoder imported-rgb --store ucf101 --run ft --schedule published
    """

    SECTIONS = sections(("recipe", ("dropout", "backbone_learning_rate_ratio")))

    dropout: float | None = None
    """Share of the features that is dropped at random. Default: 0.5; with --schedule published 0.9."""
    backbone_learning_rate_ratio: float = 1.0
    """Learning rate of the backbone over that of the linear layer: 1 in the published scripts, 0.1 in their README."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            self.dropout is None or 0 <= self.dropout < 1, f"--dropout {self.dropout}: expected 0 or more, below 1."
        )
        ratio = self.backbone_learning_rate_ratio
        _require(
            0 < ratio < math.inf,
            f"--backbone-learning-rate-ratio {ratio}: expected a number above 0; to leave the backbone as it is, give "
            "`vicc probe`.",
        )


@dataclass(frozen=True, kw_only=True)
class ProbeClipsConfig(ClassifierConfig):
    """Train a linear classifier on random clips through a frozen backbone (the published linear probe, end to end).

    Features of unit length, BatchNorm, a linear layer. `vicc probe` without it learns from stored features, in seconds.
    The classifier is RUN/classifier; `vicc test` measures it.

    Example:
        vicc probe-clips --encoder run/rgb-2 --store store --run probe
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
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
    """Store with the videos; may be another than the encoders were trained on. Give this, or --videos."""
    videos: ExistingVideos | None = None
    """Folder of videos in place of a store; see `vicc pretrain --videos`."""
    split: str | None = None
    """Training and test videos: NAME:FOLD of a split of the store (official:1, grouped-5:3), FILE.csv:FOLD, folders
    (the videos' own train and test; folders:val tests val in place of test) or grouped. Default: the run's, else
    official:1, then folders, then grouped."""
    test_share: float | None = None
    """Share of each class that is tested in the split grouped, which keeps groups together. Default: 0.3."""
    split_seed: int | None = None
    """Seed of the split grouped. Default: 0."""
    intersection: bool = False
    """Measure what is there where a split names videos that are missing, or has classes without training videos.
    Default: refuse, with their names."""
    workers: int | None = None
    """Processes that load clips beside this one; 0: this one loads them. Default: as for `vicc pretrain`. Changes no
    number."""
    threads: int | Literal["auto"] = "auto"
    """Threads that compute on CPUs. auto: measured at the start, fewer where other programs keep the cores busy;
    OMP_NUM_THREADS is taken where it is set."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps. Default: the best that is there."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Precision of the network. auto takes bf16 where the device has it: faster, and a rank changes now and then."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_store_or_videos(self.store, self.videos)
        _require_seed("--split-seed", self.split_seed)
        _require(
            self.test_share is None or 0 < self.test_share < 1,
            f"--test-share {self.test_share}: expected a number between 0 and 1.",
        )
        _require(
            self.split in (None, "grouped") or (self.test_share is None and self.split_seed is None),
            f"--test-share and --split-seed are for --split grouped, not for --split {self.split}.",
        )
        _require_loaders(self.workers)
        _require_threads(self.threads)


@dataclass(frozen=True)
class MeasuredEncoders(MeasuredVideos):
    """The flags of commands that measure encoders by their features."""

    SECTIONS = sections(
        ("what to measure", ("run", "encoder", "baselines")),
        ("how", ("window_step",)),
        ("result", ("out", "cache")),
    )

    run: ExistingRun | None = None
    """Run made by `vicc pretrain`: all its finished stages are measured. Give this, or --encoder."""
    encoder: list[ExistingEncoder] = field(default_factory=list)
    """Encoder folders, such as `vicc import` makes, at most one of each stream; rgb and flow give R+F too, rgb and
    diff R+D."""
    out: NewFile | None = None
    """File to write, .json. Default: named after the command, in the run or in the first encoder's folder."""
    window_step: int | None = None
    """Frames from one window of a video to the next. Default: 15 for a clip of 32 frames, as published, and in
    proportion for others."""
    baselines: bool = True
    """Also measure what has learned nothing: histograms of colour and motion, absolute flow, untrained encoders."""
    cache: bool = True
    """Keep features in features/ beside the result, and take them from there when encoder, videos and protocol are the
    same. --no-cache computes all and keeps none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            (self.run is None) != (not self.encoder),
            f"{'Both --run and --encoder are' if self.encoder else 'Neither --run nor --encoder is'} given: expected "
            "one of the two.",
        )
        _require(
            self.window_step is None or self.window_step > 0, f"--window-step {self.window_step}: expected above 0."
        )


@dataclass(frozen=True)
class RetrieveConfig(MeasuredEncoders):
    """Measure retrieval: is one of the k nearest training videos of a test video of the same class?

    Prints R@k and mean average precision with 95 % intervals for every finished stage of the run, both streams
    together, chance, and baselines that have learned nothing. Videos without labels get no table: each searches all
    others, and the nearest neighbours of the first are printed.

    Example:
        vicc retrieve --run run --store store
        vicc retrieve --run run --store store --query class/video.mp4
        vicc retrieve --encoder imported-rgb imported-flow --store store
        vicc retrieve --encoder ucf101-rgb --store hmdb51 --gallery published
    """

    SECTIONS = sections(("how", ("query", "gallery", "shuffle_frames")))

    gallery: Literal["sliding", "published"] = "sliding"
    """sliding: gallery videos are described by the mean over sliding windows, as the queries. published: by one window,
    as the published code does it; which one depends on the video's id alone."""
    shuffle_frames: bool = False
    """A control: put the frames of every window in random order, which destroys motion and keeps appearance."""
    query: str | None = None
    """Print the nearest neighbours of this video of the store, by its id, labelled or not."""


@dataclass(frozen=True)
class KnnConfig(MeasuredEncoders):
    """Classify test videos by their nearest training videos, without training anything.

    The k nearest vote for their classes, each with the weight exp(similarity / temperature). Features have the training
    videos' mean taken out and unit length.

    Example:
        vicc knn --run run --store store
        vicc knn --encoder imported-rgb --store store --k 5
    """

    SECTIONS = sections(("how", ("k", "temperature", "label_share", "label_seed")))

    k: int = 20
    """Training videos that vote."""
    temperature: float = 0.07
    """The smaller, the less do those count that are less near."""
    label_share: float = 1.0
    """Share of each class's training videos whose labels are used, at least one video a class: 0.01, 0.05, 0.1, 0.5."""
    label_seed: int = 0
    """Seed of which videos those are; of one seed, a smaller share is part of every larger one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.k > 0, f"--k {self.k}: expected at least 1.")
        _require(0 < self.temperature < math.inf, f"--temperature {self.temperature}: expected a number above 0.")
        _require_share(self.label_share)
        _require_seed("--label-seed", self.label_seed)


@dataclass(frozen=True)
class ProbeConfig(MeasuredEncoders):
    """Train a linear classifier on the features of training videos, and test it: how much is in them?

    Features are those of `vicc retrieve`, computed once and kept: seconds. The encoder stands still. R+F is the mean of
    both streams' probabilities. For the published probe, whose classifier sees new random clips in every epoch, see
    `vicc probe-clips`.

    Example:
        vicc probe --run run --store store
        vicc probe --run run --store store --solver closed-form --label-share 0.1
    """

    SECTIONS = sections(("how", ("solver", "label_share", "label_seed")))

    solver: Literal["sgd", "closed-form"] = "sgd"
    """sgd: BatchNorm and a linear layer, with the published schedule (100 epochs, a tenth of the rate at 60 and 80).
    closed-form: ridge regression on the classes, its penalty chosen on the training videos by folds that keep groups
    whole."""
    label_share: float = 1.0
    """Share of each class's training videos whose labels are used, at least one video a class: 0.01, 0.05, 0.1, 0.5."""
    label_seed: int = 0
    """Seed of which videos those are; of one seed, a smaller share is part of every larger one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_share(self.label_share)
        _require_seed("--label-seed", self.label_seed)


@dataclass(frozen=True)
class MeasuredClassifiers(MeasuredVideos):
    """Measure classifiers on test videos: top-1, top-5 and mean class accuracy, with 95 % intervals.

    Probabilities are averaged over sliding windows and crops; nothing is random. They are written beside the result,
    for `vicc fuse`.

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
    """Runs of `vicc finetune`, or folders of classifiers such as `vicc import` makes; several stand in one table."""
    crops: Literal["center", "five", "ten"] = "center"
    """Squares of 224/240 of a frame's shorter side. center: the one in the centre. five: those in the corners as well.
    ten: the five and their mirror images, as published."""
    out: NewFile | None = None
    """File to write, .json. Default: test.json in the first classifier's folder, test-five-crop.json or
    test-ten-crop.json with --crops."""
    window_step: int | None = None
    """Frames from one window of a video to the next. Default: 15 for a clip of 32 frames, as published, and in
    proportion for others."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(len(self.classifier) > 0, "Expected --classifier with at least one run of `vicc finetune`.")
        _require(
            self.window_step is None or self.window_step > 0, f"--window-step {self.window_step}: expected above 0."
        )


@dataclass(frozen=True)
class CompareConfig(Settings):
    """Compare two models on the same queries: difference with its 95 % interval and p, and the classes where it lies.

    A model is a result file, or a run (of which retrieval.json is read, see --kind), with :ROW for one row of it.
    Without rows, all are compared that both have by name. Several files of one model are its folds and seeds: the
    queries of folds are taken together, and each query is averaged over the seeds.

    Example:
        vicc compare run-1 run-2
        vicc compare run:RGB-1 run:RGB-2
        vicc compare --a vicc-fold-*/retrieval.json --b infonce-fold-*/retrieval.json
        vicc compare --a "vicc-fold-*:RGB-2" --b "coclr-fold-*:CoCLR RGB-2" --kind probe
    """

    models: Annotated[list[ExistingResult], Positional] = field(default_factory=list)
    """Two models, each FILE or RUN, with or without :ROW. Give these, or --a and --b."""
    a: list[ExistingResult] = field(default_factory=list)
    """Several files or runs of the first model; wildcards with :ROW in quotes."""
    b: list[ExistingResult] = field(default_factory=list)
    """The same of the second model."""
    kind: str = "retrieval"
    """Which result of a run: retrieval, knn, probe or another that is there as RUN/KIND.json."""
    intersection: bool = False
    """Where the two were measured on different queries, compare on the common ones, and say how many these are."""
    out: NewFile | None = None
    """Also write all of it to this file, .json."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            (len(self.models) == 2 and not self.a and not self.b) or (not self.models and bool(self.a and self.b)),
            f"vicc compare: got {len(self.models)} models, {len(self.a)} files of --a and {len(self.b)} of --b; "
            "expected two models, or files of both --a and --b.",
        )

    @property
    def sides(self) -> tuple[list[str], list[str]]:
        """The files of each model."""
        return (self.a, self.b) if self.a else ([self.models[0]], [self.models[1]])


@dataclass(frozen=True)
class TableConfig(Settings):
    """Put results side by side: models down, what was measured across, folds and seeds of a model as mean and spread.

    Rows of the literature are added where data and protocol are theirs. What was measured in different ways, or on
    different data, is not put into one column.

    Example:
        vicc table run
        vicc table runs --metrics R@1 mAP --format latex --out table.tex
        vicc table run/retrieval.json --view classes
        vicc table run/retrieval.json:RGB-2 --view confusions
    """

    results: Annotated[list[ExistingResult], Positional] = field(default_factory=list)
    """Result files, each with or without :ROW, or folders with results at any depth."""
    view: Literal["models", "classes", "confusions"] = "models"
    """models: the table of models. classes: of one result every class by itself. confusions: of one result, for each
    model, which classes are taken for which, most frequent first."""
    metrics: list[str] = field(default_factory=list)
    """Metrics shown, for instance R@1 R@5 mAP top-1. Default: all."""
    format: Literal["text", "markdown", "latex", "html"] = "text"
    """text for a terminal; latex needs the package booktabs; html is a page of its own."""
    separate: bool = False
    """Give every protocol, data set and set of splits columns of its own, in place of refusing to mix them."""
    published: bool = True
    """Add rows of the literature where data and protocol are the same."""
    out: NewFile | None = None
    """File to write the table to. Default: print it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(len(self.results) > 0, "vicc table: expected result files, or folders with results in them.")
        _require(
            self.view == "models" or len(self.results) == 1,
            f"--view {self.view} shows one result; got {len(self.results)}.",
        )
        _require(
            self.view == "models" or not self.separate,
            f"--separate is for --view models, not for --view {self.view}, which shows one result.",
        )


@dataclass(frozen=True)
class FuseConfig(Settings):
    """Two or more streams as one model: similarities or probabilities of results already measured are averaged.

    Retrieval needs the features that `vicc retrieve` keeps, classification the probabilities that `vicc test` keeps.

    Example:
        vicc fuse run/retrieval.json:RGB-2 run/retrieval.json:Flow-2
        vicc fuse rgb-classifier/test.json flow-classifier/test.json --weights 2 1 --out fused.json
    """

    results: Annotated[list[ExistingResult], Positional] = field(default_factory=list)
    """Results to fuse, two or more, each FILE or RUN, with :ROW where it has several trained rows."""
    weights: list[float] = field(default_factory=list)
    """Weight of each, for instance 2 1. Default: all the same, as published."""
    kind: str = "retrieval"
    """Which result of a run: retrieval, knn, probe or another that is there as RUN/KIND.json."""
    name: str | None = None
    """What to call the fused row. Default: the names of its parts."""
    intersection: bool = False
    """Where they were measured on different videos, evaluate on the common ones, and say how many these are."""
    out: NewFile | None = None
    """File to write, .json. Default: fused.json beside the first result."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(len(self.results) > 1, f"vicc fuse: got {len(self.results)} result; expected two or more.")
        _require(
            not self.weights or len(self.weights) == len(self.results),
            f"--weights: got {len(self.weights)} for {len(self.results)} results; expected one for each.",
        )
        _require(
            all(0 < weight < math.inf for weight in self.weights),
            f"--weights {' '.join(map(str, self.weights))}: expected numbers above 0.",
        )


@dataclass(frozen=True)
class ImportConfig(Settings):
    """Read a published checkpoint of ViCC, InfoNCE, UberNCE, CoCLR or a classifier on them into an encoder folder.

    Says what it found. Every tensor is given a place, or the file is refused with the names of those that have none.
    The folder also gets a card (README.md) and what the file held beside the encoder: the other stream's encoder in
    FOLDER/teacher, the momentum encoder in FOLDER/key_encoder, prototypes, queue, classifier.

    Example:
        vicc import vicc-rgb.pth.tar --out imported-rgb --stream rgb
    """

    file: Annotated[Path, Place("checkpoint"), Positional]
    """The published file, .pth.tar. Loading it never executes code."""
    out: Path
    """Folder to write; must not exist, or be empty."""
    stream: Literal["rgb", "flow"] | None = None
    """What the trained encoder sees. The published files do not say, so it is needed for them."""
    allow_partial: bool = False
    """Leave out tensors that have no place and parts that are not whole, and say so. The backbone must be whole."""


@dataclass(frozen=True)
class ExportConfig(Settings):
    """Write an encoder in the layout that the published code reads.

    Example:
        vicc export imported-rgb --out vicc-rgb.pth.tar
        vicc export run/rgb-2 --out rgb-2.pth.tar
    """

    source: Annotated[Path, Place("source of an export"), Positional]
    """Imported folder, stage of a run (RUN/rgb-2), run of `vicc finetune`, or encoder folder (encoder only, without
    prototypes)."""
    out: Path
    """File to write; must not exist."""
    format: Literal["published"] = "published"
    """published: .pth.tar as the published code writes it, for S3D and R(2+1)D."""


@dataclass(frozen=True)
class ReportConfig(Settings):
    """Write one HTML file of a run: table, curves, queries with their nearest neighbours as animations.

    It needs no network and no other file. Give `vicc retrieve` first: the report shows what that measured.

    Example:
        vicc report --run run --store store --out report.html
    """

    run: ExistingRun
    """Run that `vicc retrieve` has measured."""
    store: ExistingStore | None = None
    """The store it was measured on. Give this, or --videos."""
    videos: ExistingVideos | None = None
    """The folder of videos it was measured on, in place of a store."""
    out: NewFile | None = None
    """File to write. Default: RUN/report.html."""
    queries: int = 10
    """Number of queries shown with their neighbours."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_store_or_videos(self.store, self.videos)
        _require(self.queries > 0, f"--queries {self.queries}: expected at least 1.")


@dataclass(frozen=True)
class RunsConfig(Settings):
    """Compare runs: how far each is, its loss beside ln K, what evaluations found, speed, and which settings differ.

    Runs are found at any depth below the folders. Their logs are read, nothing is changed; those that are still
    running are shown as they are now.

    Example:
        vicc runs runs
        vicc runs runs --out runs.png
        vicc runs run-1 run-2 --json
    """

    folders: Annotated[list[ExistingFolder], Positional]
    """Runs, or folders with runs in them."""
    out: NewFile | None = None
    """Also draw losses and evaluations of all of them into this file, .png, .svg or .pdf."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(len(self.folders) > 0, "vicc runs: expected runs, or folders with runs in them.")
        _require(
            self.out is None or self.out.suffix.lower() in (".png", ".svg", ".pdf"),
            f"--out {self.out}: expected a name that ends in .png, .svg or .pdf.",
        )


@dataclass(frozen=True)
class RecipesConfig(Settings):
    """List the recipes that `vicc pretrain --recipe` knows, or show one: stages, learning rate, what it costs.

    Example:
        vicc recipes
        vicc recipes show vicc_ucf101 --plot schedule.png
        vicc recipes show default --videos 5000 --gpus 1 --set all.epochs=50
    """

    action: Annotated[str | None, Positional] = None
    """`show` for one recipe. Default: the list."""
    name: Annotated[str | None, Positional] = None
    """Recipe to show."""
    motion: Literal["flow", "diff"] = "flow"
    """Stream of motion, as for `vicc pretrain`."""
    set: list[str] = field(default_factory=list)
    """Changes to the recipe, as for `vicc pretrain`, each STAGE.FIELD=VALUE."""
    videos: int | None = None
    """Training videos. Default: those of the data the recipe was made for, else of UCF101."""
    clips_per_second: float = 7.0
    """Clips that one GPU trains on in a second, for the hours. Default: what the published jobs come to (S3D, up to 38
    hours on four GPUs of 24 GB). Newer GPUs do many times that: see `seconds` in log.jsonl of your own run."""
    gpus: int = 4
    """GPUs that share the work, for the hours."""
    plot: NewFile | None = None
    """Also draw the learning rate into this file, .png, .svg or .pdf."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            self.action in (None, "show"),
            f"vicc recipes {self.action!r}: expected `vicc recipes` for the list, or `vicc recipes show NAME`.",
        )
        _require(
            self.action is None or self.name is not None,
            "vicc recipes show: expected the name of a recipe as well; `vicc recipes` lists them.",
        )
        _require(
            self.action is not None
            or (not self.set and self.videos is None and self.plot is None and self.motion == "flow"),
            "--set, --motion, --videos and --plot belong to one recipe: expected `vicc recipes show NAME` before them.",
        )
        _require(self.videos is None or self.videos > 0, f"--videos {self.videos}: expected at least 1.")
        _require(
            0 < self.clips_per_second < float("inf"),
            f"--clips-per-second {self.clips_per_second}: expected a number above 0.",
        )
        _require(self.gpus > 0, f"--gpus {self.gpus}: expected at least 1.")
        _require(
            self.plot is None or self.plot.suffix.lower() in (".png", ".svg", ".pdf"),
            f"--plot {self.plot}: expected a file that ends in .png, .svg or .pdf.",
        )


@dataclass(frozen=True)
class DemoConfig(Settings):
    """Walk the whole road on drawn videos: videos, prepare, pretrain, retrieve, report. Minutes on two cores.

    Every step is an ordinary command, shown before it runs. Given again, it continues.

    Example:
        vicc demo --out vicc-demo
    """

    out: Path = Path("vicc-demo")
    """Folder for videos, store, run and report."""
    videos: int = 300
    """Training videos; a third as many more are drawn for testing."""
    seed: int = 0
    """Seed of the videos and of the training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_seed("--seed", self.seed)
        _require(
            self.videos >= 30 and self.videos % 10 == 0,
            f"--videos {self.videos}: expected a multiple of 10, as there are ten actions, and at least 30.",
        )


def _require_store_or_videos(store: Path | str | None, videos: Path | None) -> None:
    _require(
        (store is None) != (videos is None),
        f"{'Neither --store nor --videos is' if store is None else 'Both --store and --videos are'} given: expected "
        "one of the two.",
    )


def _require_threads(threads: int | Literal["auto"]) -> None:
    _require(
        threads == "auto" or (isinstance(threads, int) and 1 <= threads <= 1024),
        f"--threads {threads}: expected auto, or a number from 1 to 1024.",
    )


def _require_decoders(workers: int | None) -> None:
    """Of commands that decode files for the first time: a broken one may end the process that decodes it."""
    _require(
        workers is None or workers >= 1,
        f"--workers {workers}: expected at least 1, since a broken video may end the process that decodes it; 0 is for "
        "commands that train and measure.",
    )


def _require_loaders(workers: int | None) -> None:
    """Of commands that train and measure."""
    _require(
        workers is None or workers >= 0,
        f"--workers {workers}: expected 0 (clips are loaded in this process) or more.",
    )


def _require_seed(flag: str, seed: int | None) -> None:
    _require(seed is None or seed >= 0, f"{flag} {seed}: expected 0 or more.")


def _require_share(share: float) -> None:
    _require(0 < share <= 1, f"--label-share {share}: expected a number above 0, up to 1.")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _default_of(entry: Field[Any]) -> Any:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def _is_shard(text: str) -> bool:
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    return match is not None and 1 <= int(match[1]) <= int(match[2])


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ViccError(message)
