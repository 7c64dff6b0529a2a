"""Samples of a dataset as batches, loaded by other processes: in which order, and what goes wrong
there in words.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from vicc.batch import Batch, Stream
from vicc.data.dataset import ClipDataset, Clips, Key, Sample
from vicc.data.loading_limits import is_too_few_files, prefetched_batches, share_from_worker, too_few_files
from vicc.errors import ViccError

_SECONDS_BETWEEN_LOOKS = 5.0  # at workers that give nothing
_LOOKS_BEFORE_HANG = 240  # 20 minutes
Item = TypeVar("Item")


class EpochBatches(Sampler[list[Key]]):
    """Batches of one rank from a step of the stage to its end, epoch after epoch, each epoch in its
    own order.

    Videos left over when an epoch does not divide into whole global batches are left out of that
    epoch. All ranks draw the same order and take disjoint parts of each global batch, so they make
    equally many steps.

    Args:
        num_videos: size of the dataset.
        batch_size: videos a rank and step.
        first_step, last_step: steps of the stage, counted over epochs from 0; the last is not
            included.
    """

    def __init__(
        self,
        num_videos: int,
        batch_size: int,
        *,
        first_step: int,
        last_step: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.num_videos = num_videos
        self.batch_size = batch_size
        self.first_step = first_step
        self.last_step = last_step
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._order: tuple[int, np.ndarray] | None = None  # an epoch and the order of its videos

    @property
    def steps_per_epoch(self) -> int:
        return self.num_videos // (self.batch_size * self.world_size)

    def __len__(self) -> int:
        return self.last_step - self.first_step

    def __iter__(self) -> Iterator[list[Key]]:
        return map(self.batch, range(self.first_step, self.last_step))

    def batch(self, step: int) -> list[Key]:
        """Keys (epoch, video index) of the samples that this rank loads for a step."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        order = self._order  # by a name of our own: the watchdog asks from another thread
        if order is None or order[0] != epoch:
            order = self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(self.num_videos))
        begin = (step_in_epoch * self.world_size + self.rank) * self.batch_size
        return [(epoch, int(position)) for position in order[1][begin : begin + self.batch_size]]


class ClipLoader:
    """Loads batches in their order; iterate over it once. One iterator runs through all epochs, so
    workers start once.

    Args:
        workers: processes that load; 0: this process loads. The batches do not depend on it.
        start_method: how the workers start; None for the platform's own.

    Raises:
        ViccError: too little shared memory for the batches of the workers, or too few files that
            may be open; on iteration, a video that cannot be read (the message names it), or a
            worker that has died or could not hand over what it loaded.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        batches: EpochBatches,
        *,
        workers: int,
        pin_memory: bool = False,
        start_method: Literal["fork", "spawn", "forkserver"] | None = None,
    ) -> None:
        self._batches = batches
        prefetched = prefetched_batches(workers, batches.batch_size * dataset.sample_bytes)
        self._guarded = _Guarded(dataset, workers=workers)
        self._loader = DataLoader(
            self._guarded,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_collate_or_fail,
            pin_memory=pin_memory,
            worker_init_fn=_start_worker,
            prefetch_factor=prefetched,
            multiprocessing_context=start_method if workers else None,
            # Its own: the start of an iterator would draw from torch's random stream, which a
            # resume must find unused.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self._loader)

    def load(self, step: int) -> Batch:
        """The batch of a step, loaded by this process."""
        return collate([self._guarded.dataset[key] for key in self._batches.batch(step)])

    def videos(self, step: int) -> list[str]:
        """Names of the videos in the batch of a step."""
        return [self._guarded.dataset.videos[position].id for _, position in self._batches.batch(step)]

    def loading(self, step: int) -> list[str]:
        """Names of the videos of the batch that are being loaded now; all if none is."""
        at = self._guarded.at.tolist()
        now = [number for number, (_, position) in enumerate(self._batches.batch(step)) if position in at]
        videos = self.videos(step)
        return [videos[number] for number in now] or videos

    def __iter__(self) -> Iterator[Batch]:
        with worker_deaths_named():
            for batch in self._loader:
                if isinstance(batch, ViccError):
                    raise batch
                yield batch


@contextmanager
def worker_deaths_named() -> Iterator[None]:
    """Say in a sentence that a loader's worker has died: torch raises that wherever this process
    is, by a signal.

    Raises:
        ViccError: a worker died within the block, or no more files may be open.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch has no type of its own for it
        if is_too_few_files(error):
            raise too_few_files() from error
        if not str(error).startswith("DataLoader worker"):
            raise
        raise ViccError(
            f"A process that loads clips has died ({' '.join(str(error).split())[:120]}). The usual reason is too "
            "little memory: give fewer --workers or a smaller --cache-mb. The same command continues."
        ) from error


def load_in_order(
    dataset: Dataset[Item],
    keys: Sequence[Any],
    *,
    workers: int,
    pin_memory: bool,
    item_bytes: int = 0,
    name_of: Callable[[Any], str] = str,
) -> Iterator[Item]:
    """Items of any dataset in the order of `keys`, made by so many processes; 0 makes them in this
    one.

    Args:
        item_bytes: the most that an item's tensors take, if that is known, to see whether they can
            be handed over.
        name_of: what the items of a key are called, for an error.

    Raises:
        ViccError: on iteration, what the dataset raised, a worker that has died, could not hand
            over what it made or has made nothing for 20 minutes, too little shared memory or too
            few open files for the workers.
    """
    loader = DataLoader(
        _Caught(dataset),
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        collate_fn=share_from_worker,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        prefetch_factor=None if workers == 0 else min(2, prefetched_batches(workers, item_bytes) or 2),
        timeout=_SECONDS_BETWEEN_LOOKS if workers else 0,
        generator=torch.Generator(),
    )
    with worker_deaths_named():
        items = iter(loader)
        for key in keys:
            item = _next_item(items, partial(name_of, key))
            if isinstance(item, ViccError):
                raise item
            yield item


def _next_item(items: Iterator[Any], name: Callable[[], str]) -> Any:
    """The next item of a loader that returns to us every few seconds.

    It is the looks that are counted, not the time: while this process is stopped it does not look.
    """
    for _ in range(_LOOKS_BEFORE_HANG):
        try:
            return next(items)
        except RuntimeError as error:  # torch has no type of its own for it
            if "DataLoader timed out" not in str(error):
                raise
    raise ViccError(
        f"Processes that load clips have given nothing for {_LOOKS_BEFORE_HANG * _SECONDS_BETWEEN_LOOKS / 60:.0f} "
        f"minutes; next would be {name()}. Look whether its file or disk can be read, or give --workers 0."
    )


class _Caught(Dataset[Any]):
    """A dataset whose mistakes are results: torch would hand an error of a worker on as text,
    traceback and all.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except ViccError as error:
            return error


class _Guarded(Dataset[Sample | ViccError]):
    """Clips whose mistakes are results, as of `_Caught`, and what is being loaded now."""

    def __init__(self, dataset: ClipDataset, *, workers: int) -> None:
        self.dataset = dataset
        self._caught = _Caught(dataset)
        # Which video each process is loading, -1 for none; in shared memory, since a process that
        # hangs cannot tell. Without workers there need be no such memory.
        self.at = torch.full((max(1, workers),), -1)
        if workers:
            self.at.share_memory_()

    def __getitem__(self, key: Key) -> Sample | ViccError:
        worker = get_worker_info()
        place = 0 if worker is None else worker.id
        self.at[place] = key[1]
        try:
            return self._caught[key]
        finally:
            self.at[place] = -1


def _collate_or_fail(samples: Sequence[Sample | ViccError]) -> Batch | ViccError:
    failed = next((sample for sample in samples if isinstance(sample, ViccError)), None)
    return failed or share_from_worker(collate([sample for sample in samples if isinstance(sample, Sample)]))


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples to a batch; channels move to their place as a view, so they stay last in memory."""
    labels = [sample.label for sample in samples if sample.label is not None]
    return Batch(
        clips=_stack([sample.clips for sample in samples]),
        index=torch.tensor([sample.index for sample in samples]),
        label=torch.tensor(labels) if labels else None,
        recording=torch.tensor([sample.recording for sample in samples]),
        small_clips=tuple(_stack(group) for group in zip(*(sample.small_clips for sample in samples), strict=True)),
    )


def _stack(samples: Sequence[Clips]) -> dict[Stream, torch.Tensor]:
    return {
        stream: torch.from_numpy(np.stack([clips[stream] for clips in samples])).permute(0, 1, 5, 2, 3, 4)
        for stream in samples[0]
    }


def _start_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # and so is Slurm's warning
    if "SLURM_JOB_ID" in os.environ:
        # Slurm sends it to every process of a job. torch lets a worker die of it, and with it the
        # run, before the main process has written its checkpoint. A worker that hangs is Slurm's to
        # kill.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(1)
