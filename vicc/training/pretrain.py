"""A recipe and a store to a run folder. Stages not yet done are done, so the same call starts, resumes and finishes.

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
RUN/STAGE/encoder/       the result, once the stage is finished
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from vicc.backbones import require_backbone
from vicc.data.dataset import ClipDataset
from vicc.data.frame_reader import FrameReader
from vicc.data.splits import OFFICIAL, SPLITS_FOLDER, Division, divide_by_table, divide_videos
from vicc.data.store import Store, Video, say_if_unfinished
from vicc.data.video_files import VideoFile
from vicc.data.video_folder import VideoFolder
from vicc.device import Precision, choose_precision
from vicc.distributed import first_then_others, is_first, on_first, processes
from vicc.errors import ViccError
from vicc.files import require_writable
from vicc.methods.task import Task
from vicc.prepare.estimate import measure_loading
from vicc.prepare.scan import SCAN_FILE, list_videos, open_source
from vicc.progress import say
from vicc.settings import takes_settings
from vicc.training.build import ENCODER_FOLDER, build_task
from vicc.training.checkpoint import save_encoder
from vicc.training.computation import Computation, choose_computation, choose_run_device, computing
from vicc.training.configs import PretrainConfig
from vicc.training.plan import (
    StageCost,
    StepCost,
    describe_costs,
    fitted_recipe,
    is_worth_measuring,
    require_loading,
)
from vicc.training.run_folder import (
    RECIPE_FILE,
    RunStart,
    claim_run,
    divide,
    held_run_folder,
    require_enough,
)
from vicc.training.stage import Recipe, Stage
from vicc.training.train_stage import StageGoal, StageSummary, is_finished, stage_costs, stage_summary, train_stage
from vicc.training.watch.online import OnlineEvaluation, evaluation_period
from vicc.training.watch.sinks import require_sinks


@takes_settings(PretrainConfig)
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
            videos or number of processes, a run in use by another process, no checkpoint that is whole; what is no
            recipe, or a config that asks for another recipe than the one given.
    """
    _require_recipe(recipe, config)
    for stage in recipe.stages:
        require_backbone(stage.encoder.backbone)
    recipe.require_stages(config.stages)
    require_sinks(config.log_to)
    if not config.dry_run:
        require_writable(config.run / RECIPE_FILE, instead="Give another --run folder")
    device = choose_run_device(config)
    with processes(device):
        store: FrameReader | None = None
        videos: list[Video] = []
        if config.store is None:
            num_videos = on_first(lambda: len(_planned(config).train))
        else:
            place = config.store
            store = first_then_others(lambda: Store(place, cache_bytes=config.cache_mb << 20))
            on_first(partial(say_if_unfinished, store))
            _require_flow(recipe, store)
            videos = divide(store, config, silent=not config.dry_run).train
            num_videos = len(videos)
        _require_earlier_stages(recipe, config)
        if config.dry_run and config.launcher != "here":
            # Jobs run elsewhere: nothing measured here holds there, and the machine that submits is not for computing.
            if config.batch_size != "auto":
                precision = choose_precision(config.precision, device)
                recipe = fitted_recipe(recipe, config, precision, num_videos=num_videos, to_data=config.fit_to_data)
            return [stage_summary(config, stage, num_videos) for stage in recipe.stages]
        with ExitStack() as stack:
            if not config.dry_run:
                on_first(lambda: stack.enter_context(held_run_folder(config.run)))
            precision, computation = choose_computation(config, device)
            stack.enter_context(computing(computation))
            if config.dry_run:
                return _plan(recipe, config, store, videos, precision, num_videos=num_videos)
            if store is None:
                store = first_then_others(
                    lambda: open_source(None, config.videos, scan=config.run / SCAN_FILE, cache_mb=config.cache_mb)
                )
            return _pretrain(recipe, config, store, precision, computation, should_stop)


def _plan(
    recipe: Recipe,
    config: PretrainConfig,
    store: FrameReader | None,
    videos: list[Video],
    precision: Precision,
    *,
    num_videos: int,
) -> list[StageSummary]:
    """How far the stages are, and what is left of them would take."""
    known: dict[str, StepCost] = {}
    recipe = fitted_recipe(recipe, config, precision, num_videos=num_videos, to_data=config.fit_to_data, known=known)
    costs = stage_costs(recipe, config, precision, store, videos, num_videos=num_videos, known=known)
    summaries = [stage_summary(config, stage, num_videos) for stage in recipe.stages]
    return [replace(summary, cost=costs.get(summary.name)) for summary in summaries]


def _require_recipe(recipe: Recipe, config: PretrainConfig) -> None:
    """The recipe is given beside the config, whose words for it must not say something else and be ignored."""
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


def _pretrain(
    recipe: Recipe,
    config: PretrainConfig,
    store: FrameReader,
    precision: Precision,
    computation: Computation,
    should_stop: Callable[[str, int], bool],
) -> list[StageSummary]:
    division = divide(store, config)
    videos = division.train
    known: dict[str, StepCost] = {}
    recipe = fitted_recipe(recipe, config, precision, num_videos=len(videos), to_data=config.fit_to_data, known=known)
    begun = (config.run / RECIPE_FILE).exists()
    starts: list[RunStart] = []  # of the first process alone, until it is noted
    on_first(lambda: starts.append(claim_run(recipe, config, computation, store, division)))
    asked = [stage for stage in recipe.stages if not config.stages or stage.name in config.stages]
    unfinished = on_first(lambda: [stage.name for stage in asked if not is_finished(config.run, stage)])
    for stage in asked:
        if stage.name in unfinished:
            require_loading(stage, config, num_videos=len(videos))
    costs: dict[str, StageCost] = {}
    if is_first() and unfinished:
        if isinstance(store, VideoFolder):
            _say_speed(recipe, store, videos)
        if not begun and is_worth_measuring(recipe, num_videos=len(videos)):
            costs = stage_costs(recipe, config, precision, store, videos, num_videos=len(videos), known=known)
            for line in describe_costs(costs):
                say(line)
    for number, stage in enumerate(recipe.stages):
        if stage.name in unfinished:
            later = [after for after in recipe.stages[number + 1 :] if after.name in unfinished]

            def note_once(step: int, name: str = stage.name) -> None:
                if starts:
                    starts.pop().note(name, step)

            train_stage(
                stage,
                number,
                _purpose(stage, config, store, num_videos=len(videos)),
                config,
                store,
                videos,
                precision,
                later=later,
                planned=costs.get(stage.name),
                on_start=note_once,
                should_stop=partial(should_stop, stage.name),
            )
        elif stage in asked:
            say(f"{stage.name}: finished already")
    return [stage_summary(config, stage, len(videos)) for stage in recipe.stages]


def _purpose(stage: Stage, config: PretrainConfig, store: FrameReader, *, num_videos: int) -> StageGoal:
    """An encoder, looked at without labels while it trains."""

    def evaluation(task: Task, dataset: ClipDataset, precision: Precision) -> OnlineEvaluation:
        if config.best == "label_recall" and dataset.labels is None:
            raise ViccError("--best label_recall: some training videos have no label. Give --best own_video_recall.")
        return OnlineEvaluation(task.encoder, dataset, precision)

    period = evaluation_period(num_videos) if config.evaluate_epochs is None else config.evaluate_epochs
    return StageGoal(
        new_task=partial(build_task, stage, config.run, store),
        evaluation=evaluation,
        evaluate_epochs=period,
        best_metric=config.best,
        save_result=lambda folder, task: save_encoder(folder / ENCODER_FOLDER, task.encoder),
    )


def _require_flow(recipe: Recipe, store: FrameReader) -> None:
    names = [stage.name for stage in recipe.stages if stage.stream == "flow"]
    if names and store.settings.flow == "none":
        raise ViccError(
            f"The stages {', '.join(names)} see flow, and the store {store.path} was prepared without it (--flow "
            "none). Give --motion diff, or prepare another store with flow."
        )


def _say_speed(recipe: Recipe, folder: VideoFolder, videos: list[Video]) -> None:
    """What decoding on the fly costs: measured, with all streams of the recipe in the clips of its last stage."""
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
        )

    rates = measure_loading(folder, videos, new_dataset)
    measured = "" if rates is None else f"{rates}, with {' and '.join(streams)}; "
    say(f"decoding on the fly: {measured}make a store with: vicc prepare {folder.path} --store STORE")


def _planned(config: PretrainConfig) -> Division[VideoFile]:
    """How the files of a folder would be divided, were all of them readable."""
    place = config.videos
    assert place is not None  # the config refuses neither a store nor videos
    files, official = list_videos(place, silent=not config.dry_run)
    if official is not None and config.split is None:
        return require_enough(divide_by_table(files, official, 1, name=f"{OFFICIAL}:1"), config)
    return require_enough(divide_videos(files, config.split, splits_folder=config.run / SPLITS_FOLDER), config)
