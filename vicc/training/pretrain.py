"""A recipe and a store to a run folder. Stages not yet done are done, so the same call starts, resumes and finishes.

RUN/recipe.json          the recipe with all values, seed, the split, what the videos were, and how many processes
RUN/split.csv            which videos it trains on, and which of the store's videos are for testing it
RUN/scan.json, splits/   with --videos: what the files were found to hold, and their official splits
RUN/runs.jsonl           one line for each time somebody started it: when, with what, where
RUN/environment.json     the same starts with all settings, versions, the git state and the machine
RUN/STAGE/log.jsonl      one line a step, and all else that `StageRecord` writes
RUN/STAGE/views.png      some training views as they enter the network
RUN/STAGE/checkpoints/   everything a resume needs: the newest few, and the best
RUN/STAGE/processes/     what each process is doing, for the watchdogs of the others
RUN/STAGE/encoder/       the result, once the stage is finished
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vicc.backbones import require_backbone
from vicc.configs import PretrainConfig
from vicc.data.dataset import ClipDataset, ClipLoader, EpochBatches, worker_deaths_named
from vicc.data.frame_source import FrameSource
from vicc.data.sources import VideoSource
from vicc.data.splits import OFFICIAL, SPLITS_FOLDER, Division, Member, divide_by_table, divide_videos
from vicc.data.store import Store, Video
from vicc.data.video_folder import VideoFolder
from vicc.device import Precision, choose_device, choose_precision
from vicc.distributed import gathered, is_first, on_first, processes, rank, world_size
from vicc.errors import Diverged, ViccError
from vicc.files import exclusive_folder
from vicc.methods.task import Task
from vicc.prepare.estimate import measure_loading
from vicc.prepare.scan import SCAN_FILE, list_videos, open_source, splits_of
from vicc.progress import progress, say
from vicc.training.autopsy import dump_batch, require_finite
from vicc.training.build import ENCODER_FOLDER, build_dataset, build_step, build_task
from vicc.training.checkpoint import CheckpointFolder, load_checkpoint, save_encoder
from vicc.training.engine import Position, Stopped, train
from vicc.training.live import step_cost
from vicc.training.monitor import Monitor
from vicc.training.online import OnlineEvaluation, evaluation_period
from vicc.training.plan import (
    StageCost,
    describe_costs,
    fitted_recipe,
    is_worth_measuring,
    num_workers,
    plan_stages,
)
from vicc.training.run_folder import RECIPE_FILE, claim_run, note_start, require_run_folder, run_division
from vicc.training.schedule import StageLength, stage_learning_rate, stage_length
from vicc.training.sinks import require_sinks
from vicc.training.stage import Recipe, Stage
from vicc.training.state import rank_state, restore, training_state
from vicc.training.views import VIEWS_FILE, write_views
from vicc.training.watchdog import Watchdog

_SETTLE_EVERY = 16  # steps: on an accelerator, whose work a look at the loss would wait for


@dataclass(frozen=True)
class StageSummary:
    """A stage of a run: `steps` of `total_steps` are done, each of `batch_size` videos out of `videos`.

    The learning rate counts with `schedule_steps`, which are more than `total_steps` where the stage has a stop_epoch.
    What is left would take `cost`, which only a dry run measures.
    """

    name: str
    finished: bool
    steps: int
    total_steps: int
    schedule_steps: int
    videos: int
    batch_size: int
    cost: StageCost | None = None


def pretrain(
    recipe: Recipe, config: PretrainConfig, *, should_stop: Callable[[str, int], bool] = lambda stage, step: False
) -> list[StageSummary]:
    """Train the stages of a recipe that are not finished yet.

    Of several processes (torchrun, or its variables set by something else) all call this; the first one writes.

    Args:
        should_stop: asked after every step with the stage's name and the steps done; True stops as a signal would.

    Raises:
        Stopped: asked to stop; a checkpoint has been written.
        ViccError: a store without enough videos or without the flow that a stage sees, a run of another recipe, seed,
            videos or number of processes, a run in use by another process, no checkpoint that is whole.
    """
    for stage in recipe.stages:
        require_backbone(stage.backbone)
    _require_stages(recipe, config)
    require_sinks(config.log_to)
    device = choose_device(config.device)
    with processes(device):
        store: FrameSource | None = None
        videos: list[Video] = []
        if config.store is None:
            num_videos = on_first(lambda: len(_planned(config).train))
        else:
            place = config.store
            store = _open_everywhere(lambda: Store(place, cache_bytes=config.cache_mb << 20))
            _require_flow(recipe, store)
            videos = _divide(store, config).train
            num_videos = len(videos)
        precision = choose_precision(config.precision, device)
        _require_earlier_stages(recipe, config)
        if config.dry_run:
            # Jobs run elsewhere: nothing measured here holds there, and the machine that submits is not for computing.
            here = config.launcher == "here"
            if here or config.batch_size != "auto":
                recipe = fitted_recipe(recipe, config, precision, num_videos=num_videos)
            costs = _costs(recipe, config, precision, store, videos, num_videos=num_videos) if here else {}
            return [replace(_summary(config, stage, num_videos), cost=costs.get(stage.name)) for stage in recipe.stages]
        with ExitStack() as stack:
            on_first(lambda: stack.enter_context(_run_folder(config)))
            if store is None:
                store = _open_everywhere(
                    lambda: open_source(None, config.videos, scan=config.run / SCAN_FILE, cache_mb=config.cache_mb)
                )
            return _pretrain(recipe, config, store, precision, should_stop)


def _costs(
    recipe: Recipe,
    config: PretrainConfig,
    precision: Precision,
    store: FrameSource | None,
    videos: list[Video],
    *,
    num_videos: int,
) -> dict[str, StageCost]:
    """What the stages that are not finished will take; nothing is written."""
    left = {}
    for stage in recipe.stages:
        summary = _summary(config, stage, num_videos)
        left[stage.name] = 0 if summary.finished else summary.total_steps - summary.steps
    lengths = {stage.name: stage_length(stage, num_videos, world_size()) for stage in recipe.stages}

    def load(stage: Stage, task: Task) -> ClipDataset:
        assert store is not None
        return build_dataset(stage, task, store, videos, seed=0)

    return plan_stages(recipe, config, precision, left, lengths, None if store is None else load)


def _require_earlier_stages(recipe: Recipe, config: PretrainConfig) -> None:
    finished = {stage.name for stage in recipe.stages if _is_finished(config.run, stage)}
    for stage in recipe.stages:
        for earlier in filter(None, (stage.start_from, stage.teacher)):
            asked = stage.name in config.stages and stage.name not in finished
            if asked and earlier not in finished and earlier not in config.stages:
                raise ViccError(
                    f"Stage {stage.name} builds on {earlier}, which is not finished in {config.run}. Train that first: "
                    "add it to --stages, or leave --stages out."
                )


@contextmanager
def _run_folder(config: PretrainConfig) -> Iterator[None]:
    with exclusive_folder(config.run, what="run folder"):
        require_run_folder(config.run)
        yield


def _open_everywhere(open_it: Callable[[], FrameSource]) -> FrameSource:
    """A store or folder, opened by the first process, which may have to scan or download it, then by the others."""
    opened: list[FrameSource] = []
    on_first(lambda: opened.append(open_it()))
    return opened[0] if opened else open_it()


def _pretrain(
    recipe: Recipe,
    config: PretrainConfig,
    store: FrameSource,
    precision: Precision,
    should_stop: Callable[[str, int], bool],
) -> list[StageSummary]:
    division = _divide(store, config)
    videos = division.train
    recipe = fitted_recipe(recipe, config, precision, num_videos=len(videos))
    begun = (config.run / RECIPE_FILE).exists()
    on_first(partial(claim_run, recipe, config, store, division))
    on_first(partial(note_start, config, precision))
    asked = [stage for stage in recipe.stages if not config.stages or stage.name in config.stages]
    unfinished = on_first(lambda: [stage.name for stage in asked if not _is_finished(config.run, stage)])
    if is_first() and unfinished:
        if isinstance(store, VideoFolder):
            _say_speed(recipe, store, videos)
        if not begun and is_worth_measuring(recipe, num_videos=len(videos)):
            for line in describe_costs(_costs(recipe, config, precision, store, videos, num_videos=len(videos))):
                say(line)
    for number, stage in enumerate(recipe.stages):
        if stage.name in unfinished:
            later = [after for after in recipe.stages[number + 1 :] if after.name in unfinished]
            _train_stage(stage, number, config, store, videos, precision, later, partial(should_stop, stage.name))
        elif stage in asked:
            say(f"{stage.name}: finished already")
    return [_summary(config, stage, len(videos)) for stage in recipe.stages]


def _require_stages(recipe: Recipe, config: PretrainConfig) -> None:
    unknown = [name for name in config.stages if name not in {stage.name for stage in recipe.stages}]
    if unknown:
        known = ", ".join(stage.name for stage in recipe.stages)
        raise ViccError(f"--stages {' '.join(unknown)}: recipe {recipe.name} has the stages {known}.")


def _require_flow(recipe: Recipe, store: FrameSource) -> None:
    names = [stage.name for stage in recipe.stages if stage.stream == "flow"]
    if names and store.settings.flow == "none":
        raise ViccError(
            f"The stages {', '.join(names)} see flow, and the store {store.path} was prepared without it (--flow "
            "none). Give --motion diff, or prepare another store with flow."
        )


def _is_finished(run: Path, stage: Stage) -> bool:
    return (run / stage.name / ENCODER_FOLDER / "config.json").exists()


def _say_speed(recipe: Recipe, folder: VideoFolder, videos: list[Video]) -> None:
    """What decoding on the fly costs: measured, with all streams of the recipe in the clips of its last stage."""
    stage = recipe.stages[-1]
    streams = tuple(dict.fromkeys(stage.stream for stage in recipe.stages))

    def new_dataset(source: FrameSource, some: Sequence[Video]) -> ClipDataset:
        return ClipDataset(
            source,
            some,
            streams=streams,
            num_views=2,
            clip_frames=stage.clip_frames,
            stride=stage.stride,
            size=stage.size,
            distance=stage.view_distance,
            augmentation=replace(stage.augmentation, flow_as_image=False),
            seed=0,
        )

    rates = measure_loading(folder, videos, new_dataset)
    measured = "" if rates is None else f"{rates}, with {' and '.join(streams)}; "
    say(f"decoding on the fly: {measured}make a store with: vicc prepare {folder.path} --store STORE")


def _train_stage(
    stage: Stage,
    number: int,
    config: PretrainConfig,
    store: FrameSource,
    videos: list[Video],
    precision: Precision,
    later: Sequence[Stage],
    should_stop: Callable[[int], bool],
) -> None:
    folder = config.run / stage.name
    torch.manual_seed(_stage_seed(config.seed, f"{number}/{stage.name}"))
    task = build_task(stage, config.run, store)
    step = build_step(stage, task, precision, config)
    precision = step.precision  # fp32 in place of bf16, where clips are short
    length = stage_length(stage, len(videos), world_size())
    position = Position(step=0, total_steps=length.steps, steps_per_epoch=length.steps_per_epoch)
    if not is_first():
        torch.manual_seed(_stage_seed(config.seed, f"{number}/{stage.name}/process {rank()}"))
    if length.batch_size < stage.batch_size:
        say(f"{stage.name}: batches of {length.batch_size}, not {stage.batch_size}: there are no more training videos")

    seed = _stage_seed(config.seed, stage.name)
    dataset = build_dataset(stage, task, store, videos, seed=seed)
    if config.best == "label_recall" and dataset.labels is None:
        raise ViccError("--best label_recall: some training videos have no label. Give --best own_video_recall.")
    checkpoints = CheckpointFolder(folder, keep=config.keep_checkpoints)
    monitor = _monitor(stage, length, config, OnlineEvaluation(task.encoder, dataset, precision), later)
    state = _load_newest(checkpoints)
    if state is not None:
        restore(state, folder, stage, step, position, monitor)
        say(f"{stage.name}: resumes after step {position.step} of {position.total_steps}")

    def save() -> None:
        require_finite(task)
        monitor.sync()
        state = training_state(stage, step, position, monitor, gathered(rank_state(task, precision.device)))
        on_first(lambda: checkpoints.save(state, best=monitor.improved))

    batches = EpochBatches(
        len(videos),
        length.batch_size // world_size(),
        first_step=position.step,
        last_step=position.total_steps,
        seed=seed,
        rank=rank(),
        world_size=world_size(),
    )
    on_accelerator = precision.device.type != "cpu"
    loader = ClipLoader(
        dataset,
        batches,
        workers=num_workers(config.workers),
        pin_memory=precision.device.type == "cuda",
    )
    on_first(partial(_write_views, folder / VIEWS_FILE, dataset, stage))
    try:
        with (
            progress(stage.name, total=position.total_steps, start=position.step, unit="steps") as advance,
            monitor.open(folder, first_step=position.step, advance=advance),
            Watchdog(folder, minutes=config.hang_minutes, videos=loader.loading) as watchdog,
            worker_deaths_named(),
        ):
            train(
                step,
                loader,
                position,
                learning_rate=stage_learning_rate(stage, length),
                observer=monitor,
                save=save,
                watchdog=watchdog,
                should_stop=should_stop,
                seconds_between_checkpoints=60 * config.checkpoint_minutes,
                settle_every=_SETTLE_EVERY if on_accelerator else 1,
            )
            monitor.finish()
    except Diverged as error:
        at = position.step if error.step is None else error.step
        raise ViccError(f"{error} {monitor.why_not_finite(precision.name)} {dump_batch(folder, loader, at)}") from error
    except Stopped:
        say(f"{stage.name}: stopped after step {position.step} of {position.total_steps}; the same command continues")
        raise
    on_first(partial(save_encoder, folder / ENCODER_FOLDER, task.encoder))


def _monitor(
    stage: Stage, length: StageLength, config: PretrainConfig, evaluate: OnlineEvaluation, later: Sequence[Stage]
) -> Monitor:
    period = config.evaluate_epochs
    num_videos = length.steps_per_epoch * length.batch_size
    costs = (
        stage_length(after, num_videos, world_size()).steps * step_cost(after, length.batch_size) for after in later
    )
    return Monitor(
        stage,
        length,
        evaluate=None if period == 0 else evaluate,
        evaluate_epochs=period or evaluation_period(num_videos),
        log_to=config.log_to,
        workers=num_workers(config.workers),
        best_metric=config.best,
        later_steps=sum(costs) / step_cost(stage, length.batch_size),
    )


def _write_views(path: Path, dataset: ClipDataset, stage: Stage) -> None:
    if not path.exists():
        write_views(path, dataset, title=f"{stage.name}: training views as they enter the network")


def _load_newest(checkpoints: CheckpointFolder) -> dict[str, Any] | None:
    """The newest whole checkpoint, in all processes; which one it is, and what is damaged, the first one says."""
    state: dict[str, Any] | None = None

    def find() -> int | None:
        nonlocal state
        state = checkpoints.load_newest()
        return None if state is None else state["step"]

    found = on_first(find)
    if found is not None and state is None:
        state = load_checkpoint(checkpoints.path(found))
    return state


def _divide(store: FrameSource, config: PretrainConfig) -> Division[Video]:
    """The split asked for; of a run that is resumed without asking for one, its own."""
    division = run_division(config.run, store.videos) if config.split is None else None
    if division is None:
        division = divide_videos(store.videos, config.split, splits_folder=splits_of(store, config.run))
    for note in division.notes:
        say(note)
    return _enough(division, config)


def _planned(config: PretrainConfig) -> Division[VideoSource]:
    """How the files of a folder would be divided, were all of them readable."""
    place = config.videos
    assert place is not None  # the config refuses neither a store nor videos
    files, official = list_videos(place)
    if official is not None and config.split is None:
        return _enough(divide_by_table(files, official, 1, name=f"{OFFICIAL}:1"), config)
    return _enough(divide_videos(files, config.split, splits_folder=config.run / SPLITS_FOLDER), config)


def _enough(division: Division[Member], config: PretrainConfig) -> Division[Member]:
    if len(division.train) < 2:
        place = f"folder {config.videos}" if config.store is None else f"store {config.store}"
        raise ViccError(
            f"The {place} has {len(division.train)} training videos in the split {division.name}; expected at least 2. "
            "Give more videos, or another --split."
        )
    return division


def _summary(config: PretrainConfig, stage: Stage, num_videos: int) -> StageSummary:
    folder = config.run / stage.name
    length = stage_length(stage, num_videos, world_size())
    steps = CheckpointFolder(folder).newest_step()
    return StageSummary(
        stage.name,
        _is_finished(config.run, stage),
        steps,
        length.steps,
        length.schedule_steps,
        num_videos,
        length.batch_size,
    )


def _stage_seed(seed: int, name: str) -> int:
    """A seed of its own for every stage, or all stages would see the same clips in the same order."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=4).digest(), "big")
