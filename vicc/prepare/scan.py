"""A folder of videos to a `VideoFolder`: every file is decoded once, to know how many frames it really has.

The result is remembered in a file, so that a resumed run reads only what has changed since.
"""

import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vicc.data.frame_source import FrameSource
from vicc.data.splits import VideoSource, discover_videos
from vicc.data.store import SetAside, Source, Store, StoreSettings, Video
from vicc.data.video_folder import IndexedVideo, VideoFolder
from vicc.errors import ViccError
from vicc.files import read_json, write_json
from vicc.prepare.build import _hash_file, _stat
from vicc.prepare.workers import new_pool, require_workers, submit
from vicc.progress import progress, say
from vicc.video.frame_index import FrameIndex, IndexedReader

SCAN_FILE = "scan.json"
"""Name of what is remembered, in the folder of a run."""
_SCAN_VERSION = 1
_MIN_FRAMES = 3  # as `vicc prepare --min-frames` is by default: two flow frames are the least that show a motion
_SECONDS_BETWEEN_WRITES = 30.0

Scanned = IndexedVideo | SetAside


def open_source(
    store: Path | None, videos: Path | None, *, scan: Path | None = None, cache_bytes: int = 0
) -> FrameSource:
    """What --store or --videos names; see `scan_videos`.

    Raises:
        ViccError: no such store, or no usable video.
    """
    if store is not None:
        return Store(store, cache_bytes=cache_bytes)
    assert videos is not None  # the configs refuse neither
    return scan_videos(videos, remembered=scan, cache_bytes=cache_bytes)


def scan_videos(
    place: Path, *, remembered: Path | None = None, workers: int | None = None, cache_bytes: int = 0
) -> VideoFolder:
    """Decode every video of a folder once and open it for reading.

    Args:
        remembered: a file that keeps the result; files of the same size and time of change are not read again. One that
            was written for another folder is left as it is.
        workers: processes that decode; default one for each core.

    Raises:
        ViccError: no videos, or none that can be used.
    """
    sources = discover_videos(place)
    settings = StoreSettings()
    known = {} if remembered is None else _remembered(remembered, place, settings)
    if known is None:
        remembered, known = None, {}
    found: dict[str, Scanned] = {}
    for source in sources:
        entry = known.get(source.id)
        if entry is not None and entry[0] == _stat_or_none(source.path):
            found[source.id] = _with_labels(entry[1], source)
    todo = [source for source in sources if source.id not in found]
    if todo:
        written = time.monotonic()
        with progress("scan", total=len(sources), start=len(found), unit="videos") as advance:
            for source, result in _scan_all(todo, settings, workers):
                found[source.id] = result
                if isinstance(result, SetAside):
                    say(f"set aside {source.id}: {result.reason}")
                elif result.video.note:
                    say(f"note on {source.id}: {result.video.note}")
                advance(1, source.id)
                if remembered is not None and time.monotonic() - written > _SECONDS_BETWEEN_WRITES:
                    _remember(remembered, place, settings, found)
                    written = time.monotonic()
        if remembered is not None:
            _remember(remembered, place, settings, found)
    entries = [entry for entry in found.values() if isinstance(entry, IndexedVideo)]
    aside = [entry for entry in found.values() if isinstance(entry, SetAside)]
    if not entries:
        reasons = "; ".join(f"{entry.id}: {entry.reason}" for entry in aside[:3])
        raise ViccError(f"None of the {len(sources)} files can be used ({reasons}). Check that they are videos.")
    return VideoFolder(place, entries, set_aside=aside, settings=settings, cache_bytes=cache_bytes)


def _scan_all(
    sources: list[VideoSource], settings: StoreSettings, workers: int | None
) -> "Iterator[tuple[VideoSource, Scanned]]":
    """Scan in parallel, in the order of the list. Files under way when a decoder crashes are scanned each alone."""
    waiting = deque(sources)
    while waiting:
        running: deque[tuple[VideoSource, Future[Scanned]]] = deque()
        pool = new_pool(workers)
        try:
            while waiting or running:
                while waiting and len(running) < 64:
                    running.append((waiting[0], submit(pool, scan_video, waiting[0], settings)))
                    waiting.popleft()
                source, future = running[0]
                result = future.result()
                running.popleft()
                yield source, result
        except BrokenProcessPool:
            for source, future in running:
                finished = future.done() and future.exception() is None
                yield source, future.result() if finished else _alone(source, settings)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
