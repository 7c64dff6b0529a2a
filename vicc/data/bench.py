"""`vicc bench data`: how fast a store feeds training on this machine, and where the time goes."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from vicc.batch import Stream
from vicc.cores import usable_cores
from vicc.data.configs import BenchConfig
from vicc.data.dataset import ClipDataset
from vicc.data.frame_pack import StoredStream
from vicc.data.loader import ClipLoader, EpochBatches
from vicc.data.maintenance import store_info
from vicc.data.store import Store
from vicc.errors import ViccError
from vicc.progress import progress
from vicc.transforms.augmentation import PRESETS
from vicc.transforms.flow_form import FlowForm
from vicc.video.flow import FlowName, create_flow

_ROUNDS = 5


@dataclass(frozen=True)
class Loading:
    """Making samples of some streams in one process.

    Attributes:
        samples_per_second: median over rounds, with the smallest and the largest.
        read, decode, augment: shares of the time, together 1.
    """

    streams: tuple[Stream, ...]
    samples_per_second: tuple[float, float, float]
    read: float
    decode: float
    augment: float


@dataclass(frozen=True)
class DataBench:
    """What `bench_data` measured.

    Attributes:
        loading: one entry for each set of streams.
        clips_per_second_of_a_worker: of all streams together, by number of loader workers.
        flow_frames_per_second: computing flow between stored frames in one process, by method.
        bytes_per_frame: of the store's files, all streams together.
    """

    store: str
    videos: int
    frames: int
    loading: list[Loading]
    clips_per_second_of_a_worker: dict[int, float]
    flow_frames_per_second: dict[FlowName, float]
    bytes_per_frame: float


def bench_data(config: BenchConfig) -> DataBench:
    """Load training samples of a store for some seconds a row; nothing is written.

    Raises:
        ViccError: no such store, one without videos, or one whose files differ from what is asked
            for.
    """
    store = Store(config.store)
    if not store.videos:
        raise ViccError(f"The store {config.store} has no videos: there is nothing to load.")
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with_flow = store.settings.flow != "none"
    motion: Stream = "flow" if with_flow else "diff"
    choices: list[tuple[Stream, ...]] = [("rgb",), (motion,), ("rgb", motion)]
    workers = sorted({1, min(2, usable_cores()), usable_cores()})
    try:
        with progress("bench", total=len(choices) + len(workers) + 2, unit="rows") as advance:
            loading = []
            for streams in choices:
                loading.append(_loading(config, store, streams))
                advance(1, " and ".join(streams))
            by_workers = {}
            for number in workers:
                by_workers[number] = _worker_rate(config, store, ("rgb", motion), number)
                advance(1, f"{number} workers")
            flow: dict[FlowName, float] = {}
            for method in ("dis", "tvl1"):
                flow[method] = _flow_rate(store, method, config.seconds)
                advance(1, method)
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
    frames = sum(video.num_frames for video in store.videos)
    size = sum(store_info(config.store).shards.values())
    return DataBench(str(config.store), len(store.videos), frames, loading, by_workers, flow, size / frames)


def _dataset(config: BenchConfig, store: Store, streams: tuple[Stream, ...]) -> ClipDataset:
    augmentation = PRESETS[config.preset]
    return ClipDataset(
        store,
        store.videos,
        streams=streams,
        num_views=2,
        clip_frames=config.clip_frames,
        stride=1,
        size=config.size,
        distance="any",
        augmentation=augmentation,
        seed=0,
        flow_form=FlowForm("128vu", short_side=240) if augmentation.flow_as_image else None,
    )


class _Timed(Store):
    """A store that notes what is asked of it and how long the answers take."""

    seconds = 0.0
    asked: list[tuple[str, StoredStream, Sequence[int]]]

    def frames(self, video_id: str, stream: StoredStream, frame_indices: Sequence[int]) -> np.ndarray:
        begin = time.perf_counter()
        found = super().frames(video_id, stream, frame_indices)
        self.seconds += time.perf_counter() - begin
        self.asked.append((video_id, stream, frame_indices))
        return found


def _loading(config: BenchConfig, store: Store, streams: tuple[Stream, ...]) -> Loading:
    timed = _Timed(config.store)
    timed.asked = []
    dataset = _dataset(config, timed, streams)
    dataset[0, 0]  # opens files, warms caches
    timed.seconds, timed.asked = 0.0, []
    rates, total, sample = [], 0.0, 0
    for _ in range(_ROUNDS):
        begin, made = time.perf_counter(), 0
        while time.perf_counter() - begin < config.seconds / _ROUNDS:
            dataset[divmod(sample, len(dataset))]
            sample, made = sample + 1, made + 1
        rates.append(made / (time.perf_counter() - begin))
        total += time.perf_counter() - begin
    begin = time.perf_counter()
    for video_id, stream, frame_indices in timed.asked:
        store.read(video_id, stream, frame_indices)
    read = min(time.perf_counter() - begin, timed.seconds)
    rate = statistics.median(rates), min(rates), max(rates)
    return Loading(streams, rate, read / total, (timed.seconds - read) / total, 1 - timed.seconds / total)


def _worker_rate(config: BenchConfig, store: Store, streams: tuple[Stream, ...], workers: int) -> float:
    """Clips a second and worker of a loader with this many, start-up not counted."""
    dataset = _dataset(config, store, streams)
    batch_size = min(4, len(dataset))
    batches = EpochBatches(len(dataset), batch_size, first_step=0, last_step=1 << 30, seed=0)
    loader = iter(ClipLoader(dataset, batches, workers=workers))
    for _ in range(2 * workers):
        next(loader)
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < config.seconds:
        next(loader)
        done += 1
    return done * batch_size * len(dataset.streams) * dataset.num_views / (time.perf_counter() - begin) / workers


def _flow_rate(store: Store, method: FlowName, seconds: float) -> float:
    """Pairs of frames a second, of the longest video."""
    video = max(store.videos, key=lambda video: video.num_frames)
    frames = store.frames(video.id, "rgb", range(min(video.num_frames, 33)))
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    compute = create_flow(method)
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        compute(grey[done % (len(grey) - 1)], grey[done % (len(grey) - 1) + 1])
        done += 1
    return done / (time.perf_counter() - begin)
