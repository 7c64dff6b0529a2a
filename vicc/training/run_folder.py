"""A start of a run: which videos it learns from, and whether it is the run that is in the folder."""

import hashlib
import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vicc.cores import cores_in_words
from vicc.data.frame_reader import FrameReader
from vicc.data.records import Video
from vicc.data.splits import SPLITS_FOLDER, Division, Member, divide_videos
from vicc.data.video_folder import VideoFolder
from vicc.distributed import world_size
from vicc.errors import ViccError
from vicc.files import exclusive_folder
from vicc.prepare.scan import SCAN_FILE, splits_of
from vicc.progress import say
from vicc.training.computation import Computation
from vicc.training.configs import TrainingConfig
from vicc.training.environment import note_environment
from vicc.training.run import Run, is_run, require_new_or_run, write_run
from vicc.training.schedule import stage_length
from vicc.training.slurm import SLURM_FOLDER
from vicc.training.stage import Recipe
from vicc.version import __version__

_VIDEOS_NAMED = 3


@contextmanager
def held_run_folder(run: Path) -> Iterator[None]:
    """The folder of a run, new or not, which no other process uses within the block."""
    with exclusive_folder(run, what="run folder"):
        require_new_or_run(run, besides=(SCAN_FILE, SPLITS_FOLDER, SLURM_FOLDER))  # a scan or jobs may have begun
        yield


def divide(store: FrameReader, config: TrainingConfig, *, silent: bool = False) -> Division[Video]:
    """The split asked for; of a run that is resumed without asking for one, its own. Its notes are
    said.

    Args:
        silent: say nothing, as the division is made a second time and said then.

    Raises:
        ViccError: no such split, or fewer than two training videos in it.
    """
    division = None
    if config.split is None and is_run(config.run):
        division = Run(config.run).divide(store.videos)
    if division is None:
        division = divide_videos(store.videos, config.split, splits_folder=splits_of(store, config.run))
    for note in () if silent else division.notes:
        say(note)
    return require_enough(division, config)


def require_enough(division: Division[Member], config: TrainingConfig) -> Division[Member]:
    """The division, if it has videos to train on.

    Raises:
        ViccError: fewer than two training videos.
    """
    if len(division.train) < 2:
        place = f"folder {config.videos}" if config.store is None else f"store {config.store}"
        raise ViccError(
            f"The {place} has {len(division.train)} training videos in the split {division.name}; expected at least 2. "
            "Give more videos, or another --split."
        )
    return division


@dataclass(frozen=True)
class RunStart:
    """A start of a run that was compared with what the run is. Nothing is written before it goes
    on, so that one that is refused, wherever that is found out, leaves the run's files as they are.
    """

    config: TrainingConfig
    computation: Computation
    description: dict[str, Any]
    division: Division[Video]
    seen: dict[str, Any]

    def note(self, stage: str, step: int) -> None:
        """It goes on, after step `step` of a stage: write what the run is, and add the start to the
        run's list.
        """
        start = _describe_start(self.config, self.computation, stage, step)
        write_run(self.config.run, self.description, self.computation, self.division, self.seen, start)
        note_environment(self.config.run, self.config, start)


def claim_run(
    recipe: Recipe,
    config: TrainingConfig,
    computation: Computation,
    store: FrameReader,
    division: Division[Video],
    *,
    videos: list[Video] | None = None,
    validation: Sequence[Video] = (),
    facts: Mapping[str, Any] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> RunStart:
    """Compare what is to be trained with what the run is, which never changes its recipe, seed or
    videos.

    Args:
        videos: those that it trains on; None for all training videos of the division.
        validation: videos that it looks at beside them.
        facts: what else makes it, plain values by name.
        notes: what is written too, and may be another when the run goes on.

    Raises:
        ViccError: the run is another, or has another number of processes; says what differs.
    """
    videos = division.train if videos is None else videos
    ours = {
        "recipe": recipe.to_json(),
        "seed": config.seed,
        "split": division.name,
        "videos": len(videos),
        "content": _content(store, videos),
        "processes": world_size(),
        **(facts or {}),
    }
    seen = _seen(store, [*videos, *validation])
    start = RunStart(config, computation, {**ours, **(notes or {})}, division, seen)
    if not is_run(config.run):
        return start
    run = Run(config.run)
    # Fields that came later than the run have the values that it was trained with.
    theirs = run.description | {"recipe": run.recipe.to_json()}
    ours |= {name: theirs[name] for name in notes or () if name in theirs}
    if theirs == ours:
        return replace(start, description=run.description)
    if theirs | {"processes": world_size()} != ours:
        raise ViccError(
            f"The run {config.run} was started with other settings: "
            f"{_difference(theirs, ours, run, seen, notes or {})}. Give the same recipe or encoder, --start, --seed, "
            "--store or --videos, and --split, or another --run folder."
        )
    _allow_processes(theirs["processes"], recipe, config, num_videos=len(videos))
    return replace(start, description=ours)


def _allow_processes(before: int, recipe: Recipe, config: TrainingConfig, *, num_videos: int) -> None:
    """Another number of processes than the run has had, if that is allowed and possible."""
    now = world_size()
    if not config.allow_elastic:
        raise ViccError(
            f"The run {config.run} was started with {before} processes and now has {now}, which would give "
            f"other numbers. Start {before}, or give --allow-elastic to go on with {now}."
        )
    for stage in recipe.stages:
        then, epoch = (stage_length(stage, num_videos, count).steps_per_epoch for count in (before, now))
        if then != epoch:
            raise ViccError(
                f"{stage.name} has {epoch} steps an epoch with {now} processes, and had {then} with {before}: there "
                f"are too few videos for equal batches. Start {before} processes."
            )
    say(f"goes on with {now} processes in place of {before}: not bit-equal to an undisturbed run from here on")


def _difference(
    theirs: dict[str, Any], ours: dict[str, Any], run: Run, seen: dict[str, Any], notes: Mapping[str, Any]
) -> str:
    """Where two descriptions of a run begin to differ; videos by their names."""
    if theirs.get("start_weights") != ours.get("start_weights"):  # first, as RGB's normalisation follows from it
        was, now = (_starts_in_words(one) for one in (theirs, {**ours, **notes}))
        return f"--start was {was}, now {now}"
    for first in ("recipe", "seed", "split"):
        if theirs.get(first) != ours.get(first):
            return first_difference(theirs, ours)
    if theirs.get("encoder_weights") != ours.get("encoder_weights"):
        was, now = (str(one.get("encoder_weights"))[:12] for one in (theirs, ours))
        return f"encoder_weights was {was}, those of the encoder {theirs.get('encoder', '')} at the time, now {now}"
    by_video = any(theirs.get(name) != ours.get(name) for name in ("videos", "content", "validation"))
    if by_video and run.videos:  # runs from before they were written have a fingerprint alone
        changed = _changed_videos(run.videos, seen)
        if changed:
            return f"content was other than now: {changed}"
    return first_difference(theirs, ours)


def _starts_in_words(description: Mapping[str, Any]) -> str:
    weights, places = (description.get(name, {}) for name in ("start_weights", "start"))
    return ", ".join(f"{places.get(name)} for {name} (weights {weights[name][:12]})" for name in weights) or "none"


def _changed_videos(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Which videos came, went or are others; or in which settings the store was prepared otherwise.
    Empty for none.
    """
    if before["prepared"] != now["prepared"]:
        return f"the videos were prepared otherwise: {first_difference(before['prepared'], now['prepared'])}"
    old, new = before["videos"], now["videos"]
    parts = []
    for name in old:
        if name in new and old[name] != new[name]:
            (frames, checksum), (frames_now, checksum_now) = old[name], new[name]
            parts.append(
                f"{name} had {frames} frames, checksum {checksum[:12]}, now {frames_now} frames, "
                f"checksum {checksum_now[:12]}"
            )
    for what, names in (
        ("is there no more", [name for name in old if name not in new]),
        ("is new", [name for name in new if name not in old]),
    ):
        parts += [f"{name} {what}" for name in names]
    return "; ".join(parts[:_VIDEOS_NAMED]) + f"; and {len(parts) - _VIDEOS_NAMED} more" * (len(parts) > _VIDEOS_NAMED)


def _seen(store: FrameReader, videos: Sequence[Video]) -> dict[str, Any]:
    """What videos a run sees: how they were prepared, and of each its frames and the checksum of
    its file.
    """
    prepared = {**asdict(store.settings), "decoded on the fly": isinstance(store, VideoFolder)}
    return {
        "prepared": json.loads(json.dumps(prepared)),
        "videos": {video.id: [video.num_frames, video.source.blake2b] for video in videos},
    }


def _content(store: FrameReader, videos: list[Video]) -> str:
    """A fingerprint of the training videos and how they were prepared."""
    facts = [asdict(store.settings), [(video.id, video.num_frames, video.source.blake2b) for video in videos]]
    if isinstance(store, VideoFolder):
        facts.append("decoded on the fly")  # which is not what the codec of a store gives
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()


def first_difference(theirs: Any, ours: Any, path: str = "") -> str:
    """Where two documents begin to differ, in words."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in [*theirs, *(key for key in ours if key not in theirs)]:
            if theirs.get(key) != ours.get(key):
                return first_difference(theirs.get(key), ours.get(key), f"{path}.{key}" if path else key)
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for old, new in zip(theirs, ours, strict=True):
            if old != new:
                name = f" {old['name']}" if isinstance(old, dict) and "name" in old else ""
                return first_difference(old, new, path + name)
    return f"{path} was {_short(theirs)}, now {_short(ours)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _describe_start(config: TrainingConfig, computation: Computation, stage: str, step: int) -> dict[str, Any]:
    """A row of the run's list of starts, all of which its environment.json holds too."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "vicc": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {cores_in_words()}",
        "device": computation.device,
        "precision": computation.precision,
        "processes": world_size(),
        "threads": torch.get_num_threads(),
        "stage": stage,
        "step": step,
        "store" if config.videos is None else "videos": str(config.videos or config.store),
    }
