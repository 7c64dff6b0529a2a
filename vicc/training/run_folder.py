"""The folder of a run: what it is, which videos it learns from, and who has started it when."""

import hashlib
import json
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vicc.cores import cores_in_words
from vicc.data.frame_reader import FrameReader
from vicc.data.splits import (
    SPLITS_FOLDER,
    Division,
    Member,
    divide_by_table,
    divide_videos,
    division_table,
    read_split_table,
    write_split_table,
)
from vicc.data.store import Video
from vicc.data.video_files import file_id
from vicc.data.video_folder import VideoFolder
from vicc.distributed import world_size
from vicc.errors import ViccError
from vicc.files import atomic_write, exclusive_folder, read_json, write_json
from vicc.prepare.scan import SCAN_FILE, splits_of
from vicc.progress import say
from vicc.training.computation import COMPUTATION_FILE, Computation
from vicc.training.configs import TrainingConfig
from vicc.training.environment import note_environment
from vicc.training.schedule import stage_length
from vicc.training.slurm import SLURM_FOLDER
from vicc.training.stage import Recipe
from vicc.version import __version__

RECIPE_FILE, RUNS_FILE, SPLIT_FILE, VIDEOS_FILE = "recipe.json", "runs.jsonl", "split.csv", "videos.json"
_VIDEOS_NAMED = 3


def require_run_folder(run: Path) -> None:
    """A new folder, a run, or one in which a scan of the videos or jobs began; anything else may be somebody's work."""
    if not (run / RECIPE_FILE).exists() and any(
        not entry.name.startswith(".") and entry.name not in (SCAN_FILE, SPLITS_FOLDER, SLURM_FOLDER)
        for entry in run.iterdir()
    ):
        raise ViccError(f"{run} is not empty and is not a run (no {RECIPE_FILE}). Give another --run folder.")


@contextmanager
def held_run_folder(run: Path) -> Iterator[None]:
    """The folder of a run, new or not, which no other process uses within the block."""
    with exclusive_folder(run, what="run folder"):
        require_run_folder(run)
        yield


def divide(store: FrameReader, config: TrainingConfig, *, silent: bool = False) -> Division[Video]:
    """The split asked for; of a run that is resumed without asking for one, its own. Its notes are said.

    Args:
        silent: say nothing, as the division is made a second time and said then.

    Raises:
        ViccError: no such split, or fewer than two training videos in it.
    """
    division = run_division(config.run, store.videos) if config.split is None else None
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


def run_division(run: Path, videos: list[Video]) -> Division[Video] | None:
    """These videos as the run divides them; None if it is no run yet, or knows fewer than half of them: they are of
    another store.

    Raises:
        ViccError: the run's files are damaged.
    """
    if not (run / SPLIT_FILE).exists() or not (run / RECIPE_FILE).exists():
        return None
    table = read_split_table(run / SPLIT_FILE)
    if 2 * sum(video.id in table.cells for video in videos) < len(videos):
        return None
    name = read_json(run / RECIPE_FILE, what="run description").get("split", "of the run")
    return divide_by_table(videos, table, 1, name=name)


def run_of(place: Path) -> Path | None:
    """The run that an encoder or classifier was trained in, from the place that names it; None for an imported one."""
    candidates = (place, place.parent, place.parent.parent)
    return next((folder for folder in candidates if (folder / RECIPE_FILE).exists()), None)


def trained_on(run: Path, videos: Sequence[Video]) -> set[str]:
    """Which of these videos a run has trained on, by their ids here.

    Those that its split names as these are called, and those of the same content, whatever they are called and however
    many others have come since. Where either side knows no checksum, the id tells.

    Raises:
        ViccError: the run's files are damaged.
    """
    if not (run / SPLIT_FILE).exists() or not (run / RECIPE_FILE).exists():
        return set()
    cells = read_split_table(run / SPLIT_FILE).cells
    path = run / VIDEOS_FILE  # runs from before it was written have none
    seen = read_json(path, what="list of the run's videos")["videos"] if path.exists() else {}
    names = {name for name, sides in cells.items() if sides[0] == "train"}
    checksums = {name: seen[name][1] for name in names if name in seen and seen[name][1]}
    parts: dict[str, set[str]] = defaultdict(set)  # of each content; of a whole file the empty text
    for name, checksum in checksums.items():
        parts[checksum].add(name.removeprefix(file_id(name)))
    own = run_division(run, list(videos))
    found = {video.id for video in own.train} if own is not None else set()
    for video in videos:
        checksum, part = video.source.blake2b, video.id.removeprefix(file_id(video.id))
        if checksum in parts:
            if not part or parts[checksum] & {"", part}:
                found.add(video.id)
        elif video.id in names and not (checksum and video.id in checksums):
            found.add(video.id)
    return found


@dataclass(frozen=True)
class RunStart:
    """A start of a run that was compared with what the run is. Nothing is written before it goes on, so that one that
    is refused, wherever that is found out, leaves the run's files as they are.
    """

    config: TrainingConfig
    computation: Computation
    description: dict[str, Any]
    division: Division[Video]
    seen: dict[str, Any]

    def note(self, stage: str, step: int) -> None:
        """It goes on, after step `step` of a stage: write what the run is, and add the start to the run's list."""
        run = self.config.run
        for name, content in ((RECIPE_FILE, self.description), (COMPUTATION_FILE, asdict(self.computation))):
            path = run / name
            if not path.exists() or read_json(path, what="run description") != content:
                write_json(path, content)
        if not (run / SPLIT_FILE).exists():
            write_split_table(run / SPLIT_FILE, division_table(self.division))
        if not (run / VIDEOS_FILE).exists():
            with atomic_write(run / VIDEOS_FILE) as file:
                json.dump(self.seen, file)
        _note_start(self.config, self.computation, stage, step)


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
    """Compare what is to be trained with what the run is, which never changes its recipe, seed or videos.

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
    path = config.run / RECIPE_FILE
    if not path.exists():
        return start
    found = read_json(path, what="run description")
    # Fields that came later than the run have the values that it was trained with.
    theirs = found | {"recipe": Recipe.from_json(found["recipe"]).to_json()}
    ours |= {name: theirs[name] for name in notes or () if name in theirs}
    if theirs == ours:
        return replace(start, description=found)
    if theirs | {"processes": world_size()} != ours:
        raise ViccError(
            f"The run {config.run} was started with other settings: {_difference(theirs, ours, config.run, seen)}. "
            "Give the same recipe or encoder, --seed, --store or --videos, and --split, or another --run folder."
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


def _difference(theirs: dict[str, Any], ours: dict[str, Any], run: Path, seen: dict[str, Any]) -> str:
    """Where two descriptions of a run begin to differ; videos by their names."""
    for first in ("recipe", "seed", "split"):
        if theirs.get(first) != ours.get(first):
            return first_difference(theirs, ours)
    if theirs.get("encoder_weights") != ours.get("encoder_weights"):
        was, now = (str(one.get("encoder_weights"))[:12] for one in (theirs, ours))
        return f"encoder_weights was {was}, those of the encoder {theirs.get('encoder', '')} at the time, now {now}"
    by_video = any(theirs.get(name) != ours.get(name) for name in ("videos", "content", "validation"))
    if by_video and (run / VIDEOS_FILE).exists():  # runs from before it was written have a fingerprint alone
        changed = _changed_videos(read_json(run / VIDEOS_FILE, what="list of the run's videos"), seen)
        if changed:
            return f"content was other than now: {changed}"
    return first_difference(theirs, ours)


def _changed_videos(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Which videos came, went or are others; or in which settings the store was prepared otherwise. Empty for none."""
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
    """What videos a run sees: how they were prepared, and of each its frames and the checksum of its file."""
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


def _note_start(config: TrainingConfig, computation: Computation, stage: str, step: int) -> None:
    """Add a line to the run's list of starts, and all that can be said of this one to its environment.json."""
    row = {
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
    with (config.run / RUNS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    note_environment(config.run, config, row)
