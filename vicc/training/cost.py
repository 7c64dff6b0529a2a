"""What a step takes: time, memory, disk, loading, measured with a few steps on random weights and
random clips.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from vicc.batch import Batch, Stream
from vicc.data.dataset import ClipDataset
from vicc.device import Precision, peak_memory, reset_peak_memory
from vicc.distributed import alone
from vicc.methods.task import Task
from vicc.training.build import build_step, untrained_task
from vicc.training.configs import TrainingConfig
from vicc.training.stage import Recipe, Stage
from vicc.training.step import TrainingStep

_SAMPLES = 4


@dataclass(frozen=True)
class StepCost:
    """A step's time and memory, as they grow with its videos; of one process.

    Attributes:
        seconds_a_video: without loading.
        fixed_bytes, bytes_a_video: peak memory of the process on a CPU, of the device's on an
            accelerator.
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
    """What a stage takes: `seconds` for `steps` that are left, peak memory of a process, bytes on
    disk.

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
        first, later: seconds; a video is decoded when it is first read, and later only where the
            frames of all videos do not fit into the memory for them (--cache-mb).
        videos: how many there are.
    """

    first: float
    later: float
    videos: int

    def seconds(self, samples: float) -> float:
        """Of one process that loads so many samples."""
        new = min(samples, self.videos)
        return self.first * new + self.later * (samples - new)


def measure_step(recipe: Recipe, stage: Stage, precision: Precision, config: TrainingConfig) -> StepCost:
    """Time and memory of a stage's steps, from three of them on two sizes of batch. Exchanges
    nothing.
    """
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
        checkpoint_bytes=_nbytes(step.state_dict()),
        encoder_bytes=_nbytes(task.encoder.state_dict()),
    )


def step_fits(recipe: Recipe, stage: Stage, precision: Precision, config: TrainingConfig, size: int) -> bool:
    """Whether two steps on so many videos fit into an accelerator's memory; the second one holds
    the momenta.
    """
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
    channels = sum({"rgb": 3, "flow": 2}[stream] for stream in dataset.stored_streams)
    return sum(video.num_frames * video.height * video.width * channels for video in dataset.videos)


def _nbytes(state: Any) -> int:
    """Bytes of the tensors in a state."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    entries = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(map(_nbytes, entries))


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
    labels = numbers % 2  # no classifier has fewer classes
    return Batch(clips(task.streams, stage.settings.num_clips, stage.encoder.size), numbers, labels, numbers, small)


def _about(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:.2g} {unit}"
    return f"about {seconds:.0f} s"
