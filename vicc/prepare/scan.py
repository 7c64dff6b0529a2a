"""A folder of videos to a `VideoFolder`: every file is decoded once, to know how many frames it
really has.

The result is remembered in a file, so that a resumed run reads only what has changed since.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from vicc.cores import usable_cores
from vicc.data.frame_reader import FrameReader
from vicc.data.official_splits import with_official_splits
from vicc.data.records import FileState, SetAside, StoreSettings, Video, is_passing
from vicc.data.remote import splits_folder
from vicc.data.splits import OFFICIAL, SPLITS_FOLDER, SplitTable, write_split_table
from vicc.data.store import Store, say_if_unfinished
from vicc.data.survey import survey_videos
from vicc.data.video_files import VideoFile, discover_videos
from vicc.data.video_folder import IndexedVideo, VideoFolder
from vicc.errors import ViccError
from vicc.files import read_json, write_json
from vicc.prepare.configs import MIN_FRAMES
from vicc.prepare.engines import run_locally
from vicc.prepare.video import describe_video, file_state, file_state_or_none
from vicc.prepare.workers import decoder_guard
from vicc.progress import progress, say
from vicc.video.frame_index import FrameIndex, IndexedReader

SCAN_FILE = "scan.json"
"""Name of what is remembered, in the folder of a run."""
_SCAN_VERSION = 1
_SECONDS_BETWEEN_WRITES = 30.0

Scanned = IndexedVideo | SetAside


def open_frames(
    store: Path | str | None, videos: Path | None, *, scan: Path | None = None, cache_mb: int = 0
) -> FrameReader:
    """What --store or --videos names; see `scan_videos`.

    Raises:
        ViccError: no such store, or no usable video.
    """
    if store is not None:
        opened = Store(store, cache_bytes=cache_mb << 20)
        say_if_unfinished(opened)
        return opened
    assert videos is not None  # the configs refuse neither
    return scan_videos(videos, remembered=scan, cache_bytes=cache_mb << 20)


def list_videos(place: Path, *, silent: bool = False) -> tuple[list[VideoFile], SplitTable | None]:
    """The videos that a place holds, as `prepare` would list them, and their official splits where
    there are any.

    Args:
        silent: do not say what was passed over, as the videos are listed a second time and it is
            said then.
    """
    if silent:
        found = survey_videos(place)
        return found.files, found.official
    return with_official_splits(place, discover_videos(place))


def splits_of(reader: FrameReader, run: Path | None) -> Path:
    """Where the split files of a reader are: in a store, or in the run that has scanned the files."""
    if isinstance(reader, VideoFolder) and run is not None:
        return run / SPLITS_FOLDER
    return splits_folder(reader.path)


def scan_videos(
    place: Path, *, remembered: Path | None = None, workers: int | None = None, cache_bytes: int = 0
) -> VideoFolder:
    """Decode every video of a folder, file or list once and open them for reading.

    Args:
        remembered: a file that keeps the result; files of the same size and time of change are not
            read again. One that was written for another folder is left as it is.
        workers: processes that decode; default one for each core.

    Raises:
        ViccError: no videos, or none that can be used.
    """
    files, official = list_videos(place)
    settings = StoreSettings()
    known = {} if remembered is None else _remembered(remembered, place, settings)
    if known is None:
        remembered, known = None, {}
    if remembered is not None and official is not None:
        write_split_table(remembered.parent / SPLITS_FOLDER / f"{OFFICIAL}.csv", official)
    found = {
        file.id: _with_labels(known[file.id], file)
        for file in files
        if file.id in known and _is_unchanged(known[file.id], file.path)
    }
    todo = [file for file in files if file.id not in found]
    if todo:
        written = time.monotonic()
        with progress("scan", total=len(files), start=len(found), unit="videos") as advance:
            for file, result in _scan_all(todo, settings, workers):
                found[file.id] = result
                if isinstance(result, SetAside):
                    say(f"skipped {file.id}: {result.reason}")
                elif result.video.note:
                    say(f"note on {file.id}: {result.video.note}")
                advance(1, file.id)
                if remembered is not None and time.monotonic() - written > _SECONDS_BETWEEN_WRITES:
                    _remember(remembered, place, settings, found)
                    written = time.monotonic()
        if remembered is not None:
            _remember(remembered, place, settings, found)
    entries = [entry for entry in found.values() if isinstance(entry, IndexedVideo)]
    aside = [entry for entry in found.values() if isinstance(entry, SetAside)]
    if not entries:
        reasons = "; ".join(f"{entry.id}: {entry.reason}" for entry in aside[:3])
        raise ViccError(f"None of the {len(files)} files can be used ({reasons}). Check that they are videos.")
    return VideoFolder(place, entries, set_aside=aside, settings=settings, cache_bytes=cache_bytes)


def _scan_all(
    files: list[VideoFile], settings: StoreSettings, workers: int | None
) -> Iterator[tuple[VideoFile, Scanned]]:
    workers = min(workers or usable_cores(), len(files))
    scan = partial(scan_video, settings=settings)
    return run_locally(scan, files, died=_set_aside, size_of=lambda _: 0, workers=workers)  # results are small


def _set_aside(file: VideoFile, reason: str) -> Scanned:
    return SetAside(file.id, reason, file_state_or_none(file.path))


def scan_video(file: VideoFile, settings: StoreSettings) -> Scanned:
    """Decode one file; memory holds one frame."""
    try:
        stat = file_state(file.path)
    except OSError as error:
        return SetAside(file.id, f"cannot be read ({error.strerror})", FileState(0, 0))
    try:
        reader = IndexedReader(
            file.path, short_side=settings.short_side, start=file.start, end=file.end, guard=decoder_guard
        )
        index = reader.index()
    except (ViccError, OSError) as error:
        return SetAside(file.id, str(error), stat)
    if index.num_frames < MIN_FRAMES:
        reason = f"{index.num_frames} frame{'s' if index.num_frames != 1 else ''}, fewer than {MIN_FRAMES}"
        return SetAside(file.id, f"{reason}; {index.note}" if index.note else reason, stat)
    size, rate = (index.height, index.width), index.frames_per_second
    video = describe_video(file, stat, index.num_frames, size, frames_per_second=rate, note=index.note)
    return video if isinstance(video, SetAside) else IndexedVideo(video, file, index)


def _with_labels(entry: Scanned, file: VideoFile) -> Scanned:
    """A remembered entry with what the folder says today: its place, label, group and split."""
    if isinstance(entry, SetAside):
        return entry
    video = replace(entry.video, label=file.label, group=file.group, split=file.split)
    return IndexedVideo(video, file, entry.index)


def _is_unchanged(entry: Scanned, path: Path) -> bool:
    state = entry.source if isinstance(entry, SetAside) else entry.video.source
    if is_passing(entry.reason if isinstance(entry, SetAside) else entry.video.note):
        return False
    try:
        return file_state(path) == replace(state, blake2b="")
    except OSError:
        return False


def _remember(file: Path, place: Path, settings: StoreSettings, found: dict[str, Scanned]) -> None:
    write_json(
        file,
        {
            "version": _SCAN_VERSION,
            "videos": str(place.absolute()),
            "short_side": settings.short_side,
            "entries": [
                {"aside": asdict(entry)}
                if isinstance(entry, SetAside)
                else {"video": asdict(entry.video), "index": asdict(entry.index)}
                for entry in found.values()
            ],
        },
    )


def _remembered(file: Path, place: Path, settings: StoreSettings) -> dict[str, Scanned] | None:
    """What was found when the files were read last, by id; None if the file belongs to another
    folder.
    """
    if not file.exists():
        return {}
    content = read_json(file, what="scan of the videos")
    try:
        if content["version"] != _SCAN_VERSION or content["short_side"] != settings.short_side:
            return {}
        if content["videos"] != str(place.absolute()):
            return None
        entries = [_entry(fields) for fields in content["entries"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ViccError(f"The scan of the videos {file} cannot be understood ({error}). Delete it.") from error
    return {entry.id if isinstance(entry, SetAside) else entry.video.id: entry for entry in entries}


def _entry(fields: dict[str, Any]) -> Scanned:
    if "aside" in fields:
        return SetAside(**{**fields["aside"], "source": FileState(**fields["aside"]["source"])})
    index = fields["index"]
    return IndexedVideo(
        Video(**{**fields["video"], "source": FileState(**fields["video"]["source"])}),
        VideoFile("", Path(), None, None, None),  # where the file is, the folder says
        FrameIndex(
            **{
                **index,
                "keys": tuple((number, time) for number, time in index["keys"]),
                "size_changes": tuple(index.get("size_changes", ())),  # older scans have none
            }
        ),
    )
