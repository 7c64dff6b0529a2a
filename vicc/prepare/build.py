"""`vicc prepare`: decode, shrink, compute flow, encode, store. Parallel over videos, resumable, all or nothing."""

import platform
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vicc.cores import usable_cores
from vicc.data.cache import cache_folder
from vicc.data.frame_pack import FrameEncoder, StoredStream
from vicc.data.maintenance import publish_store, stage_store
from vicc.data.remote import other_files
from vicc.data.splits import OFFICIAL, SPLITS_FOLDER, SplitTable, add_to_split_table
from vicc.data.store import (
    SetAside,
    Source,
    Store,
    StoreSettings,
    StoreWriter,
    Video,
    mark_finished,
    mark_unfinished,
    store_exists,
)
from vicc.data.survey import Survey, survey_videos
from vicc.data.video_files import VideoFile, file_id
from vicc.errors import ViccError
from vicc.files import exclusive_folder, hash_file
from vicc.places import is_url
from vicc.prepare.configs import PrepareConfig
from vicc.prepare.engines import Engine, run_locally
from vicc.prepare.segments import SEGMENTS_FILE, cut_sources
from vicc.prepare.update import Updates, find_updates
from vicc.prepare.workers import decoder_guard
from vicc.progress import progress, say
from vicc.settings import takes_settings
from vicc.video.decode import VideoReader, shrink
from vicc.video.flow import create_flow, no_flow, quantize_flow

Packs = dict[StoredStream, bytes]
Result = tuple[Video, Packs] | SetAside


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare_videos` did. Counts of videos; `set_aside` and `notes` cover the whole store.

    Attributes:
        updated: how many labels, groups and splits of earlier videos are other ones now.
        moved: earlier ids, and those that the same content has now.
        missing: ids in the store that the place does not have.
        changes: the three of them in words.
        survey: of the place that the videos were found in.
    """

    store: str
    found: int
    prepared: int
    already_there: int
    set_aside: list[SetAside]
    notes: dict[str, str]
    frames: int
    store_bytes: int
    labels: list[str]
    updated: dict[str, int] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    survey: Survey | None = None


@takes_settings(PrepareConfig)
def prepare_videos(config: PrepareConfig) -> PrepareReport:
    """Prepare every video of a folder, file or list that the store does not hold yet, or every part of them.

    Raises:
        ViccError: no videos, a store with other settings or of a newer format, a store in use, a full disk.
    """
    found = survey_videos(config.videos, groups=config.groups, official_splits=config.official_splits)
    for note in found.survey.notes:
        say(note)
    return replace(_prepare_shard(config, found.sources, found.official), survey=found.survey)


def _prepare_shard(config: PrepareConfig, sources: list[VideoFile], official: SplitTable | None) -> PrepareReport:
    if config.shard is None:
        return _prepare(config, sources, official, whole=sources)
    number, parts = map(int, config.shard.split("/"))
    part = f"{str(config.store).rstrip('/')}.part-{number:0{len(str(parts))}d}-of-{parts}"
    # There may be no videos for it, if there are fewer than parts.
    report = _prepare(replace(config, store=part), sources[number - 1 :: parts], official, whole=sources)
    if not config.dry_run:
        # A shell finds folders by *, but no URLs.
        numbers = "*" if not is_url(part) else f"{{{1:0{len(str(parts))}d}..{parts}}}"
        say(
            f"part {number} of {parts} is in {part}; once all are there: "
            f"vicc store merge {str(config.store).rstrip('/')}.part-{numbers}-of-{parts} --store {config.store}"
        )
    return report


def _prepare(
    config: PrepareConfig, sources: list[VideoFile], official: SplitTable | None, *, whole: list[VideoFile]
) -> PrepareReport:
    settings = store_settings(config)
    if config.dry_run:
        return _plan(config, sources, whole)
    if isinstance(config.store, str) and is_url(config.store):
        return _prepare_remote(config, config.store, sources, official, whole)
    folder = Path(config.store)
    if store_exists(folder):
        Store(folder).close()  # a newer format or another kind of folder is refused before anything is touched
    elif folder.exists() and (not folder.is_dir() or any(_visible(folder))):
        raise ViccError(f"{folder} exists and is not a store. Give a new folder, or an existing store to add to.")
    with exclusive_folder(folder, what="store"):
        writer = StoreWriter(folder, settings, shard_bytes=config.shard_mb << 20)
        mark_unfinished(folder)
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
            updates = find_updates(writer.entries(), sources, whole=whole, place=config.videos)
            _update(writer, updates)
            todo = [
                source
                for source in sources
                if not writer.has(source.id, _stat_or_none(source.path), min_frames=config.min_frames)
            ]
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
        mark_finished(folder)
    return _report(config, folder, updates, found=len(sources), prepared=len(todo))


def _update(writer: StoreWriter, updates: Updates) -> None:
    """Bring what the store says of its videos up to date; no frame is decoded."""
    writer.restate(updates.restated)
    for old, video in updates.moved.items():
        writer.move(old, video)
    if outdated := [*updates.twice, *updates.superseded]:
        writer.drop(outdated)


def _prepare_remote(
    config: PrepareConfig,
    url: str,
    sources: list[VideoFile],
    official: SplitTable | None,
    whole: list[VideoFile],
) -> PrepareReport:
    """Prepare in a local folder, which is kept, and copy it to the URL when all is done."""
    folder = stage_store(url)
    say(f"preparing in {folder}; copied to {url} at the end")
    report = _prepare(replace(config, store=folder), sources, official, whole=whole)
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


def _report(config: PrepareConfig, folder: Path, updates: Updates, *, found: int, prepared: int) -> PrepareReport:
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
        **_changes(updates, folder),
    )


def _changes(updates: Updates, store: Path | str, *, planned: bool = False) -> dict[str, Any]:
    """The fields of a report that tell what else than new videos there is."""
    return {
        "updated": updates.counts,
        "moved": {old: video.id for old, video in updates.moved.items()} | updates.twice,
        "missing": updates.missing,
        "changes": [*updates.lines(store, planned=planned), *_outdated_splits(updates, store)],
    }


def _outdated_splits(updates: Updates, store: Path | str) -> Iterator[str]:
    names = [Path(name).stem for name in other_files(Path(store))] if "groups" in updates.counts else []
    if made := [name for name in names if name != OFFICIAL]:
        yield (
            f"the splits {', '.join(made)} of {store} were made with the earlier groups: clips of one group may stand "
            "in several folds. Make others with: vicc splits STORE --name NAME"
        )


def _plan(config: PrepareConfig, sources: list[VideoFile], whole: list[VideoFile]) -> PrepareReport:
    records = Store(config.store).records if store_exists(config.store) else {}
    entries = [record.entry for record in records.values()]
    # Into which parts files are to be cut is not known before they are measured: those of the store are taken.
    cut = {file_id(entry.id) for entry in entries if file_id(entry.id) != entry.id}
    lost = cut - {source.id for source in whole}  # renamed or deleted: the real run knows their parts
    updates = find_updates(
        [entry for entry in entries if file_id(entry.id) not in lost],
        [source for source in sources if source.id not in cut],
        whole=whole,
        place=config.videos,
    )
    kept = {video.id for video in updates.moved.values()} | {
        source.id
        for source in sources
        if source.id in records
        and records[source.id].is_final(_stat_or_none(source.path), min_frames=config.min_frames)
    }
    todo = [source for source in sources if source.id not in kept | cut]
    size = sum(_stat_or_none(path).bytes for path in {source.path for source in todo}) / 1e6
    as_parts = ", cut into parts" if config.segment_seconds is not None or config.shots else ""
    say(f"would prepare {len(todo)} of {len(sources)} videos ({size:.1f} MB){as_parts} into {config.store}")
    remote = isinstance(config.store, str) and is_url(config.store)
    folder = (cache_folder() if remote else Path(config.store)).absolute()
    parent = next(place for place in (folder, *folder.parents) if place.exists())
    say(f"free space there: {shutil.disk_usage(parent).free / 1e9:.1f} GB")
    labels = sorted({source.label for source in sources if source.label})
    changes = _changes(updates, config.store, planned=True)
    return PrepareReport(str(config.store), len(sources), 0, len(sources) - len(todo), [], {}, 0, 0, labels, **changes)


def _engine(config: PrepareConfig, num_todo: int) -> Engine:
    if config.engine == "ray":
        from vicc.prepare.ray_engine import run_on_ray  # Ray is an extra

        return partial(run_on_ray, address=config.ray_address, workers=config.workers)
    return partial(run_locally, workers=min(config.workers or usable_cores(), max(1, num_todo)))


def _set_aside(source: VideoFile, reason: str) -> Result:
    return SetAside(source.id, reason, _stat_or_none(source.path))


def _size(result: Result) -> int:
    return 0 if isinstance(result, SetAside) else sum(map(len, result[1].values()))


def _prepare_on_node(source: VideoFile, settings: StoreSettings, min_frames: int) -> Result:
    """`prepare_video` on a machine that may lack the file that the main process has seen."""
    if not source.path.exists():
        # The source is none, so that the next run tries again.
        reason = f"the node {platform.node()} has no file {source.path}: all nodes must see the videos at this path"
        return SetAside(source.id, reason, Source(0, 0))
    return prepare_video(source, settings, min_frames)


def prepare_video(source: VideoFile, settings: StoreSettings, min_frames: int) -> Result:
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
        reason = too_few_frames(num_frames, min_frames)
        return SetAside(source.id, f"{reason}; {reader.note}" if reader.note else reason, stat)
    try:
        content = _hash_once(source.path, stat)
    except OSError as error:
        return SetAside(source.id, f"cannot be read ({error.strerror})", stat)
    video = Video(
        id=source.id,
        num_frames=num_frames,
        height=height,
        width=width,
        frames_per_second=reader.frames_per_second,
        source=replace(stat, blake2b=content),
        label=source.label,
        group=source.group,
        split=source.split,
        note=reader.note,
    )
    packs: Packs = {"rgb": rgb.to_bytes()}
    if settings.flow != "none":
        packs["flow"] = flow.to_bytes()
    return video, packs


def too_few_frames(num_frames: int, min_frames: int) -> str:
    """Why so short a video is set aside."""
    return f"{num_frames} frame{'s' if num_frames != 1 else ''}, fewer than {min_frames} (--min-frames)"


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
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        stored = shrink(frame, settings.short_side) if native else frame
        size = stored.shape[0], stored.shape[1]
        rgb.add(stored)
        if previous is not None and settings.flow != "none":
            moved = no_flow(*grey.shape) if reader.size_changed else compute_flow(previous, grey)
            flow.add(quantize_flow(_resize_flow(moved, size), bound=settings.flow_bound))
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
