"""`vicc prepare`: decode, shrink, compute flow, encode, store. Parallel over videos, resumable, all or nothing."""

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np

from vicc.configs import PrepareConfig
from vicc.data.frame_pack import FrameEncoder, StoredStream
from vicc.data.maintenance import publish_store, stage_store
from vicc.data.official_splits import with_official_splits
from vicc.data.remote import cache_folder
from vicc.data.sources import VideoSource, discover_videos, file_id
from vicc.data.splits import OFFICIAL, SPLITS_FOLDER, SplitTable, add_to_split_table
from vicc.data.store import SetAside, Source, Store, StoreSettings, StoreWriter, Video, store_exists
from vicc.errors import ViccError
from vicc.files import exclusive_folder, hash_file
from vicc.places import is_url
from vicc.prepare.engines import Engine, run_locally
from vicc.prepare.segments import SEGMENTS_FILE, cut_sources
from vicc.prepare.workers import decoder_guard
from vicc.progress import progress, say
from vicc.settings import takes_settings
from vicc.video.decode import VideoReader, shrink
from vicc.video.flow import create_flow, quantize_flow

Packs = dict[StoredStream, bytes]
Result = tuple[Video, Packs] | SetAside


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare_videos` did. Counts of videos; `set_aside` and `notes` cover the whole store."""

    store: str
    found: int
    prepared: int
    already_there: int
    set_aside: list[SetAside]
    notes: dict[str, str]
    frames: int
    store_bytes: int
    labels: list[str]


@takes_settings(PrepareConfig)
def prepare_videos(config: PrepareConfig) -> PrepareReport:
    """Prepare every video of a folder, file or list that the store does not hold yet, or every part of them.

    Raises:
        ViccError: no videos, a store with other settings or of a newer format, a store in use, a full disk.
    """
    sources = discover_videos(config.videos, groups=config.groups)
    sources, official = with_official_splits(config.videos, sources, given=config.official_splits)
    if config.shard is None:
        return _prepare(config, sources, official)
    number, parts = map(int, config.shard.split("/"))
    part = f"{str(config.store).rstrip('/')}.part-{number:0{len(str(parts))}d}-of-{parts}"
    # There may be no videos for it, if there are fewer than parts.
    report = _prepare(replace(config, store=part), sources[number - 1 :: parts], official)
    if not config.dry_run:
        say(
            f"part {number} of {parts} is in {part}; once all are there: "
            f"vicc store merge {config.store}.part-*-of-{parts} --store {config.store}"
        )
    return report


def _prepare(config: PrepareConfig, sources: list[VideoSource], official: SplitTable | None) -> PrepareReport:
    settings = store_settings(config)
    if config.dry_run:
        return _plan(config, sources)
    if isinstance(config.store, str) and is_url(config.store):
        return _prepare_remote(config, config.store, sources, official)
    folder = Path(config.store)
    if store_exists(folder):
        Store(folder).close()  # a newer format or another kind of folder is refused before anything is touched
    elif folder.exists() and (not folder.is_dir() or any(_visible(folder))):
        raise ViccError(f"{folder} exists and is not a store. Give a new folder, or an existing store to add to.")
    with exclusive_folder(folder, what="store"):
        writer = StoreWriter(folder, settings, shard_bytes=config.shard_mb << 20)
        try:
            if official is not None:
                # Of all videos, whatever the shard: the parts of a store then agree.
                add_to_split_table(folder / SPLITS_FOLDER / f"{OFFICIAL}.csv", official)
            if config.engine == "ray":
                # Workers of other nodes start in folders of their own.
                sources = [replace(source, path=source.path.absolute()) for source in sources]
            sources = cut_sources(
                sources,
                segment_seconds=config.segment_seconds,
                shots=config.shots,
                memory=folder / SEGMENTS_FILE,
                engine=_engine(config, len(sources)),
            )
            todo = [source for source in sources if not writer.has(source.id, _stat_or_none(source.path))]
            prepare = _prepare_on_node if config.engine == "ray" else prepare_video
            work = partial(prepare, settings=settings, min_frames=config.min_frames)
            running = _engine(config, len(todo))(work, todo, died=_set_aside, size_of=_size)
            with (
                progress("prepare", total=len(sources), start=len(sources) - len(todo), unit="videos") as advance,
                closing(running) as results,  # stopped here, its processes end at once
            ):
                for source, result in results:
                    if isinstance(result, SetAside):
                        writer.put_aside(result)
                        say(f"set aside {result.id}: {result.reason}")
                    else:
                        writer.add(*result)
                        if result[0].note:
                            say(f"note on {source.id}: {result[0].note}")
                    advance(1, source.id)
        finally:
            writer.close()
    return _report(config, folder, found=len(sources), prepared=len(todo))


def _prepare_remote(
    config: PrepareConfig, url: str, sources: list[VideoSource], official: SplitTable | None
) -> PrepareReport:
    """Prepare in a local folder, which is kept, and copy it to the URL when all is done."""
    folder = stage_store(url)
    say(f"preparing in {folder}; copied to {url} at the end")
    report = _prepare(replace(config, store=folder), sources, official)
    publish_store(folder, url)
    return replace(report, store=url)


def store_settings(config: PrepareConfig) -> StoreSettings:
    """What a store made with these flags says of itself."""
    quality, flow_quality = (23, 0) if config.codec == "h264" else (90, 90)
    return StoreSettings(
        config.short_side,
        config.flow,
        config.flow_bound,
        config.flow_at,
        config.codec,
        quality if config.quality is None else config.quality,
        flow_quality if config.flow_quality is None else config.flow_quality,
        config.fps,
        segment_seconds=config.segment_seconds,
        shots=config.shots,
    )


def _report(config: PrepareConfig, folder: Path, *, found: int, prepared: int) -> PrepareReport:
    store = Store(folder)
    if not store.videos and config.shard is None:
        reasons = "; ".join(f"{entry.id}: {entry.reason}" for entry in store.set_aside[:3])
        raise ViccError(f"None of the {found} files could be prepared ({reasons}). Check that they are videos.")
    return PrepareReport(
        store=str(folder),
        found=found,
        prepared=prepared,
        already_there=found - prepared,
        set_aside=store.set_aside,
        notes={video.id: video.note for video in store.videos if video.note},
        frames=sum(video.num_frames for video in store.videos),
        store_bytes=sum(file.stat().st_blocks * 512 for file in folder.glob("shard-*.lmdb")),
        labels=sorted({video.label for video in store.videos if video.label}),
    )


def _plan(config: PrepareConfig, sources: list[VideoSource]) -> PrepareReport:
    known = {video.id for video in Store(config.store).videos} if store_exists(config.store) else set()
    done = known | {file_id(name) for name in known}
    todo = [source for source in sources if source.id not in done]
    size = sum(_stat_or_none(path).bytes for path in {source.path for source in todo}) / 1e6
    cut = ", cut into parts" if config.segment_seconds is not None or config.shots else ""
    say(f"would prepare {len(todo)} of {len(sources)} videos ({size:.1f} MB){cut} into {config.store}")
    remote = isinstance(config.store, str) and is_url(config.store)
    folder = (cache_folder() if remote else Path(config.store)).absolute()
    parent = next(place for place in (folder, *folder.parents) if place.exists())
    say(f"free space there: {shutil.disk_usage(parent).free / 1e9:.1f} GB")
    labels = sorted({source.label for source in sources if source.label})
    return PrepareReport(str(config.store), len(sources), 0, len(sources) - len(todo), [], {}, 0, 0, labels)


def _engine(config: PrepareConfig, num_todo: int) -> Engine:
    if config.engine == "ray":
        from vicc.prepare.ray_engine import run_on_ray  # Ray is an extra

        return partial(run_on_ray, address=config.ray_address, workers=config.workers)
    return partial(run_locally, workers=min(config.workers or os.cpu_count() or 1, max(1, num_todo)))


def _set_aside(source: VideoSource, reason: str) -> Result:
    return SetAside(source.id, reason, _stat_or_none(source.path))


def _size(result: Result) -> int:
    return 0 if isinstance(result, SetAside) else sum(map(len, result[1].values()))


def _prepare_on_node(source: VideoSource, settings: StoreSettings, min_frames: int) -> Result:
    """`prepare_video` on a machine that may lack the file that the main process has seen."""
    if not source.path.exists():
        # The source is none, so that the next run tries again.
        reason = f"the node {platform.node()} has no file {source.path}: all nodes must see the videos at this path"
        return SetAside(source.id, reason, Source(0, 0))
    return prepare_video(source, settings, min_frames)


def prepare_video(source: VideoSource, settings: StoreSettings, min_frames: int) -> Result:
    """Decode one file into encoded frames and flow; memory holds two frames and the encoded result."""
    try:
        stat = _stat(source.path)
    except OSError as error:
        return SetAside(source.id, f"cannot be read ({error.strerror})", Source(0, 0))
    reader = VideoReader(
        source.path,
        short_side=settings.short_side if settings.flow_at == "store" else None,
        start=source.start,
        end=source.end,
        frames_per_second=settings.frames_per_second,
        guard=decoder_guard,
    )
    try:
        rgb, flow, (height, width) = _encode_streams(reader, settings)
    except (ViccError, OSError) as error:
        return SetAside(source.id, str(error), stat)
    num_frames = len(rgb)
    if num_frames < min_frames:
        reason = f"{num_frames} frame{'s' if num_frames != 1 else ''}, fewer than {min_frames} (--min-frames)"
        return SetAside(source.id, f"{reason}; {reader.note}" if reader.note else reason, stat)
    video = Video(
        id=source.id,
        num_frames=num_frames,
        height=height,
        width=width,
        frames_per_second=reader.frames_per_second,
        source=Source(stat.bytes, stat.modified_ns, _hash_once(source.path, stat)),
        label=source.label,
        group=source.group,
        split=source.split,
        note=reader.note,
    )
    packs: Packs = {"rgb": rgb.to_bytes()}
    if settings.flow != "none":
        packs["flow"] = flow.to_bytes()
    return video, packs


def _encode_streams(reader: VideoReader, settings: StoreSettings) -> tuple[FrameEncoder, FrameEncoder, tuple[int, int]]:
    """Both streams and the size of their frames, (height, width)."""
    compute_flow = create_flow("tvl1" if settings.flow == "tvl1" else "dis")
    rgb = FrameEncoder("rgb", codec=settings.codec, quality=settings.quality)
    flow = FrameEncoder(
        "flow",
        codec=settings.codec,
        quality=settings.flow_quality,
        bound=settings.flow_bound,
        method=settings.flow,
        at=settings.flow_at,
    )
    native = settings.flow_at == "native"
    previous: np.ndarray | None = None
    size = (0, 0)
    for frame in reader:
        if previous is not None and frame.shape[:2] != previous.shape:
            # Some files change their size on the way; clips need one size.
            frame = cv2.resize(frame, previous.shape[::-1], interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        stored = shrink(frame, settings.short_side) if native else frame
        size = stored.shape[0], stored.shape[1]
        rgb.add(stored)
        if previous is not None and settings.flow != "none":
            flow.add(quantize_flow(_resize_flow(compute_flow(previous, grey), size), bound=settings.flow_bound))
        previous = grey
    return rgb, flow, size


def _resize_flow(flow: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Flow (H, W, 2) at another size (height, width), its displacements in pixels of that size."""
    height, width = flow.shape[:2]
    if (height, width) == size:
        return flow
    scale = np.array((size[1] / width, size[0] / height), np.float32)
    return cv2.resize(flow, size[::-1], interpolation=cv2.INTER_AREA) * scale


def _stat(path: Path) -> Source:
    stat = path.stat()
    return Source(stat.st_size, stat.st_mtime_ns)


def _stat_or_none(path: Path) -> Source:
    try:
        return _stat(path)
    except OSError:
        return Source(0, 0)  # as of a file that was set aside because it was not there


@lru_cache(maxsize=8)  # the parts of a long file are prepared one after the other
def _hash_once(path: Path, state: Source) -> str:
    return hash_file(path)


def _visible(folder: Path) -> Iterator[Path]:
    return (entry for entry in folder.iterdir() if not entry.name.startswith("."))
