"""What preparing costs and what it gains, measured on a few of the videos at hand."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import cv2

from vicc.cores import usable_cores
from vicc.data.dataset import ClipDataset
from vicc.data.frame_reader import FrameReader
from vicc.data.records import StoreSettings, Video
from vicc.data.store import Store, StoreWriter, store_exists
from vicc.data.video_files import VideoFile, file_id, list_video_files
from vicc.data.video_folder import IndexedVideo, VideoFolder
from vicc.errors import ViccError
from vicc.prepare.build import store_settings
from vicc.prepare.configs import PrepareConfig
from vicc.prepare.video import Packs, encode_streams, file_state, open_video
from vicc.progress import progress
from vicc.transforms.augmentation import Augmentation
from vicc.video.frame_index import IndexedReader

_VIDEOS = 3
_SECONDS = 10.0  # of each video, at most: an hour would take minutes
_SAMPLES = 9

Item = TypeVar("Item")
MakeDataset = Callable[[FrameReader, Sequence[Video]], ClipDataset]


@dataclass(frozen=True)
class LoadingRates:
    """Samples that one process loads in a second, augmentation included, nothing kept in memory
    from earlier ones.
    """

    from_files: float
    from_store: float

    def __str__(self) -> str:
        times = self.from_store / self.from_files
        return (
            f"{self.from_files:.1f} samples/s a process from the files, {self.from_store:.1f} from a store "
            f"({times:.1f} times as many)"
        )


@dataclass(frozen=True)
class PrepareEstimate:
    """What preparing all videos would take, from `videos` of them.

    Attributes:
        seconds: with that many processes.
        store_bytes: size of the store.
        loading: of two clips of 32 frames at 128 pixels, all streams.
    """

    videos: int
    workers: int
    seconds: float
    store_bytes: float
    loading: LoadingRates


def estimate_prepare(config: PrepareConfig) -> PrepareEstimate | None:
    """Prepare the beginnings of a few videos of usual size into a store that is thrown away.

    Returns None if nothing is to be done, or if none of those can be read.

    Raises:
        ViccError: no videos, or a store of another format.
    """
    settings = store_settings(config)
    known = {video.id for video in Store(config.store).videos} if store_exists(config.store) else set()
    done = known | {file_id(name) for name in known}
    found = list_video_files(config.videos, groups=config.groups).files
    if config.shard is not None:
        number, parts = map(int, config.shard.split("/"))
        found = found[number - 1 :: parts]
    files = [file for file in found if file.id not in done and file.path.exists()]
    workers = min(config.workers or usable_cores(), max(1, len(files)))
    with progress("measure", total=_VIDEOS + 1, unit="videos") as advance, _one_thread(), _new_folder() as folder:
        samples = []
        for file in _usual(files, size=lambda file: file.path.stat().st_size):
            sample = _prepare_beginning(file, settings, folder)
            if sample is not None:
                samples.append(sample)
            advance(1, file.id)
        if not samples:
            return None
        entries = [sample.entry for sample in samples]
        rates = _rates(VideoFolder(config.videos, entries, settings=settings), Store(folder), _plain_dataset)
        advance(_VIDEOS + 1 - min(_VIDEOS, len(files)))
    # Parts of one file share its bytes.
    total = sum(path.stat().st_size for path in {file.path for file in files})
    times = total / sum(sample.file_bytes for sample in samples)
    seconds = times * sum(sample.seconds for sample in samples) / workers
    return PrepareEstimate(len(samples), workers, seconds, times * sum(sample.store_bytes for sample in samples), rates)


def measure_loading(folder: VideoFolder, videos: Sequence[Video], make: MakeDataset) -> LoadingRates | None:
    """How fast samples are loaded from files, and how fast they would be from a store; None if it
    cannot be measured.

    Args:
        make: the dataset that is to be loaded, over a reader and some of its videos.
    """
    usual = _usual(videos, size=lambda video: video.num_frames)
    with progress("measure", total=len(usual) + 1, unit="videos") as advance, _one_thread(), _new_folder() as place:
        entries = []
        for video in usual:
            sample = _prepare_beginning(folder.file(video.id), folder.settings, place)
            if sample is not None:
                entries.append(sample.entry)
            advance(1, video.id)
        if not entries:
            return None
        rates = _rates(VideoFolder(folder.path, entries, settings=folder.settings), Store(place), make)
        advance(1)
    return rates


@dataclass(frozen=True)
class _Sample:
    """The beginning of a video, prepared. `file_bytes` is its share of the file."""

    entry: IndexedVideo
    seconds: float
    file_bytes: float
    store_bytes: int


def _prepare_beginning(whole: VideoFile, settings: StoreSettings, folder: Path) -> _Sample | None:
    """Prepare the first seconds of a file into a store; None where that cannot be done: the real
    run says why.
    """
    end = (whole.start or 0) + _SECONDS
    file = replace(whole, end=end if whole.end is None else min(end, whole.end))
    began = time.monotonic()
    reader = open_video(file, settings)
    try:
        rgb, flow, (height, width) = encode_streams(reader, settings)
        packs: Packs = {"rgb": rgb.to_bytes()}
        if settings.flow != "none":
            packs["flow"] = flow.to_bytes()
        spent = time.monotonic() - began
        indexer = IndexedReader(file.path, short_side=settings.short_side, start=file.start, end=file.end)
        index = indexer.index()
        stat = file_state(whole.path)
    except (ViccError, OSError):
        return None
    if min(len(rgb), index.num_frames) < 3:
        return None
    assert reader.info is not None
    shown = len(rgb) / reader.frames_per_second
    length = reader.info.seconds or reader.info.container_seconds
    share = min(1.0, shown / length) if length else 1.0
    video = Video(whole.id, len(rgb), height, width, reader.frames_per_second, stat, whole.label, whole.group)
    writer = StoreWriter(folder, settings)
    writer.add(video, packs)
    writer.close()
    size = sum(map(len, packs.values()))
    in_file = replace(video, num_frames=index.num_frames, height=index.height, width=index.width)
    return _Sample(IndexedVideo(in_file, file, index), spent, share * stat.bytes, size)


def _rates(folder: VideoFolder, store: Store, make: MakeDataset) -> LoadingRates:
    return LoadingRates(*(_rate(make(reader, reader.videos)) for reader in (folder, store)))


def _rate(dataset: ClipDataset) -> float:
    """Samples a second, of each video in turn, nothing kept in memory between them."""
    _ = dataset[0, 0]  # starts what is only started once
    began = time.monotonic()
    for number in range(_SAMPLES):
        if isinstance(dataset.reader, VideoFolder):
            dataset.reader.close()
        _ = dataset[divmod(number, len(dataset))]
    return _SAMPLES / (time.monotonic() - began)


def _plain_dataset(reader: FrameReader, videos: Sequence[Video]) -> ClipDataset:
    """What pretraining on these streams loads for a video by default."""
    return ClipDataset(
        reader,
        videos,
        streams=("rgb",) if reader.settings.flow == "none" else ("rgb", "flow"),
        num_views=2,
        clip_frames=32,
        stride=1,
        size=128,
        distance="any",
        augmentation=Augmentation(),
        seed=0,
    )


def _usual(items: Sequence[Item], *, size: Callable[[Item], float]) -> list[Item]:
    """A few items of about the median size."""
    ranked = sorted(items, key=size)
    first = max(0, (len(ranked) - _VIDEOS) // 2)
    return ranked[first : first + _VIDEOS]


@contextmanager
def _one_thread() -> Iterator[None]:
    """OpenCV as it is in a process that loads: several of them share the cores."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


@contextmanager
def _new_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vicc-measure-") as place:
        yield Path(place) / "store"
