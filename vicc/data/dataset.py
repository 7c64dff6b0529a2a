"""Clips of a store as batches. Every sample is a pure function of (seed, epoch, video id, view).

So it does not matter which worker or rank loads a sample, and a run that resumes in mid-epoch sees what a run that
never stopped would have seen.
"""

import hashlib
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from vicc.batch import Batch, Stream
from vicc.data.sampling import ViewDistance, random_clips
from vicc.data.store import Store, Video
from vicc.errors import ViccError
from vicc.transforms.augmentation import Augmentation, ViewDraw, apply_to_flow, apply_to_rgb, draw_view

Key = tuple[int, int]  # (epoch, position of the video)
Sample = tuple[int, dict[Stream, np.ndarray]]


class ClipDataset(Dataset[Sample]):
    """Random clips of the videos of a store.

    Args:
        store: where frames come from.
        videos: the videos of an epoch, in a fixed order.
        streams: streams to load; all get the same moments and crops.
        num_views, clip_frames, stride, size: shape of a sample, (V, T, size, size, C) a stream.
        distance: how far apart the clips of a video lie, see `random_clips`.
        augmentation: how views are drawn.
        seed: start of the random streams.
    """

    def __init__(
        self,
        store: Store,
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
    ) -> None:
        self.store = store
        self.videos = list(videos)
        self.streams = tuple(streams)
        self.size = size
        self.augmentation = augmentation
        self.seed = seed
        self._clips: Callable[..., np.ndarray] = partial(
            random_clips, num_views=num_views, clip_frames=clip_frames, stride=stride, distance=distance
        )

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: Key) -> Sample:
        epoch, position = key
        video = self.videos[position]
        numbers = self._clips(video.num_frames - 1, rng=sample_rng(self.seed, epoch, video.id))
        draws = [
            draw_view(
                self.augmentation,
                height=video.height,
                width=video.width,
                rng=sample_rng(self.seed, epoch, video.id, view),
            )
            for view in range(len(numbers))
        ]
        try:
            clips = {
                stream: np.stack(
                    [self._view(video, stream, view, draw) for view, draw in zip(numbers, draws, strict=True)]
                )
                for stream in self.streams
            }
        except (ValueError, cv2.error) as error:
            raise ViccError(f"Cannot make a clip of {video.id!r}: {error}.") from error
        return position, clips

    def _view(self, video: Video, stream: Stream, numbers: np.ndarray, draw: ViewDraw) -> np.ndarray:
        return load_view(
            self.store,
            video,
            stream,
            numbers,
            draw,
            size=self.size,
            flow_center=self.augmentation.flow_center,
        )


def load_view(
    store: Store,
    video: Video,
    stream: Stream,
    numbers: np.ndarray,
    draw: ViewDraw,
    *,
    size: int,
    flow_center: bool,
) -> np.ndarray:
    """Read the frames `numbers` of one stream and cut the view `draw` out of them: uint8 (T, size, size, C)."""
    frames = store.frames(video.id, stream, numbers.tolist())
    if stream == "rgb":
        return apply_to_rgb(frames, draw, size=size)
    return apply_to_flow(frames, draw, size=size, bound=store.settings.flow_bound, center=flow_center)


def sample_rng(seed: int, epoch: int, video_id: str, view: int | None = None) -> np.random.Generator:
    """The random stream of one sample (which moments), or of one of its views (which crop, which colours)."""
    name = int.from_bytes(hashlib.blake2b(video_id.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
    return np.random.default_rng([seed, epoch, name, 0 if view is None else view + 1])


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

    @property
    def steps_per_epoch(self) -> int:
        return self.num_videos // (self.batch_size * self.world_size)

    def __len__(self) -> int:
        return self.last_step - self.first_step

    def __iter__(self) -> Iterator[list[Key]]:
        order_of: tuple[int, np.ndarray] | None = None
        for step in range(self.first_step, self.last_step):
            epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
            if order_of is None or order_of[0] != epoch:
                order_of = (epoch, np.random.default_rng([self.seed, epoch]).permutation(self.num_videos))
            begin = (step_in_epoch * self.world_size + self.rank) * self.batch_size
            yield [(epoch, int(position)) for position in order_of[1][begin : begin + self.batch_size]]


def clip_loader(
    dataset: ClipDataset, batches: EpochBatches, *, workers: int, pin_memory: bool = False
) -> DataLoader[Batch]:
    """A loader of `Batch`es; one iterator runs through all remaining epochs, so workers start once."""
    return DataLoader(
        dataset,  # type: ignore[arg-type] # the annotation does not know that collate_fn changes the type
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        prefetch_factor=4 if workers else None,
        # Its own, or every start of an iterator would draw from torch's random stream, which a resume must find unused.
        generator=torch.Generator(),
    )


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples to a batch; channels move to their place as a view, so they stay last in memory."""
    return Batch(
        clips={
            stream: torch.from_numpy(np.stack([clips[stream] for _, clips in samples])).permute(0, 1, 5, 2, 3, 4)
            for stream in samples[0][1]
        },
        index=torch.tensor([position for position, _ in samples]),
    )


def _start_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    cv2.setNumThreads(1)
