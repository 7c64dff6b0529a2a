"""The plan of a run: how far its stages are, what is left of them will take, and the batch that
fits into memory.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vicc.data.dataset import ClipDataset
from vicc.data.frame_reader import FrameReader
from vicc.data.loading_limits import prefetched_batches
from vicc.data.records import Video
from vicc.device import Precision, available_memory, choose_precision, current_memory, process_cores
from vicc.distributed import all_reduce_max, on_first, world_size
from vicc.errors import ViccError
from vicc.methods.task import Task
from vicc.progress import say
from vicc.training.build import build_dataset, untrained_task
from vicc.training.checkpoint import CheckpointFolder
from vicc.training.computation import choose_computation, computing
from vicc.training.configs import PretrainConfig, TrainingConfig
from vicc.training.cost import LoadingCost, StageCost, StepCost, measure_loading, measure_step, step_fits
from vicc.training.fit import FITTED_FIELDS, changes, fit_to_batch, fit_to_data, largest_batch, round_batch
from vicc.training.run import Run, is_finished, is_run
from vicc.training.schedule import StageLength, stage_length
from vicc.training.stage import Recipe, Stage

_SECONDS_TO_MEASURE = 20.0
_TOO_SHORT = 2e8  # pixels over a whole run: seconds of work, which measuring would double
_WITHOUT_GRADIENT = 1 / 3  # backward costs about twice as much as forward
_SHARE_OF_MEMORY = 0.8  # the rest is for what measuring two sizes cannot see

_Measured = tuple[Stage, StepCost, LoadingCost | None]


@dataclass(frozen=True)
class StageSummary:
    """A stage of a run: `steps` of `total_steps` are done, each of `batch_size` videos out of
    `videos`.

    The learning rate counts with `schedule_steps`, which are more than `total_steps` where the
    stage has a stop_epoch. What is left would take `cost`, which only a dry run measures. `start` is
    where --start takes its first weights from; None for random ones, and for those of an earlier
    stage.
    """

    name: str
    finished: bool
    steps: int
    total_steps: int
    schedule_steps: int
    videos: int
    batch_size: int
    cost: StageCost | None = None
    start: str | None = None


def fitted_recipe(
    recipe: Recipe,
    config: TrainingConfig,
    precision: Precision,
    *,
    num_videos: int,
    to_data: bool = False,
    known: dict[str, StepCost] | None = None,
) -> Recipe:
    """The recipe changed as --batch-size and --fit-to-data (`to_data`) ask, each change printed;
    without them as it is.

    Values that a run has begun with stay, and so do those of fields that --set names.

    Args:
        known: gets what had to be measured of a stage's steps, so that a plan need not measure it
            again.

    Raises:
        ViccError: --batch-size auto, and not even one video fits into memory.
    """
    if config.batch_size is None and not to_data:
        return recipe
    recorded = on_first(lambda: _recorded(config.run))
    sizes: dict[str, int] = {}
    if config.batch_size == "auto" and not recorded:
        sizes = find_batch_sizes(recipe, precision, config, num_videos=num_videos, known=known)
    stages = []
    for stage in recipe.stages:
        begun = recorded.get(stage.name)
        if begun is not None and config.batch_size in (None, "auto", begun["batch_size"]):
            stages.append(stage.replace(**begun))
            continue
        if config.batch_size is not None:
            size = sizes.get(stage.name, stage.length.batch_size) if config.batch_size == "auto" else config.batch_size
            stage = fit_to_batch(stage, min(size, num_videos // world_size() * world_size()))
        stages.append(fit_to_data(stage, num_videos) if to_data else stage)
    fitted = replace(recipe, stages=tuple(stages)).with_changes(config.set)
    for line in changes(recipe, fitted):
        say(line)
    return fitted


def _recorded(run: Path) -> dict[str, dict[str, Any]]:
    """Of each stage of a run that has begun, the fields that fitting changes."""
    stages = Run(run).stages if is_run(run) else ()
    return {stage.name: {k: v for k, v in stage.flat().items() if k in FITTED_FIELDS} for stage in stages}


def find_batch_sizes(
    recipe: Recipe,
    precision: Precision,
    config: TrainingConfig,
    *,
    num_videos: int,
    known: dict[str, StepCost] | None = None,
) -> dict[str, int]:
    """For each stage the largest batch whose share fits into the memory of every process.

    On a CPU the memory of two sizes is measured and extrapolated to four fifths of what is free; on
    an accelerator sizes are tried.

    Args:
        known: gets the costs that were measured, by the stage's name.

    Raises:
        ViccError: not even one video fits.
    """
    sizes = []
    known = {} if known is None else known
    for stage in recipe.stages:
        most = largest_batch(stage, num_videos) // world_size()
        if precision.device.type == "cuda":
            most = most_that_fit(partial(step_fits, recipe, stage, precision, config), most)
        else:
            known[stage.name] = measure_step(recipe, stage, precision, config)
            most = min(most, _extrapolated(known[stage.name]))
        if most < 1 <= num_videos // world_size():
            raise ViccError(
                f"--batch-size auto: not even one video of stage {stage.name} fits into the memory that is free. Give "
                "--checkpoint-activations or shorter clips (--set all.clip_frames=16), or free memory."
            )
        sizes.append(round_batch(max(1, most)))
    agreed = -all_reduce_max(-torch.tensor(sizes))  # the least of all processes
    return {stage.name: int(size) * world_size() for stage, size in zip(recipe.stages, agreed, strict=True)}


def most_that_fit(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits, found by doubling, then by halving what is
    between; 0 for none.
    """
    good, size = 0, 1
    while good < most and fits(size):
        good, size = size, min(most, 2 * size)
    bad = size
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def stage_summary(config: TrainingConfig, stage: Stage, num_videos: int) -> StageSummary:
    """How far a stage is."""
    folder = config.run / stage.name
    length = stage_length(stage, num_videos, world_size())
    steps = CheckpointFolder(folder).newest_step()
    return StageSummary(
        stage.name,
        is_finished(config.run, stage),
        steps,
        length.steps,
        length.schedule_steps,
        num_videos,
        length.batch_size,
    )


def dry_run(
    recipe: Recipe,
    config: PretrainConfig,
    device: torch.device,
    store: FrameReader | None,
    videos: list[Video],
    *,
    num_videos: int,
) -> list[StageSummary]:
    """How far the stages are, and what is left of them would take; nothing is written.

    Args:
        store: with its training `videos`; None and none of them where only their number is known.
    """
    if config.launcher != "here":
        # Jobs run elsewhere: nothing measured here holds there, and the machine that submits is not
        # for computing.
        if config.batch_size != "auto":
            precision = choose_precision(config.precision, device)
            recipe = fitted_recipe(recipe, config, precision, num_videos=num_videos, to_data=config.fit_to_data)
        return [stage_summary(config, stage, num_videos) for stage in recipe.stages]
    precision, computation = choose_computation(config, device)
    with computing(computation):
        known: dict[str, StepCost] = {}
        recipe = fitted_recipe(
            recipe, config, precision, num_videos=num_videos, to_data=config.fit_to_data, known=known
        )
        costs = stage_costs(recipe, config, precision, store, videos, num_videos=num_videos, known=known)
        summaries = [stage_summary(config, stage, num_videos) for stage in recipe.stages]
        return [replace(summary, cost=costs.get(summary.name)) for summary in summaries]


def announce_costs(
    recipe: Recipe,
    config: TrainingConfig,
    precision: Precision,
    store: FrameReader,
    videos: list[Video],
    *,
    known: Mapping[str, StepCost],
) -> dict[str, StageCost]:
    """Say what a run that is new will take, and return it; empty where measuring would take as long
    as the run.
    """
    if not is_worth_measuring(recipe, num_videos=len(videos)):
        return {}
    costs = stage_costs(recipe, config, precision, store, videos, num_videos=len(videos), known=known)
    for line in describe_costs(costs):
        say(line)
    return costs


def stage_costs(
    recipe: Recipe,
    config: TrainingConfig,
    precision: Precision,
    store: FrameReader | None,
    videos: list[Video],
    *,
    num_videos: int,
    known: Mapping[str, StepCost] | None = None,
) -> dict[str, StageCost]:
    """What the stages that are not finished will take; nothing is written. See `plan_stages`."""
    left = {}
    for stage in recipe.stages:
        summary = stage_summary(config, stage, num_videos)
        left[stage.name] = 0 if summary.finished else summary.total_steps - summary.steps
    lengths = {stage.name: stage_length(stage, num_videos, world_size()) for stage in recipe.stages}

    def load(stage: Stage, task: Task) -> ClipDataset:
        assert store is not None
        return build_dataset(stage, task, store, videos, seed=0)

    return plan_stages(recipe, config, precision, left, lengths, None if store is None else load, known=known)


def plan_stages(
    recipe: Recipe,
    config: TrainingConfig,
    precision: Precision,
    steps_left: dict[str, int],
    lengths: dict[str, StageLength],
    load: Callable[[Stage, Task], ClipDataset] | None,
    *,
    known: Mapping[str, StepCost] | None = None,
) -> dict[str, StageCost]:
    """What each stage takes; the stages without steps left take nothing but their disk.

    Args:
        load: gives the clips of a stage, to measure how long they take; None where there is nothing
            to load from yet.
        known: what was measured before, by the stage's name.
    """
    began = time.monotonic()
    measured: list[_Measured] = []
    costs = {}
    for stage in recipe.stages:
        if not measured or time.monotonic() - began < _SECONDS_TO_MEASURE:
            cost = (known or {}).get(stage.name) or measure_step(recipe, stage, precision, config)
            loading = None if load is None else measure_loading(load(stage, untrained_task(recipe, stage)), config)
            measured.append((stage, cost, loading))
        else:
            cost, loading = _scaled(measured, stage)
        batch_size = lengths[stage.name].batch_size // world_size()
        samples = steps_left[stage.name] * batch_size
        workers = num_workers(config.workers)
        computing = cost.seconds_a_video * samples
        waiting = loading.seconds(samples / max(1, workers)) if loading is not None else 0.0
        checkpoint = cost.checkpoint_bytes + stage.settings.queue_bytes(stage.encoder.embedding_dim, world_size())
        costs[stage.name] = StageCost(
            steps=steps_left[stage.name],
            batch_size=lengths[stage.name].batch_size,
            seconds=computing + waiting if workers == 0 else max(computing, waiting),
            memory_bytes=cost.peak_bytes(batch_size),
            disk_bytes=(config.keep_checkpoints + 1) * checkpoint + cost.encoder_bytes,
            loading_known=loading is not None,
        )
    return costs


def describe_costs(costs: dict[str, StageCost]) -> list[str]:
    """The plan in lines: each stage, then all of them."""
    lines = []
    for name, cost in costs.items():
        seconds, memory, disk = cost.texts
        lines.append(
            f"plan: {name}: {cost.steps:,} steps of {cost.batch_size} videos, {seconds}, {memory} of memory, "
            f"{disk} on disk"
        )
    together = StageCost(
        steps=sum(cost.steps for cost in costs.values()),
        batch_size=0,
        seconds=sum(cost.seconds for cost in costs.values()),
        memory_bytes=max(cost.memory_bytes for cost in costs.values()),
        disk_bytes=sum(cost.disk_bytes for cost in costs.values()),
        loading_known=all(cost.loading_known for cost in costs.values()),
    )
    seconds, memory, disk = together.texts
    lines.append(f"plan: all: {seconds}, at most {memory} of memory a process, {disk} on disk")
    return lines


def is_worth_measuring(recipe: Recipe, *, num_videos: int) -> bool:
    """Whether the run is longer than measuring it."""
    pixels = 0.0
    for stage in recipe.stages:
        length = stage_length(stage, num_videos, world_size())
        pixels += length.steps * length.batch_size * _weight(stage)
    return pixels > _TOO_SHORT


def num_workers(asked: int | None) -> int:
    """Processes that load clips, unless the user says so."""
    # On two cores the model uses both; a loader process beside it only takes turns with it.
    cores = process_cores()
    return asked if asked is not None else (0 if cores <= 2 else min(8, cores - 2))


def require_loading(recipe: Recipe, stage: Stage, config: TrainingConfig, *, num_videos: int) -> None:
    """Check, before anything else is done, that the processes that load the clips of a stage can
    hand them over.

    Raises:
        ViccError: too little shared memory for their batches, or too few files that may be open.
    """
    batch = stage_length(stage, num_videos, world_size()).batch_size // world_size()
    encoders = [stage.encoder, *(other.encoder for other in recipe.stages if other.name == stage.teacher)]
    channels = sum(encoder.in_channels for encoder in encoders)
    full = channels * stage.settings.num_clips * stage.encoder.size**2
    groups = stage.settings.small_resolutions()
    small = stage.encoder.in_channels * sum(count * pixels**2 for count, pixels in groups)
    prefetched_batches(num_workers(config.workers), batch * stage.encoder.clip_frames * (full + small))


def _extrapolated(cost: StepCost) -> int:
    """Videos with which the process would take four fifths of what is free now, its share if there
    are several.
    """
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    room = _SHARE_OF_MEMORY * available_memory() / sharing + current_memory()
    return max(0, int((room - cost.fixed_bytes) // max(1.0, cost.bytes_a_video)))


def _scaled(measured: list[_Measured], stage: Stage) -> tuple[StepCost, LoadingCost | None]:
    """Of a stage that there was no time to measure: as the last one of its method, or the last one,
    by its clips.
    """
    alike = [entry for entry in measured if entry[0].method == stage.method] or measured
    other, cost, loading = alike[-1]
    times = _weight(stage) / _weight(other)
    seconds, memory = cost.seconds_a_video * times, cost.bytes_a_video * times
    return replace(cost, seconds_a_video=seconds, bytes_a_video=memory), loading


def _weight(stage: Stage) -> float:
    """Pixels of a video's clips that a step encodes, those without gradient counted as a third."""
    with_gradient, without = stage.settings.clips_encoded()
    small = stage.settings.small_resolutions()
    full = with_gradient - sum(count for count, _ in small) + _WITHOUT_GRADIENT * without
    pixels_of_small = sum(count * pixels**2 for count, pixels in small)
    return stage.encoder.clip_frames * (full * stage.encoder.size**2 + pixels_of_small)
