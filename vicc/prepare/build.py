"""`vicc prepare`: decode, shrink, compute flow, encode, store. Parallel over videos, resumable, all
or nothing.
"""

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from vicc.cores import usable_cores
from vicc.data.cache import cache_folder
from vicc.data.maintenance import publish_store, stage_store
from vicc.data.records import SetAside, StoreSettings
from vicc.data.remote import other_files
from vicc.data.splits import OFFICIAL, SPLITS_FOLDER, SplitTable, add_to_split_table
from vicc.data.store import (
    Store,
    StoreWriter,
    mark_finished,
    mark_unfinished,
    store_exists,
)
from vicc.data.survey import Survey, survey_videos
from vicc.data.video_files import VideoFile, file_id
from vicc.errors import ViccError
from vicc.files import exclusive_folder
from vicc.places import is_url
from vicc.prepare.configs import PrepareConfig
from vicc.prepare.engines import Engine, run_locally
from vicc.prepare.segments import SEGMENTS_FILE, cut_files
from vicc.prepare.update import Updates, find_updates
from vicc.prepare.video import Result, file_state_or_none, prepare_video, prepare_video_on_node
from vicc.progress import progress, say
from vicc.settings import takes_settings


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
    """Prepare every video (or every part of one) of a folder, file or list that the store does not
    hold yet.

    Raises:
        ViccError: no videos, a store with other settings or of a newer format, a store in use, a
            full disk.
    """
    found = survey_videos(config.videos, groups=config.groups, official_splits=config.official_splits)
    for note in found.survey.notes:
        say(note)
    return replace(_prepare_shard(config, found.files, found.official), survey=found.survey)


def _prepare_shard(config: PrepareConfig, files: list[VideoFile], official: SplitTable | None) -> PrepareReport:
    if config.shard is None:
        return _prepare(config, files, official, whole=files)
    number, parts = map(int, config.shard.split("/"))
    part = f"{str(config.store).rstrip('/')}.part-{number:0{len(str(parts))}d}-of-{parts}"
    # There may be no videos for it, if there are fewer than parts.
    report = _prepare(replace(config, store=part), files[number - 1 :: parts], official, whole=files)
    if not config.dry_run:
        # A shell finds folders by *, but no URLs.
        numbers = "*" if not is_url(part) else f"{{{1:0{len(str(parts))}d}..{parts}}}"
        say(
            f"part {number} of {parts} is in {part}; once all are there: "
            f"vicc store merge {str(config.store).rstrip('/')}.part-{numbers}-of-{parts} --store {config.store}"
        )
    return report


def _prepare(
    config: PrepareConfig, files: list[VideoFile], official: SplitTable | None, *, whole: list[VideoFile]
) -> PrepareReport:
    settings = store_settings(config)
    if config.dry_run:
        return _plan(config, files, whole)
    if isinstance(config.store, str) and is_url(config.store):
        return _prepare_remote(config, config.store, files, official, whole)
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
                files = [replace(file, path=file.path.absolute()) for file in files]
            files = cut_files(
                files,
                segment_seconds=config.segment_seconds,
                shots=config.shots,
                memory=folder / SEGMENTS_FILE,
                engine=_engine(config, len(files)),
            )
            updates = find_updates(writer.entries(), files, whole=whole, place=config.videos)
            _update(writer, updates)
            todo = [
                file
                for file in files
                if not writer.has(file.id, file_state_or_none(file.path), min_frames=config.min_frames)
            ]
            prepare = prepare_video_on_node if config.engine == "ray" else prepare_video
            work = partial(prepare, settings=settings, min_frames=config.min_frames)
            running = _engine(config, len(todo))(work, todo, died=_set_aside, size_of=_size)
            with (
                progress("prepare", total=len(files), start=len(files) - len(todo), unit="videos") as advance,
                closing(running) as results,  # stopped here, its processes end at once
            ):
                for file, result in results:
                    if isinstance(result, SetAside):
                        writer.put_aside(result)
                        say(f"skipped {result.id}: {result.reason}")
                    else:
                        writer.add(*result)
                        if result[0].note:
                            say(f"note on {file.id}: {result[0].note}")
                    advance(1, file.id)
        finally:
            writer.close()
        mark_finished(folder)
    return _report(config, folder, updates, found=len(files), prepared=len(todo))


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
    files: list[VideoFile],
    official: SplitTable | None,
    whole: list[VideoFile],
) -> PrepareReport:
    """Prepare in a local folder, which is kept, and copy it to the URL when all is done."""
    folder = stage_store(url)
    say(f"preparing in {folder}; copied to {url} at the end")
    report = _prepare(replace(config, store=folder), files, official, whole=whole)
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


def _plan(config: PrepareConfig, files: list[VideoFile], whole: list[VideoFile]) -> PrepareReport:
    records = Store(config.store).records if store_exists(config.store) else {}
    entries = [record.entry for record in records.values()]
    # Into which parts files are to be cut is not known before they are measured: those of the store
    # are taken.
    cut = {file_id(entry.id) for entry in entries if file_id(entry.id) != entry.id}
    lost = cut - {file.id for file in whole}  # renamed or deleted: the real run knows their parts
    updates = find_updates(
        [entry for entry in entries if file_id(entry.id) not in lost],
        [file for file in files if file.id not in cut],
        whole=whole,
        place=config.videos,
    )
    kept = {video.id for video in updates.moved.values()} | {
        file.id
        for file in files
        if file.id in records and records[file.id].is_final(file_state_or_none(file.path), min_frames=config.min_frames)
    }
    todo = [file for file in files if file.id not in kept | cut]
    size = sum(file_state_or_none(path).bytes for path in {file.path for file in todo}) / 1e6
    as_parts = ", cut into parts" if config.segment_seconds is not None or config.shots else ""
    say(f"would prepare {len(todo)} of {len(files)} videos ({size:.1f} MB){as_parts} into {config.store}")
    remote = isinstance(config.store, str) and is_url(config.store)
    folder = (cache_folder() if remote else Path(config.store)).absolute()
    parent = next(place for place in (folder, *folder.parents) if place.exists())
    say(f"free space there: {shutil.disk_usage(parent).free / 1e9:.1f} GB")
    labels = sorted({file.label for file in files if file.label})
    changes = _changes(updates, config.store, planned=True)
    return PrepareReport(str(config.store), len(files), 0, len(files) - len(todo), [], {}, 0, 0, labels, **changes)


def _engine(config: PrepareConfig, num_todo: int) -> Engine:
    if config.engine == "ray":
        from vicc.prepare.ray_engine import run_on_ray  # Ray is an extra

        return partial(run_on_ray, address=config.ray_address, workers=config.workers)
    return partial(run_locally, workers=min(config.workers or usable_cores(), max(1, num_todo)))


def _set_aside(file: VideoFile, reason: str) -> Result:
    return SetAside(file.id, reason, file_state_or_none(file.path))


def _size(result: Result) -> int:
    return 0 if isinstance(result, SetAside) else sum(map(len, result[1].values()))


def _visible(folder: Path) -> Iterator[Path]:
    return (entry for entry in folder.iterdir() if not entry.name.startswith("."))
