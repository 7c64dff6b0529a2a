"""Clips of a store as batches. Every sample is a pure function of (seed, epoch, video id, view).

So it does not matter which worker or rank loads a sample, and a run that resumes in mid-epoch sees what a run that
never stopped would have seen.
"""

import hashlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from vicc.batch import Batch, Stream
from vicc.data.frame_reader import FrameReader
from vicc.data.loading_limits import is_too_few_files, prefetched_batches, share_from_worker, too_few_files
from vicc.data.sampling import ViewDistance, random_clips
from vicc.data.store import Video
from vicc.errors import ViccError
from vicc.transforms.augmentation import (
    Augmentation,
    ViewDraw,
    apply_to_flow,
    apply_to_flow_image,
    apply_to_rgb,
    draw_sample,
    draw_view,
)
from vicc.transforms.difference import apply_to_diff, frames_of_diff
from vicc.transforms.flow_form import FlowForm

_SECONDS_BETWEEN_LOOKS = 5.0  # at workers that give nothing
_LOOKS_BEFORE_HANG = 240  # 20 minutes
Key = tuple[int, int]  # (epoch, position of the video)
Clips = dict[Stream, np.ndarray]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Sample:
    """One video of a batch.

    Attributes:
        index: position of the video in the dataset.
        clips: uint8 (V, T, size, size, C) a stream.
        small_clips: the same for each group of small views.
        label, source: see `Batch`; label is None where a video of the dataset has none.
    """

    index: int
    clips: Clips
    small_clips: tuple[Clips, ...]
    label: int | None
    source: int


@dataclass(frozen=True)
class _View:
    """One view of a sample: which of its moments, cut how, to how many pixels."""

    moment: int
    draw: ViewDraw
    size: int


class ClipDataset(Dataset[Sample]):
    """Random clips of the videos of a store.

    Small views show the moments of the full ones in turn, the first small view that of the first, each through a crop
    of its own.

    Args:
        store: where frames come from.
        videos: the videos of an epoch, in a fixed order.
        streams: streams to load; all get the same moments and crops.
        num_views, clip_frames, stride, size: shape of a sample, (V, T, size, size, C) a stream.
        distance: how far apart the clips of a video lie, see `random_clips`.
        augmentation: how views are drawn.
        seed: start of the random streams.
        small_views: (views, pixels) of each group of small views.
        small_streams: streams of small views.
        flow_form: the form of flow that the encoder takes; None for the stored one.

    Raises:
        ViccError: `augmentation.flow_as_image` with flow that is no image.
    """

    def __init__(
        self,
        store: FrameReader,
        videos: Sequence[Video],
        *,
        streams: Sequence[Stream],
        num_views: int,
        clip_frames: int,
        stride: int,
        size: int,
        distance: ViewDistance,
        augmentation: Augmentation,
        seed: int,
        small_views: Sequence[tuple[int, int]] = (),
        small_streams: Sequence[Stream] = (),
        flow_form: FlowForm | None = None,
    ) -> None:
        channels = "uv" if flow_form is None else flow_form.channels
        if "flow" in streams and augmentation.flow_as_image and channels == "uv":
            raise ViccError(
                "augmentation.flow_as_image changes the colours of (128, v, u), and the flow encoder takes uv; set "
                "flow_channels=128vu for the stage that trains it, or augmentation.flow_as_image=false."
            )
        self.store = store
        self.videos = list(videos)
        self.streams = tuple(streams)
        self.num_views = num_views
        self.clip_frames = clip_frames
        self.size = size
        self.augmentation = augmentation
        self.seed = seed
        self.small_views = tuple(small_views)
        self.small_streams = tuple(small_streams)
        self.flow_form = flow_form
        labels = [video.label for video in self.videos]
        self.labels = None if None in labels else _numbered(labels)
        # A video without a group is a recording of its own, whatever groups are called.
        self.sources = _numbered([(video.group is None, video.group or video.id) for video in self.videos])
        self._clips: Callable[..., np.ndarray] = partial(
            random_clips, num_views=num_views, clip_frames=clip_frames, stride=stride, distance=distance
        )

    def __len__(self) -> int:
        return len(self.videos)

    @property
    def sample_bytes(self) -> int:
        """Bytes of the clips of one video."""
        full = self.num_views * self.size**2
        small = sum(count * pixels**2 for count, pixels in self.small_views)
        channels = 2 if self.flow_form is None else self.flow_form.num_channels
        total = 0
        for stream in self.streams:
            pixels = full + small * (stream in self.small_streams)
            total += pixels * (3 if stream != "flow" else channels)
        return total * self.clip_frames

    def __getitem__(self, key: Key) -> Sample:
        epoch, position = key
        video = self.videos[position]
        moments = self._clips(video.num_frames - 1, rng=sample_rng(self.seed, epoch, video.id))
        groups = self._draw(video, epoch)
        clips: list[Clips] = [{} for _ in groups]
        try:
            for stream in self.streams:
                wanted = groups if stream in self.small_streams else groups[:1]
                for group, views in zip(clips, self._cut(video, stream, moments, wanted), strict=False):
                    group[stream] = views
        except (ValueError, cv2.error) as error:
            raise ViccError(f"Cannot make a clip of {video.id!r}: {error}.") from error
        label = None if self.labels is None else self.labels[position]
        return Sample(position, clips[0], tuple(clips[1:]), label, self.sources[position])

    def _draw(self, video: Video, epoch: int) -> list[list[_View]]:
        """The full views, then each group of small ones."""
        sizes = [(self.num_views, self.size), *self.small_views]
        total = sum(count for count, _ in sizes)
        sample = draw_sample(
            self.augmentation,
            num_views=self.num_views,
            num_small_views=total - self.num_views,
            rng=sample_rng(self.seed, epoch, video.id, part=1),
        )
        draws = (
            draw_view(
                self.augmentation,
                height=video.height,
                width=video.width,
                rng=sample_rng(self.seed, epoch, video.id, number),
                strong=sample.strong[number],
                small=number >= self.num_views,
            )
            for number in range(total)
        )
        moments = (0 if sample.same_clip else number % self.num_views for number in range(total))
        return [[_View(next(moments), next(draws), size) for _ in range(count)] for count, size in sizes]

    def _cut(
        self, video: Video, stream: Stream, moments: np.ndarray, groups: Sequence[list[_View]]
    ) -> list[np.ndarray]:
        """Views of one stream, uint8 (V, T, size, size, C) a group; frames of a moment are read once."""
        needed = sorted({view.moment for views in groups for view in views})
        frames = {moment: _read(self.store, video, stream, moments[moment]) for moment in needed}
        return [
            np.stack(
                [
                    _cut_view(
                        self.store,
                        video,
                        stream,
                        frames[view.moment],
                        moments[view.moment],
                        view.draw,
                        size=view.size,
                        flow_center=self.augmentation.flow_center,
                        flow_form=self.flow_form,
                    )
                    for view in views
                ]
            )
            for views in groups
        ]


def load_view(
    store: FrameReader,
    video: Video,
    stream: Stream,
    numbers: np.ndarray,
    draw: ViewDraw,
    *,
    size: int,
    flow_center: bool,
    flow_form: FlowForm | None = None,
) -> np.ndarray:
    """Read the frames `numbers` of one stream and cut the view `draw` out of them: uint8 (T, size, size, C).

    Args:
        flow_form: the form that flow is to have; None for the stored one.
    """
    return load_views(store, video, stream, numbers, [draw], size=size, flow_center=flow_center, flow_form=flow_form)[0]


def load_views(
    store: FrameReader,
    video: Video,
    stream: Stream,
    numbers: np.ndarray,
    draws: Sequence[ViewDraw],
    *,
    size: int,
    flow_center: bool,
    flow_form: FlowForm | None = None,
) -> list[np.ndarray]:
    """Several views of the same frames, which are read once; see `load_view`."""
    frames = _read(store, video, stream, numbers)
    return [
        _cut_view(store, video, stream, frames, numbers, draw, size=size, flow_center=flow_center, flow_form=flow_form)
        for draw in draws
    ]


def _read(store: FrameReader, video: Video, stream: Stream, numbers: np.ndarray) -> np.ndarray:
    """The stored frames that frames `numbers` of a stream are made of."""
    if stream == "diff":
        return store.frames(video.id, "rgb", frames_of_diff(numbers).tolist())
    return store.frames(video.id, stream, numbers.tolist())


def _cut_view(
    store: FrameReader,
    video: Video,
    stream: Stream,
    frames: np.ndarray,
    numbers: np.ndarray,
    draw: ViewDraw,
    *,
    size: int,
    flow_center: bool,
    flow_form: FlowForm | None,
) -> np.ndarray:
    if stream == "rgb":
        return apply_to_rgb(frames, draw, size=size)
    if stream == "diff":
        return apply_to_diff(frames, numbers, draw, size=size)
    bound = store.settings.flow_bound
    view = apply_to_flow(frames, draw, size=size, bound=bound, center=flow_center)
    if flow_form is not None:
        view = flow_form.convert(view, bound=bound, short_side=min(video.height, video.width))
    return apply_to_flow_image(view, draw) if draw.flow_as_image else view


def _numbered(names: Sequence[Any]) -> list[int]:
    """Each name's place among the different names, sorted."""
    place = {name: number for number, name in enumerate(sorted(set(names)))}
    return [place[name] for name in names]


def sample_rng(seed: int, epoch: int, video_id: str, view: int | None = None, *, part: int = 0) -> np.random.Generator:
    """The random stream of one sample (which moments), or of one of its views (which crop, which colours).

    Of a sample, part 1 says which views are strong.
    """
    name = int.from_bytes(hashlib.blake2b(video_id.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
    return np.random.default_rng([seed, epoch, name, 0 if view is None else view + 1, *([part] if part else [])])


class EpochBatches(Sampler[list[Key]]):
    """Batches of one rank from a step of the stage to its end, epoch after epoch, each epoch in its own order.

    The videos left over when an epoch does not divide into whole global batches wait for the next epoch's order. All
    ranks draw the same order and take disjoint parts of each global batch, so they make equally many steps.

    Args:
        num_videos: size of the dataset.
        batch_size: videos a rank and step.
        first_step, last_step: steps of the stage, counted over epochs from 0; the last is not included.
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
        """What this rank loads for a step."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        order = self._order  # by a name of our own: the watchdog asks from another thread
        if order is None or order[0] != epoch:
            order = self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(self.num_videos))
        begin = (step_in_epoch * self.world_size + self.rank) * self.batch_size
        return [(epoch, int(position)) for position in order[1][begin : begin + self.batch_size]]


class ClipLoader:
    """Batches in their order; iterate over it once. One iterator runs through all epochs, so workers start once.

    Args:
        workers: processes that load; 0 loads in this one. The batches are the same whatever their number.
        start_method: how the workers start; None for the platform's own.

    Raises:
        ViccError: too little shared memory for the batches of the workers, or too few files that may be open; on
            iteration, a video that cannot be read (the message names it), or a worker that has died or could not hand
            over what it loaded.
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
            # Its own: the start of an iterator would draw from torch's random stream, which a resume must find unused.
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
        """Those of them that are being loaded at this moment; all if none is."""
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
    """Say in a sentence that a loader's worker has died: torch raises that wherever this process is, by a signal.

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
    """Items of any dataset in the order of `keys`, made by so many processes; 0 makes them in this one.

    Args:
        item_bytes: the most that an item's tensors take, if that is known, to see whether they can be handed over.
        name_of: what the items of a key are called, for an error.

    Raises:
        ViccError: on iteration, what the dataset raised, a worker that has died, could not hand over what it made or
            has made nothing for 20 minutes, too little shared memory or too few open files for the workers.
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
    """A dataset whose mistakes are results: torch would hand an error of a worker on as text, traceback and all."""

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
        # Which video each process is loading, -1 for none; in shared memory, since a process that hangs cannot tell.
        # Without workers there need be no such memory.
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
        source=torch.tensor([sample.source for sample in samples]),
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
        # Slurm sends it to every process of a job. torch lets a worker die of it, and with it the run, before the
        # main process has written its checkpoint. A worker that hangs is Slurm's to kill.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(1)
