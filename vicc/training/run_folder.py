"""The folder of a run: what it is, which videos it learns from, and who has started it when."""

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vicc.configs import TrainingConfig
from vicc.data.frame_source import FrameSource
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
from vicc.data.video_folder import VideoFolder
from vicc.device import Precision
from vicc.distributed import world_size
from vicc.errors import ViccError
from vicc.files import exclusive_folder, read_json, write_json
from vicc.prepare.scan import SCAN_FILE, splits_of
from vicc.progress import say
from vicc.training.environment import note_environment
from vicc.training.slurm import SLURM_FOLDER
from vicc.training.stage import Recipe
from vicc.version import __version__

RECIPE_FILE, RUNS_FILE, SPLIT_FILE = "recipe.json", "runs.jsonl", "split.csv"


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


def divide(store: FrameSource, config: TrainingConfig, *, silent: bool = False) -> Division[Video]:
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


def claim_run(
    recipe: Recipe,
    config: TrainingConfig,
    store: FrameSource,
    division: Division[Video],
    *,
    videos: list[Video] | None = None,
    facts: Mapping[str, Any] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write what this run is, or compare with what it is; a run never changes its recipe, seed or videos.

    Args:
        videos: those that it trains on; None for all training videos of the division.
        facts: what else makes it, plain values by name.
        notes: what is written too, and may be another when the run goes on.
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
    path = config.run / RECIPE_FILE
    if not path.exists():
        write_json(path, {**ours, **(notes or {})})
    theirs = read_json(path, what="run description")
    # Fields that came later than the run have the values that it was trained with.
    theirs["recipe"] = Recipe.from_json(theirs["recipe"]).to_json()
    ours |= {name: theirs[name] for name in notes or () if name in theirs}
    if theirs | {"processes": world_size()} == ours and theirs != ours:
        _change_processes(path, theirs, ours, allowed=config.allow_elastic)
    elif theirs != ours:
        raise ViccError(
            f"The run {config.run} was started with other settings: {first_difference(theirs, ours)}. "
            "Give the same recipe or encoder, --seed, --store or --videos, and --split, or another --run folder."
        )
    if not (config.run / SPLIT_FILE).exists():
        write_split_table(config.run / SPLIT_FILE, division_table(division))


def _change_processes(path: Path, theirs: dict[str, Any], ours: dict[str, Any], *, allowed: bool) -> None:
    before, now = theirs["processes"], ours["processes"]
    if not allowed:
        raise ViccError(
            f"The run {path.parent} was started with {before} processes and now has {now}, which would give "
            f"other numbers. Start {before}, or give --allow-elastic to go on with {now}."
        )
    say(f"goes on with {now} processes in place of {before}: not bit-equal to an undisturbed run from here on")
    write_json(path, ours)


def _content(store: FrameSource, videos: list[Video]) -> str:
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


def note_start(config: TrainingConfig, precision: Precision) -> None:
    """Add a line to the run's list of starts, and all that can be said of this one to its environment.json."""
    row = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "vicc": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device": str(precision.device),
        "precision": precision.name,
        "processes": world_size(),
        "threads": torch.get_num_threads(),
        "store" if config.videos is None else "videos": str(config.videos or config.store),
    }
    with (config.run / RUNS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    note_environment(config.run, config, row)
