"""What the commands on a prepared store are set to."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from vicc.places import ExistingStore, StorePlace
from vicc.settings import Place, Positional, Settings, require


@dataclass(frozen=True)
class StoreInfoConfig(Settings):
    """Show what a store holds: videos, labels, frames, bytes of each stream, settings.

    Example:
        vicc store info store
        vicc store info s3://bucket/store --json
    """

    store: Annotated[ExistingStore, Positional]
    """Store to look at."""
    videos: bool = False
    """Also list every video and every skipped file."""


@dataclass(frozen=True)
class StoreMergeConfig(Settings):
    """Write a new store of all videos of several stores that were prepared with equal settings.

    Its files are the same, byte for byte, as those of a store prepared at once. A video that
    several stores have in the same form is taken once; one that they have in different forms is
    refused by name.

    Example:
        vicc store merge store.part-01-of-02 store.part-02-of-02 --store store
    """

    stores: Annotated[list[ExistingStore], Positional]
    """Stores to merge, folders or URLs."""
    store: StorePlace
    """Folder or URL of the new store."""
    shard_mb: int = 512
    """Size in MiB at which a new shard is begun."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.stores) > 0, "vicc store merge: expected stores to merge.")
        require(self.shard_mb > 0, f"--shard-mb {self.shard_mb}: expected at least 1.")


@dataclass(frozen=True)
class StoreDropConfig(Settings):
    """Take videos out of a store and give their space back. All that are named are taken out, or
    none.

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
        require(bool(self.ids or self.label), "vicc store drop: expected ids of videos, or --label.")


@dataclass(frozen=True)
class StoreCopyConfig(Settings):
    """Copy a store to a URL, from one, or to another folder. Given again, it sends only what is
    missing.

    Keys come from the environment, for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; the address
    of another server than Amazon's from AWS_ENDPOINT_URL. The manifest is copied last, so that half
    a copy is not taken for a store.

    Example:
        vicc store copy store s3://bucket/store
    """

    source: Annotated[ExistingStore, Positional]
    """Store to copy."""
    target: Annotated[StorePlace, Positional]
    """Where to: a folder, new or of an earlier copy, or a URL."""


@dataclass(frozen=True)
class BenchConfig(Settings):
    """Measure how fast a store feeds training on this machine.

    Prints samples a second of one process for each stream and for both (a sample is two clips), the
    share of time that goes into reading, decoding and augmenting, the clips a second that each
    loader worker gives, the frames a second of computing flow, and the bytes a frame. Nothing is
    written.

    Example:
        vicc bench data --store store
        vicc bench data --store store --preset default --clip-frames 16 --size 112
    """

    what: Annotated[Literal["data"], Positional]
    """What to measure: data is the way from a store to batches."""
    store: ExistingStore
    """Store made by `vicc prepare`, a folder or a URL."""
    preset: Literal["default", "published"] = "published"
    """Augmentation of the clips."""
    clip_frames: int = 32
    """Frames of a clip."""
    size: int = 128
    """Side of a view in pixels."""
    seconds: float = 5.0
    """How long each figure is measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.clip_frames >= 1, f"--clip-frames {self.clip_frames}: expected at least 1.")
        require(self.size >= 8, f"--size {self.size}: expected at least 8 pixels.")
        require(0 < self.seconds <= 3600, f"--seconds {self.seconds}: expected more than 0, up to 3600.")
