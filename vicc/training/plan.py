"""What a run will take before it has begun: time, memory, disk; and the batch that fits into memory.

Measured with a few steps of the real thing, random weights on random clips.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vicc.batch import Batch, Stream
from vicc.data.dataset import ClipDataset
from vicc.data.loading_limits import prefetched_batches
from vicc.device import (
    Precision,
    available_memory,
    current_memory,
    peak_memory,
    process_cores,
    reset_peak_memory,
)
from vicc.distributed import all_reduce_max, alone, on_first, world_size
from vicc.errors import ViccError
from vicc.files import read_json
from vicc.methods.task import Task
from vicc.progress import say
from vicc.training.build import build_step, untrained_task
from vicc.training.configs import TrainingConfig
from vicc.training.fit import FITTED_FIELDS, changes, fit_to_batch, fit_to_data, largest_batch, round_batch
from vicc.training.run_folder import RECIPE_FILE
from vicc.training.schedule import StageLength, stage_length
from vicc.training.stage import Recipe, Stage
from vicc.training.step import TrainingStep

_SECONDS_TO_MEASURE = 20.0
_SAMPLES = 4
_TOO_SHORT = 2e8  # pixels over a whole run: seconds of work, which measuring would double
_WITHOUT_GRADIENT = 1 / 3  # backward costs about twice as much as forward
_SHARE_OF_MEMORY = 0.8  # the rest is for what measuring two sizes cannot see


@dataclass(frozen=True)
class StepCost:
    """A step's time and memory, as they grow with its videos; of one process.

    Attributes:
        seconds_a_video: without loading.
        fixed_bytes, bytes_a_video: peak memory of the process on a CPU, of the device's on an accelerator.
        checkpoint_bytes, encoder_bytes: on disk; the queue is not in them.
    """

    seconds_a_video: float
    fixed_bytes: float
    bytes_a_video: float
    checkpoint_bytes: int
    encoder_bytes: int

    def peak_bytes(self, batch_size: int) -> int:
        """Memory of a step on so many videos."""
        return round(self.fixed_bytes + self.bytes_a_video * batch_size)


@dataclass(frozen=True)
class StageCost:
    """What a stage takes: `seconds` for `steps` that are left, peak memory of a process, bytes on disk.

    `loading_known` says whether `seconds` counts the loading of clips.
    """

    steps: int
    batch_size: int
    seconds: float
    memory_bytes: int
    disk_bytes: int
    loading_known: bool

    @property
    def texts(self) -> tuple[str, str, str]:
        """Time, memory and disk for people."""
        loading = "" if self.loading_known else " and loading"
        disk = f"{self.disk_bytes / 1e6:,.1f} MB"
        return f"{_about(self.seconds)}{loading}", f"{self.memory_bytes / 2**30:.1f} GiB", disk


@dataclass(frozen=True)
class LoadingCost:
    """How long a process takes to load the clips of a video.

    Attributes:
        first, later: seconds; a video is decoded when it is first read, and later only where the frames of all videos
            do not fit into the memory for them (--cache-mb).
        videos: how many there are.
    """

    first: float
    later: float
    videos: int

    def seconds(self, samples: float) -> float:
        """Of one process that loads so many samples."""
        new = min(samples, self.videos)
        return self.first * new + self.later * (samples - new)


_Measured = tuple[Stage, StepCost, LoadingCost | None]


def measure_step(recipe: Recipe, stage: Stage, precision: Precision, config: TrainingConfig) -> StepCost:
    """Time and memory of a stage's steps, from three of them on two sizes of batch. Exchanges nothing."""
    with alone(), torch.random.fork_rng():
        task = untrained_task(recipe, stage)
        step = _new_step(stage, task, precision, config)
        small = 2 * config.accumulate
        _measure(step, stage, small)  # slower than others, as the first of every size is
        seconds, small_bytes = _measure(step, stage, small)
        large = 3 * config.accumulate
        if seconds < 0.5:  # a small model: what a step costs beside its clips counts
            large = max(large, min(16, stage.length.batch_size))
            _measure(step, stage, large)
        seconds, large_bytes = _measure(step, stage, large)
    a_video = max(0.0, (large_bytes - small_bytes) / (large - small))
    return StepCost(
        seconds_a_video=seconds / large,
        fixed_bytes=large_bytes - a_video * large,
        bytes_a_video=a_video,
        checkpoint_bytes=_nbytes(step.state()),
        encoder_bytes=_nbytes(task.encoder.state_dict()),
    )


def fitted_recipe(
    recipe: Recipe,
    config: TrainingConfig,
    precision: Precision,
    *,
    num_videos: int,
    to_data: bool = False,
    known: dict[str, StepCost] | None = None,
) -> Recipe:
    """The recipe as --batch-size and --fit-to-data (`to_data`) want it, and said what that changes; without them as it
    is.

    What a run has begun with stays. Fields that --set names keep what it says.

    Args:
        known: gets what had to be measured of a stage's steps, so that a plan need not measure it again.

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
    if not (run / RECIPE_FILE).exists():
        return {}
    stages = Recipe.from_json(read_json(run / RECIPE_FILE, what="run description")["recipe"]).stages
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

    On a CPU the memory of two sizes is measured and drawn out to four fifths of what is free; on an accelerator sizes
    are tried.

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
            most = most_that_fit(partial(_fits, recipe, stage, precision, config), most)
        else:
            known[stage.name] = measure_step(recipe, stage, precision, config)
            most = min(most, _drawn_out(known[stage.name]))
        if most < 1 <= num_videos // world_size():
            raise ViccError(
                f"--batch-size auto: not even one video of stage {stage.name} fits into the memory that is free. Give "
                "--checkpoint-activations or shorter clips (--set all.clip_frames=16), or free memory."
            )
        sizes.append(round_batch(max(1, most)))
    agreed = -all_reduce_max(-torch.tensor(sizes))  # the least of all processes
    return {stage.name: int(size) * world_size() for stage, size in zip(recipe.stages, agreed, strict=True)}


def most_that_fit(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits, found by doubling, then by halving what is between; 0 for none."""
    good, size = 0, 1
    while good < most and fits(size):
        good, size = size, min(most, 2 * size)
    bad = size
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


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
        load: gives the clips of a stage, to measure how long they take; None where there is nothing to load from yet.
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


def _about(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:.2g} {unit}"
    return f"about {seconds:.0f} s"


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


def require_loading(stage: Stage, config: TrainingConfig, *, num_videos: int) -> None:
    """See to it that the processes that load clips of a stage can hand them over, before anything else is done.

    Raises:
        ViccError: too little shared memory for their batches, or too few files that may be open.
    """
    batch = stage_length(stage, num_videos, world_size()).batch_size // world_size()
    streams = {stage.stream, *(["flow" if stage.stream != "flow" else "rgb"] if stage.teacher else [])}
    channels = sum(2 if stream == "flow" else 3 for stream in streams)
    full = channels * stage.settings.num_clips * stage.encoder.size**2
    groups = stage.settings.small_resolutions()
    small = (3 if stage.stream != "flow" else 2) * sum(count * pixels**2 for count, pixels in groups)
    prefetched_batches(num_workers(config.workers), batch * stage.encoder.clip_frames * (full + small))


def _new_step(stage: Stage, task: Task, precision: Precision, config: TrainingConfig) -> TrainingStep:
    # Without compiling, which would take minutes here and once more afterwards.
    step = build_step(stage, task, precision, replace(config, compile=False))
    task.train()
    return step


def _measure(step: TrainingStep, stage: Stage, size: int) -> tuple[float, int]:
    """Seconds of a step on `size` random videos, and the peak of memory during it."""
    device = step.precision.device
    batch = _random_batch(step.task, stage, size)
    reset_peak_memory(device)
    began = time.monotonic()
    loss = step(batch, 0, learning_rate=0.0)["loss"]
    loss.item()  # waits for the device
    return time.monotonic() - began, peak_memory(device)


def _random_batch(task: Task, stage: Stage, size: int) -> Batch:
    encoders = [task.encoder] if task.teacher is None else [task.encoder, task.teacher]
    channels = {encoder.config.stream: encoder.config.in_channels for encoder in encoders}

    def clips(streams: Sequence[Stream], views: int, pixels: int) -> dict[Stream, torch.Tensor]:
        shape = (size, views, stage.encoder.clip_frames, pixels, pixels)
        return {
            stream: torch.randint(0, 256, (*shape, channels[stream]), dtype=torch.uint8).permute(0, 1, 5, 2, 3, 4)
            for stream in streams
        }

    numbers = torch.arange(size)
    small = tuple(clips(task.streams[:1], count, pixels) for count, pixels in stage.settings.small_resolutions())
    classes = stage.flat().get("num_classes", size)
    labels = numbers % classes
    return Batch(clips(task.streams, stage.settings.num_clips, stage.encoder.size), numbers, labels, numbers, small)


def _fits(recipe: Recipe, stage: Stage, precision: Precision, config: TrainingConfig, size: int) -> bool:
    """Whether two steps on so many videos fit into an accelerator's memory; the second one holds the momenta."""
    try:
        with alone(), torch.random.fork_rng():
            step = _new_step(stage, untrained_task(recipe, stage), precision, config)
            for _ in range(2):
                _measure(step, stage, size)
    except torch.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
    return True


def _drawn_out(cost: StepCost) -> int:
    """Videos with which the process would take four fifths of what is free now, its share if there are several."""
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    room = _SHARE_OF_MEMORY * available_memory() / sharing + current_memory()
    return max(0, int((room - cost.fixed_bytes) // max(1.0, cost.bytes_a_video)))


def _scaled(measured: list[_Measured], stage: Stage) -> tuple[StepCost, LoadingCost | None]:
    """Of a stage that there was no time to measure: as the last one of its method, or the last one, by its clips."""
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


def measure_loading(dataset: ClipDataset, config: TrainingConfig) -> LoadingCost:
    """Time to load a video's clips in this process, from a few videos in turn, twice."""
    _ = dataset[0, 0]  # starts what is only started once
    numbers = [number % len(dataset) for number in range(1, 1 + _SAMPLES)]
    first, later = (_seconds_a_sample(dataset, [(epoch, number) for number in numbers]) for epoch in (0, 1))
    fits = _decoded_bytes(dataset) <= config.cache_mb << 20
    return LoadingCost(first, min(first, later) if fits else first, len(dataset))


def _seconds_a_sample(dataset: ClipDataset, keys: Sequence[tuple[int, int]]) -> float:
    began = time.monotonic()
    for key in keys:
        _ = dataset[key]
    return (time.monotonic() - began) / len(keys)


def _decoded_bytes(dataset: ClipDataset) -> int:
    """Of all frames of the streams that are read."""
    channels = 3 * bool({"rgb", "diff"} & {*dataset.streams}) + 2 * ("flow" in dataset.streams)
    return sum(video.num_frames * video.height * video.width * channels for video in dataset.videos)


def _nbytes(state: Any) -> int:
    """Bytes of the tensors in a state."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    entries = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(map(_nbytes, entries))
