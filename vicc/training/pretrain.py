"""A recipe and a store to a run folder. Stages not yet done are done, so the same call starts, resumes and finishes.

RUN/recipe.json          the recipe with all values, seed, the split, and what the videos were
RUN/split.csv            which videos it trains on, and which of the store's videos are for testing it
RUN/runs.jsonl           one line for each time somebody started it: when, with what, where
RUN/STAGE/log.jsonl      one line a step
RUN/STAGE/checkpoint.pt  everything a resume needs
RUN/STAGE/encoder/       the result, once the stage is finished
"""

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vicc.backbones import require_backbone
from vicc.configs import PretrainConfig
from vicc.data.dataset import EpochBatches, clip_loader
from vicc.data.remote import splits_folder
from vicc.data.splits import (
    Division,
    divide_by_table,
    divide_videos,
    division_table,
    read_split_table,
    write_split_table,
)
from vicc.data.store import Store, Video
from vicc.device import Precision, choose_device, choose_precision, cpu_bf16_loses_gradients
from vicc.errors import ViccError
from vicc.files import exclusive_folder, read_json, write_json
from vicc.methods.batchnorm import synchronize_batchnorm
from vicc.methods.encoder import Encoder
from vicc.methods.task import Task
from vicc.progress import progress, say
from vicc.training.build import CHECKPOINT_FILE, ENCODER_FOLDER, build_dataset, build_optimizer, build_task
from vicc.training.checkpoint import load_checkpoint, save_checkpoint, save_encoder
from vicc.training.engine import Position, Stopped, train
from vicc.training.log import StepLog
from vicc.training.schedule import StageLength, stage_learning_rate, stage_length
from vicc.training.stage import Recipe, Stage
from vicc.version import __version__

RECIPE_FILE, RUNS_FILE, SPLIT_FILE = "recipe.json", "runs.jsonl", "split.csv"


@dataclass(frozen=True)
class StageSummary:
    """A stage of a run: `steps` of `total_steps` are done, each of `batch_size` videos out of `videos`.

    The learning rate counts with `schedule_steps`, which are more than `total_steps` where the stage has a stop_epoch.
    """

    name: str
    finished: bool
    steps: int
    total_steps: int
    schedule_steps: int
    videos: int
    batch_size: int


def pretrain(
    recipe: Recipe, config: PretrainConfig, *, should_stop: Callable[[str, int], bool] = lambda stage, step: False
) -> list[StageSummary]:
    """Train the stages of a recipe that are not finished yet.

    Args:
        should_stop: asked after every step with the stage's name and the steps done; True stops as a signal would.

    Raises:
        Stopped: asked to stop; a checkpoint has been written.
        ViccError: a store without enough videos, a run of another recipe, seed or store, a run in use by another
            process, a damaged checkpoint.
    """
    store = Store(config.store, cache_bytes=config.cache_mb << 20)
    division = _divide(store, config)
    videos = division.train
    if len(videos) < 2:
        raise ViccError(
            f"The store {config.store} has {len(videos)} training videos in the split {division.name}; expected at "
            "least 2. Give more videos, or another --split."
        )
    for stage in recipe.stages:
        require_backbone(stage.backbone)
    if config.dry_run:
        return [_summary(config, stage, len(videos)) for stage in recipe.stages]
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    with exclusive_folder(config.run, what="run folder"):
        _claim_run(recipe, config, store, division)
        _note_start(config, precision)
        for number, stage in enumerate(recipe.stages):
            if (config.run / stage.name / ENCODER_FOLDER / "config.json").exists():
                say(f"{stage.name}: finished already")
                continue
            _train_stage(stage, number, config, store, videos, precision, partial(should_stop, stage.name))
    return [_summary(config, stage, len(videos)) for stage in recipe.stages]


def _train_stage(
    stage: Stage,
    number: int,
    config: PretrainConfig,
    store: Store,
    videos: list[Video],
    precision: Precision,
    should_stop: Callable[[int], bool],
) -> None:
    folder = config.run / stage.name
    torch.manual_seed(_stage_seed(config.seed, f"{number}/{stage.name}"))
    task = build_task(stage, config.run, store)
    if stage.batchnorm == "sync":
        synchronize_batchnorm(task, precision.device)
    precision.place(task)
    precision = _sound_precision(precision, stage, task.encoder)
    length = stage_length(stage, len(videos))
    position = _start_position(length)
    optimizer = build_optimizer(stage, task)

    if len(videos) < stage.batch_size:
        say(f"{stage.name}: batches of {len(videos)}, not {stage.batch_size}: there are no more training videos")

    if (folder / CHECKPOINT_FILE).exists():
        _restore(load_checkpoint(folder / CHECKPOINT_FILE), folder, stage, task, optimizer, position)
        say(f"{stage.name}: resumes after step {position.step} of {position.total_steps}")
    log = StepLog(folder, first_step=position.step)

    def save() -> None:
        log.sync()
        save_checkpoint(folder / CHECKPOINT_FILE, _state(stage, task, optimizer, position))

    loader = clip_loader(
        build_dataset(stage, task, store, videos, seed=_stage_seed(config.seed, stage.name)),
        EpochBatches(
            len(videos),
            length.batch_size,
            first_step=position.step,
            last_step=position.total_steps,
            seed=_stage_seed(config.seed, stage.name),
        ),
        workers=_num_workers(config.workers),
        pin_memory=precision.device.type == "cuda",
    )
    try:
        with progress(stage.name, total=position.total_steps, start=position.step, unit="steps") as advance:
            train(
                task,
                loader,
                optimizer,
                position,
                learning_rate=stage_learning_rate(stage, length),
                precision=precision,
                log=log,
                save=save,
                advance=advance,
                should_stop=should_stop,
                seconds_between_checkpoints=60 * config.checkpoint_minutes,
            )
    except Stopped:
        say(f"{stage.name}: stopped after step {position.step} of {position.total_steps}; the same command continues")
        raise
    finally:
        log.close()
    save_encoder(folder / ENCODER_FOLDER, task.encoder)


def _sound_precision(precision: Precision, stage: Stage, encoder: Encoder) -> Precision:
    """fp32 in place of bf16 where this stage's clips are too short for the CPU's bf16 gradients."""
    if not precision.bf16 or precision.device.type != "cpu":
        return precision
    clip = torch.zeros(1, encoder.config.in_channels, stage.clip_frames, stage.size, stage.size, dtype=torch.uint8)
    unsound = cpu_bf16_loses_gradients(encoder, clip)
    if not unsound:
        return precision
    say(
        f"{stage.name}: fp32, since bf16 gradients are wrong on CPUs where a clip is shorter than a kernel "
        f"({len(unsound)} layers with clips of {stage.clip_frames} frames)"
    )
    return replace(precision, bf16=False)


def _state(stage: Stage, task: Task, optimizer: torch.optim.Optimizer, position: Position) -> dict[str, Any]:
    state = {
        "vicc": __version__,
        "stage": json.dumps(asdict(stage)),
        "step": position.step,
        "model": task.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rank_state": task.rank_state(),
        "torch_rng": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda_rng"] = torch.cuda.get_rng_state_all()
    return state


def _restore(
    state: dict[str, Any],
    folder: Path,
    stage: Stage,
    task: Task,
    optimizer: torch.optim.Optimizer,
    position: Position,
) -> None:
    if state["stage"] != json.dumps(asdict(stage)):
        raise ViccError(
            f"The checkpoint in {folder} belongs to another recipe: "
            f"{_first_difference(json.loads(state['stage']), json.loads(json.dumps(asdict(stage))))}. "
            "Give the recipe it was trained with, or another --run folder."
        )
    task.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    task.load_rank_state(state["rank_state"])
    torch.set_rng_state(state["torch_rng"])
    if "cuda_rng" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    position.step = state["step"]


def _divide(store: Store, config: PretrainConfig) -> Division[Video]:
    """The split asked for; of a run that is resumed without asking for one, its own."""
    division = run_division(config.run, store.videos) if config.split is None else None
    if division is None:
        division = divide_videos(store.videos, config.split, splits_folder=splits_folder(store.path))
    for note in division.notes:
        say(note)
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


def _claim_run(recipe: Recipe, config: PretrainConfig, store: Store, division: Division[Video]) -> None:
    """Write what this run is, or compare with what it is; a run never changes its recipe, seed or videos."""
    videos = division.train
    ours = {
        "recipe": recipe.to_json(),
        "seed": config.seed,
        "split": division.name,
        "videos": len(videos),
        "content": _content(store, videos),
    }
    path = config.run / RECIPE_FILE
    if not path.exists():
        if any(not entry.name.startswith(".") for entry in config.run.iterdir()):
            raise ViccError(
                f"{config.run} is not empty and is not a run (no {RECIPE_FILE}). Give another --run folder."
            )
        write_json(path, ours)
    theirs = read_json(path, what="run description")
    if theirs != ours:
        raise ViccError(
            f"The run {config.run} was started with other settings: {_first_difference(theirs, ours)}. "
            "Give the same recipe, --seed, --store and --split, or another --run folder."
        )
    if not (config.run / SPLIT_FILE).exists():
        write_split_table(config.run / SPLIT_FILE, division_table(division))


def _content(store: Store, videos: list[Video]) -> str:
    """A fingerprint of the training videos and how they were prepared."""
    facts = [asdict(store.settings), [(video.id, video.num_frames, video.source.blake2b) for video in videos]]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()


def _first_difference(theirs: Any, ours: Any, path: str = "") -> str:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in [*theirs, *(key for key in ours if key not in theirs)]:
            if theirs.get(key) != ours.get(key):
                return _first_difference(theirs.get(key), ours.get(key), f"{path}.{key}" if path else key)
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for old, new in zip(theirs, ours, strict=True):
            if old != new:
                name = f" {old['name']}" if isinstance(old, dict) and "name" in old else ""
                return _first_difference(old, new, path + name)
    return f"{path} was {_short(theirs)}, now {_short(ours)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _note_start(config: PretrainConfig, precision: Precision) -> None:
    row = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "vicc": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device": str(precision.device),
        "precision": precision.name,
        "threads": torch.get_num_threads(),
        "store": str(config.store),
    }
    with (config.run / RUNS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _start_position(length: StageLength) -> Position:
    return Position(step=0, total_steps=length.steps, steps_per_epoch=length.steps_per_epoch)


def _summary(config: PretrainConfig, stage: Stage, num_videos: int) -> StageSummary:
    folder = config.run / stage.name
    length = stage_length(stage, num_videos)
    steps = load_checkpoint(folder / CHECKPOINT_FILE)["step"] if (folder / CHECKPOINT_FILE).exists() else 0
    finished = (folder / ENCODER_FOLDER / "config.json").exists()
    return StageSummary(stage.name, finished, steps, length.steps, length.schedule_steps, num_videos, length.batch_size)


def _num_workers(asked: int | None) -> int:
    # On two cores the model uses both; a loader process beside it only takes turns with it.
    cores = os.cpu_count() or 1
    return asked if asked is not None else (0 if cores <= 2 else min(8, cores - 2))


def _stage_seed(seed: int, name: str) -> int:
    """A seed of its own for every stage, or all stages would see the same clips in the same order."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=4).digest(), "big")
