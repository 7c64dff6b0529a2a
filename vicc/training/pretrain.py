"""A recipe and a store to a run folder. Stages not yet done are done, so the same call starts,
resumes and finishes.

RUN/recipe.json          the recipe with all values, seed, the split, what the videos were, and how many processes
RUN/computation.json     in which precision, in how many threads, on which kind of device it computes
RUN/split.csv            which videos it trains on, and which of the store's videos are for testing it
RUN/videos.json          how they were prepared, and the frames and the checksum of each
RUN/scan.json, splits/   with --videos: what the files were found to hold, and their official splits
RUN/runs.jsonl           one line for each start that trained something: when, with what, where, from which step
RUN/environment.json     the same starts with all settings, versions, the git state and the machine
RUN/STAGE/log.jsonl      one line a step, and all else that `StageRecord` writes
RUN/STAGE/views.png      some training views as they enter the network
RUN/STAGE/checkpoints/   everything a resume needs: the newest few, and the best
RUN/STAGE/processes/     what each process is doing, for the watchdogs of the others
RUN/STAGE/encoder/       the result, once the stage is finished; beside its weights the prototypes and a feature mean
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from vicc.backbones import require_backbone
from vicc.data.dataset import ClipDataset
from vicc.data.frame_reader import FrameReader
from vicc.data.records import Video
from vicc.data.splits import OFFICIAL, SPLITS_FOLDER, divide_by_table, divide_videos
from vicc.data.store import Store, say_if_unfinished
from vicc.data.video_folder import VideoFolder
from vicc.device import Precision
from vicc.distributed import first_then_others, is_first, on_first, processes
from vicc.errors import ViccError
from vicc.methods.task import Task
from vicc.prepare.estimate import measure_loading
from vicc.prepare.scan import SCAN_FILE, list_videos, open_frames
from vicc.progress import say
from vicc.settings import takes_settings
from vicc.training.beside_encoder import save_stage_result
from vicc.training.build import ENCODER_FOLDER, build_task
from vicc.training.computation import choose_computation, choose_run_device, computing
from vicc.training.configs import PretrainConfig
from vicc.training.cost import StageCost, StepCost
from vicc.training.plan import (
    StageSummary,
    announce_costs,
    dry_run,
    fitted_recipe,
    num_workers,
    require_loading,
    stage_summary,
)
from vicc.training.run import is_finished, is_run, require_room_for_run
from vicc.training.run_folder import RunStart, claim_run, divide, held_run_folder, require_enough
from vicc.training.small_boxes import say_small_boxes
from vicc.training.stage import Recipe, Stage
from vicc.training.start import Start, facts_of, load_starts, normalized_recipe, notes_on
from vicc.training.train_stage import StageGoal, train_stage
from vicc.training.watch.online import OnlineEvaluation, evaluation_period
from vicc.training.watch.sinks import require_sinks


@takes_settings(PretrainConfig)
def pretrain(
    recipe: Recipe, config: PretrainConfig, *, should_stop: Callable[[str, int], bool] = lambda stage, step: False
) -> list[StageSummary]:
    """Train the stages of a recipe that are not finished yet.

    With several processes (torchrun, or its variables set by something else) all call this; the
    first one writes.

    Args:
        should_stop: called after every step with the stage's name and the steps done; True stops as
            a signal would.

    Raises:
        Stopped: by a signal or `should_stop`; a checkpoint has been written.
        ViccError: a store without enough videos or without the flow that a stage needs, a --start
            that fits no stage, a run of another recipe, start, seed, videos or number of processes,
            a run in use by another process, no checkpoint that is whole; something else than a
            recipe, or a config with the name of another recipe.
    """
    _require_recipe(recipe, config)
    for stage in recipe.stages:
        require_backbone(stage.encoder.backbone)
    recipe.require_stages(config.stages)
    require_sinks(config.log_to)
    if not config.dry_run:
        require_room_for_run(config.run)
    device = choose_run_device(config)
    with processes(device), ExitStack() as stack:
        begun = on_first(lambda: is_run(config.run))
        starts = load_starts(recipe, config.start, silent=begun)
        recipe = normalized_recipe(recipe, starts, config.set)
        store = _open_store(recipe, config)
        videos = [] if store is None else divide(store, config, silent=not config.dry_run).train
        num_videos = on_first(lambda: _count_videos(config)) if store is None else len(videos)
        _require_earlier_stages(recipe, config)
        if config.dry_run:
            if store is not None and config.launcher == "here":
                on_first(partial(say_small_boxes, recipe, store, videos))
            return _with_starts(dry_run(recipe, config, device, store, videos, num_videos=num_videos), starts)
        on_first(lambda: stack.enter_context(held_run_folder(config.run)))
        precision, computation = choose_computation(config, device)
        stack.enter_context(computing(computation))
        if store is None:
            store = first_then_others(
                lambda: open_frames(None, config.videos, scan=config.run / SCAN_FILE, cache_mb=config.cache_mb)
            )
        division = divide(store, config)
        videos = division.train
        measured: dict[str, StepCost] = {}
        recipe = fitted_recipe(
            recipe, config, precision, num_videos=len(videos), to_data=config.fit_to_data, known=measured
        )
        claimed: list[RunStart] = []  # of the first process alone, until it is noted
        facts, notes = facts_of(starts), notes_on(starts)
        on_first(
            lambda: claimed.append(claim_run(recipe, config, computation, store, division, facts=facts, notes=notes))
        )
        asked = [stage for stage in recipe.stages if not config.stages or stage.name in config.stages]
        unfinished = on_first(lambda: [stage.name for stage in asked if not is_finished(config.run, stage)])
        for stage in asked:
            if stage.name in unfinished:
                require_loading(recipe, stage, config, num_videos=len(videos))
        costs: dict[str, StageCost] = {}
        if is_first() and unfinished:
            if isinstance(store, VideoFolder):
                _say_speed(recipe, store, videos)
            if not begun:
                say_small_boxes(recipe, store, videos)
                costs = announce_costs(recipe, config, precision, store, videos, known=measured)
        for number, stage in enumerate(recipe.stages):
            if stage.name in unfinished:
                train_stage(
                    stage,
                    number,
                    _goal(stage, config, store, videos, starts.get(stage.name)),
                    config,
                    store,
                    videos,
                    precision,
                    later=[after for after in recipe.stages[number + 1 :] if after.name in unfinished],
                    planned=costs.get(stage.name),
                    on_start=partial(_note_once, claimed, stage.name),
                    should_stop=partial(should_stop, stage.name),
                )
            elif stage in asked:
                say(f"{stage.name}: finished already")
        return _with_starts([stage_summary(config, stage, len(videos)) for stage in recipe.stages], starts)


def _with_starts(summaries: list[StageSummary], starts: Mapping[str, Start]) -> list[StageSummary]:
    return [
        replace(summary, start=starts[summary.name].place) if summary.name in starts else summary
        for summary in summaries
    ]


def _note_once(claimed: list[RunStart], stage: str, step: int) -> None:
    """A start of the run is noted with the first stage that it goes on with."""
    if claimed:
        claimed.pop().note(stage, step)


def _open_store(recipe: Recipe, config: PretrainConfig) -> FrameReader | None:
    """The store; None where videos are given, which are not looked into yet."""
    if (place := config.store) is None:
        return None
    store = first_then_others(lambda: Store(place, cache_bytes=config.cache_mb << 20))
    on_first(partial(say_if_unfinished, store))
    _require_flow(recipe, store)
    return store


def _require_recipe(recipe: Recipe, config: PretrainConfig) -> None:
    """Refuse a config that asks for another recipe than the one given beside it: that would be
    ignored.
    """
    if not isinstance(recipe, Recipe):
        raise ViccError(
            f"pretrain: got {recipe!r} where a recipe is expected. Make one: vicc.create_recipe('demo', "
            "changes=['all.steps=100'])."
        )
    wanted = recipe.with_motion(config.motion)
    wanted = (wanted if config.views is None else wanted.with_views(config.views)).with_changes(config.set)
    if config.recipe not in ("default", recipe.name) or wanted != recipe:
        raise ViccError(
            f"pretrain: the config asks for another recipe than the {recipe.name!r} given (recipe, motion, views or "
            "set differ). Give these to vicc.create_recipe, and leave them out of the config."
        )


def _require_earlier_stages(recipe: Recipe, config: PretrainConfig) -> None:
    finished = {stage.name for stage in recipe.stages if is_finished(config.run, stage)}
    for stage in recipe.stages:
        for earlier in filter(None, (stage.start_from, stage.teacher)):
            asked = stage.name in config.stages and stage.name not in finished
            if asked and earlier not in finished and earlier not in config.stages:
                raise ViccError(
                    f"Stage {stage.name} builds on {earlier}, which is not finished in {config.run}. Train that first: "
                    "add it to --stages, or leave --stages out."
                )


def _goal(
    stage: Stage, config: PretrainConfig, store: FrameReader, videos: list[Video], start: Start | None
) -> StageGoal:
    """What pretraining wants of a stage: an encoder, which is evaluated without labels while it
    trains.
    """

    def evaluation(task: Task, dataset: ClipDataset, precision: Precision) -> OnlineEvaluation:
        if config.best == "label_recall" and dataset.labels is None:
            raise ViccError("--best label_recall: some training videos have no label. Give --best instance_recall.")
        return OnlineEvaluation(task.encoder, dataset, precision)

    def save(folder: Path, task: Task, precision: Precision) -> None:
        save_stage_result(
            folder / ENCODER_FOLDER,
            task,
            store,
            videos,
            precision,
            workers=num_workers(config.workers),
            description=f"{stage.name}: feature mean",
        )

    period = evaluation_period(len(videos)) if config.evaluate_epochs is None else config.evaluate_epochs
    return StageGoal(
        new_task=partial(build_task, stage, config.run, store, start),
        evaluation=evaluation,
        evaluate_epochs=period,
        best_metric=config.best,
        save_result=save,
    )


def _require_flow(recipe: Recipe, store: FrameReader) -> None:
    names = [stage.name for stage in recipe.stages if stage.stream == "flow"]
    if names and store.settings.flow == "none":
        raise ViccError(
            f"The stages {', '.join(names)} see flow, and the store {store.path} was prepared without it (--flow "
            "none). Give --motion diff, or prepare another store with flow."
        )


def _say_speed(recipe: Recipe, folder: VideoFolder, videos: list[Video]) -> None:
    """What decoding on the fly costs: measured, with all streams of the recipe in the clips of its
    last stage.
    """
    stage = recipe.stages[-1]
    streams = tuple(dict.fromkeys(stage.stream for stage in recipe.stages))

    def new_dataset(source: FrameReader, some: Sequence[Video]) -> ClipDataset:
        return ClipDataset(
            source,
            some,
            streams=streams,
            num_views=2,
            clip_frames=stage.encoder.clip_frames,
            stride=stage.encoder.stride,
            size=stage.encoder.size,
            distance=stage.view_distance,
            augmentation=replace(stage.augmentation, flow_as_image=False),
            seed=0,
            crop=stage.encoder.crop,
        )

    rates = measure_loading(folder, videos, new_dataset)
    measured = "" if rates is None else f"{rates}, with {' and '.join(streams)}; "
    say(f"decoding on the fly: {measured}make a store with: vicc prepare {folder.path} --store STORE")


def _count_videos(config: PretrainConfig) -> int:
    """How many of the files of a folder it would train on, were all of them readable."""
    place = config.videos
    assert place is not None  # the config refuses neither a store nor videos
    files, official = list_videos(place, silent=not config.dry_run)
    if official is not None and config.split is None:
        division = divide_by_table(files, official, 1, name=f"{OFFICIAL}:1")
    else:
        division = divide_videos(files, config.split, splits_folder=config.run / SPLITS_FOLDER)
    return len(require_enough(division, config).train)
