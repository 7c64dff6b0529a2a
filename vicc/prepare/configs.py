"""What videos are prepared, checked and divided with."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from vicc.places import ExistingStore, ExistingVideos, ExistingVideosOrStore, NewFile, StorePlace
from vicc.settings import Positional, Settings, require, require_seed, sections

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
    """Seed of the drawings; the same seed gives the same videos, pixel for pixel."""
    workers: int | None = None
    """Processes that draw, at least 1. Default: one for each core."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.train >= 10 and self.test >= 0 and self.train % 10 == self.test % 10 == 0,
            f"--train {self.train} --test {self.test}: expected multiples of 10, as there are ten actions.",
        )
        _require_decoders(self.workers)
        require_seed("--seed", self.seed)


@dataclass(frozen=True)
class PrepareConfig(Settings):
    """Decode videos, compute optical flow and write both to a store that training reads.

    Given again, it continues where it stopped. Files that cannot be read are skipped and listed
    with their reason. Layouts: VIDEOS/*.mp4 (no labels), VIDEOS/CLASS/*.mp4, and train/ and test/
    (val/, dev/, ...) around either; a single file; a list (.csv, .parquet) with the column path
    and, as needed, label, group, split, start, end (seconds). A table shows what was found, passed
    over, labelled, grouped and split; --dry-run shows it without preparing.

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
    """Folder of videos, searched at every depth; or a video file; or a list of videos, .csv or
    .parquet.
    """
    store: StorePlace
    """Folder of the store; made if it does not exist. A URL such as s3://bucket/store is prepared
    in a folder in VICC_CACHE (default: ~/.cache/vicc), then copied there.
    """
    flow: Literal["dis", "tvl1", "none"] = "dis"
    """Optical flow: Dense Inverse Search, or the published and slower TV-L1. none: RGB only, much
    faster and half the size; train on such a store with --motion diff.
    """
    flow_bound: float = 20.0
    """Largest displacement that is kept, in pixels per frame at the stored size. A smaller bound is
    more precise.
    """
    short_side: int = 128
    """Shorter side of the stored frames in pixels. Smaller videos are not enlarged."""
    flow_at: Literal["store", "native"] = "store"
    """Frames that flow is computed from. store: the stored ones. native: the file's own, as
    published, which is many times slower. Flow is stored at the size of the stored frames either
    way.
    """
    codec: Literal["h264", "jpeg"] = "h264"
    """How frames are stored. h264 takes a ninth of jpeg's bytes and loads about as fast."""
    quality: int | None = None
    """Quality of stored RGB frames. h264: 0 to 51, lower is better, default 23. jpeg: 1 to 100,
    higher is better, default 90.
    """
    flow_quality: int | None = None
    """Quality of stored flow, on the same scale. Default: h264 0, which is lossless; jpeg 90."""
    fps: float | None = None
    """Sample every video at this rate by time, so that all have one rate; right for variable rates,
    too. Default: keep every frame.
    """
    groups: Path | None = None
    """CSV with the columns path, group (and label): clips of one group are never split between
    training and test. Default: VIDEOS/groups.csv where there is one, else the recording that names
    of UCF101, HMDB51 and Kinetics give.
    """
    official_splits: Path | None = None
    """Folder with the split files of UCF101 or HMDB51, or CSV of Kinetics. Default: found in VIDEOS
    or beside it.
    """
    segment_seconds: float | None = None
    """Cut longer files into parts of this many seconds; a rest shorter than half a part is joined
    to the last part. Default: files stay whole.
    """
    shots: bool = False
    """Cut files where one shot ends and another begins; with --segment-seconds, long shots are cut
    further.
    """
    min_frames: int = MIN_FRAMES
    """Videos with fewer frames are skipped: two flow frames are the least that show a motion."""
    workers: int | None = None
    """Processes that decode, at least 1. Default: one for each core, of the whole cluster with
    --engine ray.
    """
    engine: Literal["local", "ray"] = "local"
    """local: processes of this machine. ray: a Ray cluster (pip install 'vicc[ray]'), whose nodes
    see the videos at the same path; the store is written by this machine.
    """
    ray_address: str | None = None
    """host:port of the Ray cluster. Default: the variable RAY_ADDRESS, else a Ray of this machine's
    own.
    """
    shard: str | None = None
    """i/n: prepare only the i-th of n parts of the videos, into STORE.part-i-of-n, for jobs that
    run independently; `vicc store merge` puts the parts together. In a Slurm array 1-16: --shard
    $SLURM_ARRAY_TASK_ID/16.
    """
    shard_mb: int = 512
    """Size in MiB at which a new file of the store is begun. A remote store is fetched file by
    file.
    """
    dry_run: bool = False
    """Print what would be done, how long it would take and how much faster training would load,
    measured on a few of the videos, and write nothing.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        require(8 <= self.short_side <= 2048, f"--short-side {self.short_side}: expected 8 to 2048 pixels.")
        best, worst = (0, 51) if self.codec == "h264" else (1, 100)
        for flag, value in (("--quality", self.quality), ("--flow-quality", self.flow_quality)):
            require(
                value is None or best <= value <= worst,
                f"{flag} {value} with --codec {self.codec}: expected {best} to {worst}.",
            )
        require(self.fps is None or 0 < self.fps <= 1000, f"--fps {self.fps}: expected above 0, up to 1000.")
        require(0 < self.flow_bound <= 1000, f"--flow-bound {self.flow_bound}: expected a number above 0, up to 1000.")
        require(
            self.segment_seconds is None or 0.1 <= self.segment_seconds <= 86400,
            f"--segment-seconds {self.segment_seconds}: expected 0.1 to 86400.",
        )
        require(self.shard_mb > 0, f"--shard-mb {self.shard_mb}: expected at least 1.")
        require(self.min_frames >= 2, f"--min-frames {self.min_frames}: expected at least 2, or there is no flow.")
        _require_decoders(self.workers)
        require(
            self.ray_address is None or self.engine == "ray",
            f"--ray-address {self.ray_address} without --engine ray: expected both, or neither.",
        )
        require(
            self.shard is None or _is_shard(self.shard),
            f"--shard {self.shard!r}: expected i/n with i from 1 to n, for instance 3/16 (a Slurm array counts from 1 "
            "with --array=1-16).",
        )


@dataclass(frozen=True)
class CheckConfig(Settings):
    """Decode all videos, and show which are readable and what is wrong with the others; exit status
    1 if any is not.

    Shows frames declared and decoded, size, rate, rotation, variable frame rates, and duplicates.
    Give files, folders of videos, or a store, whose frames are then decoded.

    Example:
        vicc check videos
        vicc check videos --fast --html check.html
        vicc check store
    """

    paths: Annotated[list[ExistingVideosOrStore], Positional]
    """Videos, folders that are searched at every depth, stores."""
    fast: bool = False
    """Of videos longer than 15 s, decode only a second at the beginning, in the middle and at the
    end.
    """
    html: NewFile | None = None
    """Also write a contact sheet to this file: a few pictures of each video, problems first."""
    all: bool = False
    """Print a row for every video. Default: when there are many, only for those with a problem or a
    remark.
    """
    workers: int | None = None
    """Processes that decode, at least 1. Default: one for each core."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.paths) > 0, "No paths are given: expected videos, folders of videos, or a store.")
        _require_decoders(self.workers)


@dataclass(frozen=True)
class SplitsConfig(Settings):
    """Divide videos into folds for cross-validation: each video is tested in one fold and trains in
    the others.

    The clips of one recording (group) are all in one fold, and every class is spread as evenly as
    whole recordings allow. The split is written to STORE/splits, where `vicc pretrain` and `vicc
    retrieve` find it: --split NAME:FOLD.

    Example:
        vicc splits store --folds 5
        vicc pretrain --store store --run run-3 --split grouped-5:3
    """

    path: Annotated[ExistingVideosOrStore, Positional]
    """Store; or, with --out, a folder or list of videos as `vicc prepare` takes it."""
    folds: int = 5
    """Number of folds."""
    seed: int = 0
    """Seed of the division; the same seed always gives the same folds."""
    name: str | None = None
    """Name of the split. Default: grouped-FOLDS, with -SEED after it if that is not 0."""
    out: NewFile | None = None
    """File to write, .csv, in place of one in the store."""
    groups: Path | None = None
    """CSV with the columns path and group, for a folder of videos, as for `vicc prepare`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_seed("--seed", self.seed)
        require(2 <= self.folds <= 1000, f"--folds {self.folds}: expected 2 to 1000.")
        require(self.out is None or self.name is None, "--name and --out are both given: expected one of the two.")
        require(
            self.out is None or self.out.suffix == ".csv",
            f"--out {self.out}: expected a name that ends in .csv, since --split knows files by that.",
        )


@dataclass(frozen=True)
class StoreVerifyConfig(Settings):
    """Read all of a store and compare it with its checksums. Exit status 1 if something is damaged,
    with its name.

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


def _require_decoders(workers: int | None) -> None:
    """Of commands that decode files for the first time: a broken one may end the process that
    decodes it.
    """
    require(
        workers is None or workers >= 1,
        f"--workers {workers}: expected at least 1, since a broken video may end the process that decodes it; 0 is for "
        "commands that train and measure.",
    )


def _is_shard(text: str) -> bool:
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    return match is not None and 1 <= int(match[1]) <= int(match[2])
