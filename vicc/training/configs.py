"""What training is set to beside its recipe: on which videos, how, watched how, as which Slurm
jobs.
"""

import math
import re
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from vicc.places import ExistingStore, ExistingVideos, require_store_or_videos
from vicc.settings import OldWord, Settings, flag_word, require, require_seed, sections

SinkName = Literal["tensorboard", "wandb", "mlflow"]


@dataclass(frozen=True)
class SlurmConfig(Settings):
    """The resources of a Slurm job; only with --launcher slurm."""

    nodes: int = 1
    """Machines of a job."""
    gpus_per_node: int | None = None
    """GPUs of each machine; each gets a process of its own."""
    tasks_per_node: int | None = None
    """Processes of each machine, where they use no GPUs, or GPUs that are asked for by --sbatch."""
    time: str | None = None
    """Time limit of a job as Slurm writes it, MINUTES, HOURS:MINUTES:SECONDS, DAYS-HOURS and so on.
    A stage may take longer: its job goes back to the queue before its time is over and then goes on
    from the checkpoint.
    """
    signal_minutes: float = 5.0
    """Minutes before the time limit at which a job writes its checkpoint and goes back to the
    queue. Slurm may be a minute early.
    """
    partition: str | None = None
    """Partition, or several with commas between them. Default: the cluster's."""
    account: str | None = None
    """Account that pays. Default: yours."""
    qos: str | None = None
    """Quality of service. Default: yours."""
    constraint: str | None = None
    """Features that the machines must have, for instance a100."""
    cpus_per_task: int | None = None
    """Cores of each process; it loads clips with them. Default: the cluster's, which is often one,
    and too few.
    """
    mem: str | None = None
    """Memory of each machine, for instance 64G. Default: the cluster's."""
    sbatch: list[str] = field(default_factory=list)
    """Further options of sbatch, each KEY=VALUE or KEY, for instance gres=gpu:a100:4 exclusive."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{flag_word(name)} {value}: expected at least 1.")
        require(
            self.gpus_per_node is None or self.tasks_per_node is None,
            f"--gpus-per-node {self.gpus_per_node} and --tasks-per-node {self.tasks_per_node}: expected one of the "
            "two, as each GPU gets one process.",
        )
        minutes = self.minutes
        require(
            0 < self.signal_minutes <= 1000 and (minutes is None or self.signal_minutes < minutes),
            f"--signal-minutes {self.signal_minutes:g}: expected above 0, up to 1000, and less than --time"
            f"{'' if self.time is None else ' ' + self.time}.",
        )
        for name in ("partition", "account", "qos", "constraint", "mem"):
            require(getattr(self, name) != "", f"{flag_word(name)} '': expected something, or leave it out.")
        for option in self.sbatch:
            self._check_option(option)

    def _check_option(self, option: str) -> None:
        key = option.partition("=")[0]
        require(
            re.fullmatch(r"[a-z][a-z-]*(=.+)?", option) is not None,
            f"--sbatch {option!r}: expected KEY=VALUE or KEY with an option of sbatch in its long form, without the "
            "dashes before it, for instance gres=gpu:a100:4.",
        )
        require(
            key.replace("-", "_") not in {entry.name for entry in fields(self)},
            f"--sbatch {option}: there is a flag for it. Give --{key} in its place.",
        )
        require(key not in _SET_BY_VICC, f"--sbatch {option}: {key} is what vicc sets itself. Leave it out.")

    @property
    def minutes(self) -> int | None:
        """The time limit in minutes, parts of one counted as whole, as Slurm does.

        Raises:
            ViccError: not a time.
        """
        if self.time is None:
            return None
        match = re.fullmatch(r"(?:([0-9]{1,4})-)?([0-9]{1,6})(?::([0-9]{1,2}))?(?::([0-9]{1,2}))?", self.time)
        require(
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
        require(seconds > 0, f"--time {self.time}: expected more than nothing.")
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
"""Options of sbatch that a chain of jobs, each of which requeues itself, cannot do without, or not
do with.
"""


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
    """Store made by `vicc prepare`; give this, or --videos. One behind a URL is copied to
    VICC_CACHE (by default ~/.cache/vicc), once.
    """
    videos: ExistingVideos | None = None
    """Folder of videos, in place of a store: they are decoded and DIS flow is computed while
    training, at a short side of 128 pixels. That is slower; by how much is measured and printed.
    For longer work, prepare a store.
    """
    split: str | None = None
    """Training videos: NAME:FOLD of a split of the store (official:1, grouped-5:3), FILE.csv:FOLD,
    folders (the videos' own train and test; folders:val tests val in place of test) or grouped (a
    hash of the groups). Default: official:1 where there is one, then folders, then grouped.
    """
    seed: int = 31
    """Start of every random stream: initial weights, order of the videos, clips, augmentation."""
    set: list[str] = field(default_factory=list)
    """Changes to the recipe, each STAGE.FIELD=VALUE, for instance rgb-1.epochs=50
    flow-1.learning_rate=0.3.
    """
    device: str | None = None
    """Device: cpu, cuda, cuda:1, mps. Default: the fastest kind that this machine has."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp64"] = "auto"
    """auto: bf16 autocast where the device computes it natively, else fp32. fp16 scales its
    gradients; for GPUs without bf16. fp64 is for comparing numbers.
    """
    batch_size: int | Literal["auto"] | None = None
    """Videos a step in all stages, of all processes together; the learning rate follows, and the
    queue stays whole batches. auto: as many as fit into memory, at most a fiftieth of the videos.
    Default: that of the recipe.
    """
    accumulate: int = 1
    """Parts in which a batch goes through the encoder, one in memory at a time: larger batches in
    the same memory, for a good third more time. The loss is that of the whole batch.
    """
    checkpoint_activations: bool = False
    """Compute activations a second time in place of keeping them: about half the memory, a good
    third more time.
    """
    compile: bool = False
    """torch.compile the encoders. For GPUs; on CPUs it takes minutes and was not measured to gain
    anything.
    """
    threads: int | Literal["auto"] = "auto"
    """Threads that compute on CPUs, of each process. auto: measured at the first start, fewer where
    other programs keep the cores busy; OMP_NUM_THREADS is taken where it is set. A run keeps the
    number that it began with, since results depend on it in their last bits.
    """
    workers: int | None = None
    """Processes that load clips beside this one; 0: this one loads them. Default: 0 on two cores or
    fewer, else up to 8.
    """
    cache_mb: int = 1024
    """Memory for decoded frames, in MiB and for each process that loads; a store that fits is
    decoded only once.
    """
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints. One is also written at the end of every epoch and when training
    is stopped.
    """
    keep_checkpoints: int = 2
    """How many of a stage's newest checkpoints are kept; the best is kept beside them."""
    allow_elastic: bool = False
    """Resume with another number of processes (they share the same batches, and queues are
    redistributed), or another --precision, --threads, kind of --device, --accumulate or --compile
    than before. The result is then no longer bit-equal to that of an undisturbed run.
    """
    hang_minutes: float = 20.0
    """Minutes without a step after which training ends with an error that names the process, step
    and video that hang; 0: never.
    """
    log_to: tuple[SinkName, ...] = ("tensorboard",)
    """Where numbers go beside the run folder's own log: tensorboard (RUN/STAGE/tensorboard), wandb
    (pip install 'vicc[wandb]'), mlflow (pip install 'vicc[mlflow]'). --log-to without a value: none
    of them.
    """
    dry_run: bool = False
    """Print the plan (stages, steps, clips) without training. With --launcher slurm: also print the
    jobs' script.
    """
    launcher: Literal["here", "slurm"] = "here"
    """here: train in this process. slurm: submit a job for each stage that is not finished, each
    after the one before, and return (pip install 'vicc[slurm]').
    """
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """The resources of a Slurm job; only with --launcher slurm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_store_or_videos(self.store, self.videos)
        require_loaders(self.workers)
        require_seed("--seed", self.seed)
        require(self.cache_mb >= 0, f"--cache-mb {self.cache_mb}: expected 0 (nothing is kept) or more.")
        require(self.keep_checkpoints >= 1, f"--keep-checkpoints {self.keep_checkpoints}: expected at least 1.")
        require(
            self.batch_size in (None, "auto") or self.batch_size >= 1,  # type: ignore[operator]
            f"--batch-size {self.batch_size}: expected at least 1, or auto.",
        )
        taken = [change for change in self.set if re.match(r"[^=]*\.(batch_size|learning_rate)=", change)]
        require(
            self.batch_size is None or not taken,
            f"--batch-size {self.batch_size} and --set {' '.join(taken)}: expected one of the two, since the learning "
            "rate follows --batch-size.",
        )
        require(self.accumulate >= 1, f"--accumulate {self.accumulate}: expected at least 1.")
        require_threads(self.threads)
        require(
            not (self.compile and self.checkpoint_activations),
            "--compile and --checkpoint-activations: expected one of the two; a compiled encoder decides itself what "
            "it computes again.",
        )
        for name in ("checkpoint_minutes", "hang_minutes"):
            value = getattr(self, name)
            require(value >= 0, f"{flag_word(name)} {value}: expected 0 or more.")
        self._check_launcher()

    def _check_launcher(self) -> None:
        if self.launcher == "here":
            given = [flag_word(f.name) for f in fields(SlurmConfig) if getattr(self.slurm, f.name) != _default_of(f)]
            require(not given, f"{', '.join(given)} without --launcher slurm: expected both, or neither.")
            return
        require(
            self.slurm.gpus_per_node is not None or self.slurm.tasks_per_node is not None,
            "--launcher slurm: expected --gpus-per-node N (one process for each), or, for machines without GPUs, "
            "--tasks-per-node N.",
        )
        require(
            self.slurm.time is not None,
            "--launcher slurm: expected the time limit of a job as well, for instance --time 24:00:00.",
        )


@dataclass(frozen=True)
class PretrainConfig(TrainingConfig):
    """Train the encoders of a recipe on a store or a folder of videos, without labels, stage after
    stage.

    Given again with the same --run, the command resumes, in the middle of an epoch if need be.

    Example:
        vicc pretrain --recipe demo --store store --run run
        vicc pretrain --recipe default --store store --run run --set rgb-1.epochs=50 --dry-run
        vicc pretrain --recipe demo --videos videos --motion diff --run run
        vicc pretrain --store store --run run --launcher slurm --nodes 2 --gpus-per-node 4 --time 24:00:00
    """

    SECTIONS = sections(
        ("recipe", ("recipe", "motion", "views", "fit_to_data", "start", "stages")),
        ("watching", ("evaluate_epochs", "best")),
    )

    recipe: str = "default"
    """Name of the recipe; `vicc recipes` lists them."""
    motion: Literal["flow", "diff"] = "flow"
    """What shows motion: optical flow, or diff, how RGB changes from each frame to the next, which
    needs no flow: the recipe's flow-1 becomes diff-1.
    """
    views: str | None = None
    """Views of the ViCC stages, for instance 2x128+4x96: two of 128 pixels, and four of 96 that are
    predicted only. Default: the views of the recipe. --set is applied after it.
    """
    fit_to_data: bool = False
    """Choose the number of prototypes and the length of the queue by the number of training videos.
    """
    start: list[str | Path] = field(default_factory=list)
    """Weights that the first stage of each stream begins with: encoder folders (a stage of a run,
    what `vicc import` makes), at most one of each stream, or torchvision:NAME (torchvision:s3d, for
    instance), weights of Kinetics-400 for all streams with that backbone. none: random weights,
    which is also what a stream without a start begins with. Default: none.
    """
    stages: list[str] = field(default_factory=list)
    """Train only these stages of the recipe, for instance one a job. Default: all that are not
    finished.
    """
    best: Annotated[
        Literal["loss", "instance_recall", "label_recall"], OldWord("own_video_recall", now="instance_recall")
    ] = "loss"
    """What makes a checkpoint the best: the lowest mean loss of an epoch, or the highest R@1 of the
    small evaluation (see --evaluate-epochs): instance_recall, instance retrieval R@1 (same video),
    or, where all training videos have labels, label_recall, R@1 of videos by their label.
    """
    evaluate_epochs: int | None = None
    """Epochs from one small evaluation without labels to the next: instance retrieval R@1 (same
    video), the share of clips whose nearest clip is the other one of the same video, among up to
    200 training videos. There is one more at the end of a stage. 0: none. Default: so that a
    twelfth as many videos are looked at as are trained on, which costs less than 5 % of the time.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.evaluate_epochs is None or self.evaluate_epochs >= 0,
            f"--evaluate-epochs {self.evaluate_epochs}: expected 0 or more.",
        )
        words = [str(place) for place in self.start]
        require(
            len(words) == len({*words}) and ("none" not in words or len(words) == 1),
            f"--start {' '.join(words)}: expected encoder folders and torchvision:NAME, each once, or none alone.",
        )
        require(
            self.best == "loss" or self.evaluate_epochs != 0,
            f"--best {self.best} and --evaluate-epochs 0: there is no {self.best} without an evaluation.",
        )


def require_threads(threads: int | Literal["auto"]) -> None:
    require(
        threads == "auto" or (isinstance(threads, int) and 1 <= threads <= 1024),
        f"--threads {threads}: expected auto, or a number from 1 to 1024.",
    )


def require_loaders(workers: int | None) -> None:
    """Of commands that train and measure."""
    require(
        workers is None or workers >= 0,
        f"--workers {workers}: expected 0 (clips are loaded in this process) or more.",
    )


def _default_of(entry: Field[Any]) -> Any:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()
