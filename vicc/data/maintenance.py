"""What is done with whole stores: look at one, merge some, drop videos, copy one to or from a URL."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lmdb

from vicc.data.manifest import MANIFEST, Manifest, read_manifest, stale_shards
from vicc.data.names import some
from vicc.data.records import Record, SetAside, Video, settings_difference
from vicc.data.remote import (
    SEGMENTS_FILE,
    download_store,
    other_files,
    read_segments,
    remote_manifest,
    staging_folder,
    upload_store,
)
from vicc.data.shard import (
    file_blake2b,
    next_shard_name,
    shard_names,
    write_shard,
)
from vicc.data.store import (
    SHARD_BYTES,
    Store,
    StoreWriter,
    describe,
    is_unfinished,
    make_manifest,
    store_exists,
)
from vicc.errors import ViccError
from vicc.files import atomic_write, exclusive_folder, is_held, write_json
from vicc.places import is_url
from vicc.progress import progress, say
from vicc.words import did_you_mean


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds. `bytes` are those of each stream; `problems` are what is seen without
    reading it all.
    """

    store: str
    settings: dict[str, Any]
    videos: int
    set_aside: int
    frames: int
    hours: float
    bytes: dict[str, int]
    shards: dict[str, int]
    labels: dict[str, int]
    splits: list[str]
    problems: list[str]


def store_info(place: Path | str) -> StoreInfo:
    """What a store holds, from its records alone.

    Raises:
        ViccError: no store, a damaged one, no access to a URL.
    """
    store = Store(place)
    streams: Counter[str] = Counter()
    for record in store.records.values():
        streams.update({stream: pack.bytes for stream, pack in record.packs.items()})
    problems: list[str] = []
    if isinstance(store.path, Path):
        if is_unfinished(store.path):
            problems.append("a run is under way or was killed: give the same `vicc prepare` again")
        else:
            problems += local_manifest(store.path)[1]
        shards = {name: (store.path / name).stat().st_size for name in shard_names(store.path)}
        splits = other_files(store.path)
    else:
        shards = {name: shard.bytes for name, shard in store.remote_shards.items()}
        splits = []
    return StoreInfo(
        store=str(store.path),
        settings=asdict(store.settings),
        videos=len(store.videos),
        set_aside=len(store.set_aside),
        frames=sum(video.num_frames for video in store.videos),
        hours=round(sum(video.num_frames / max(video.frames_per_second, 1e-3) for video in store.videos) / 3600, 4),
        bytes=dict(sorted(streams.items())),
        shards=shards,
        labels=dict(sorted(Counter(video.label for video in store.videos if video.label is not None).items())),
        splits=splits,
        problems=problems,
    )


def list_store(place: Path | str) -> list[dict[str, Any]]:
    """Every video of a store and every skipped file, by id: a row of facts each."""
    rows: list[dict[str, Any]] = []
    for record in Store(place).records.values():
        entry = record.entry
        if isinstance(entry, SetAside):
            row: dict[str, Any] = {
                "id": entry.id,
                "label": None,
                "group": None,
                "frames": None,
                "width": None,
                "height": None,
            }
            rows.append({**row, "note": f"skipped: {entry.reason}"})
        else:
            row = {name: getattr(entry, name) for name in ("id", "label", "group", "width", "height", "note")}
            rows.append({**row, "frames": entry.num_frames})
    return sorted(rows, key=lambda row: str(row["id"]))


def local_manifest(folder: Path) -> tuple[Manifest | None, list[str]]:
    """The manifest of a store's folder, and what is wrong with it as far as sizes tell."""
    path = folder / MANIFEST
    if not path.exists():
        return None, [f"{MANIFEST} is missing: give the same `vicc prepare` again"]
    try:
        manifest = read_manifest(path.read_bytes(), where=str(path))
    except ViccError as error:
        return None, [str(error)]
    return manifest, [f"{MANIFEST} is stale: {difference}" for difference in stale_shards(manifest, folder)]


@dataclass(frozen=True)
class Merged:
    """What `merge_stores` wrote."""

    store: str
    stores: list[str]
    videos: int
    set_aside: int
    twice: int
    shards: int
    splits: list[str]


def merge_stores(places: Sequence[Path | str], out: Path | str, *, shard_bytes: int = SHARD_BYTES) -> Merged:
    """Write a new store of all videos of some stores that were prepared with equal settings.

    Its files are those of a store that was prepared at once, in order of the ids, with the same
    size of shards. The folder gets its name when all is written; of a URL it is written here and
    copied there at the end. A file that several stores have in the same form is taken once.

    Raises:
        ViccError: other settings, other content of the same id, a store whose run has not ended, a
            folder that exists.
    """
    if len({str(place) for place in places}) < len(places) or not places:
        raise ViccError(f"{len(places)} stores to merge, some of them twice: expected different ones.")
    if isinstance(out, str) and is_url(out):
        if remote_manifest(out) is not None:
            raise ViccError(f"There is a store at {out}. Give a new place for the merged store.")
        folder = staging_folder(out)
        _require_nothing_lost(folder, out, places)
        shutil.rmtree(folder, ignore_errors=True)
        merged = merge_stores(places, folder, shard_bytes=shard_bytes)
        publish_store(folder, out)
        return replace(merged, store=out)
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ViccError(f"{out} exists. Give a new folder for the merged store.")
    stores = [Store(place) for place in places]
    for store in stores:
        if isinstance(store.path, Path) and is_unfinished(store.path):
            raise ViccError(
                f"The store {store.path} is being written, or its `vicc prepare` was killed: give that command again, "
                "to its end, before merging."
            )
        if store.settings != stores[0].settings:
            raise ViccError(
                f"The stores {stores[0].path} and {store.path} were prepared with different settings: "
                f"{settings_difference(stores[0].settings, store.settings, 'there')}."
            )
    owners = _owners(stores)
    slices = list(_slices(owners, shard_bytes))
    temporary = out.with_name(f".{out.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        sums: dict[str, str] = {}
        shards: dict[str, dict[str, Record]] = {}
        with progress("merge", total=len(owners), unit="files") as advance:
            for ids in slices:
                name = next_shard_name(sorted(shards))
                shards[name] = {video_id: owners[video_id].records[video_id] for video_id in ids}
                values: dict[bytes, lmdb.Environment | bytes] = {
                    key: owners[video_id].file_of(video_id)
                    for video_id, record in shards[name].items()
                    for key in record.lmdb_keys()
                }
                sums[name] = write_shard(temporary / name, values)
                advance(len(ids), name)
        write_json(temporary / "store.json", describe(stores[0].settings))
        splits = _carry_splits(stores, set(owners), temporary)
        _merge_segments(stores, temporary)
        make_manifest(temporary, describe(stores[0].settings), shards, known=sums).write(temporary)
        with suppress(FileNotFoundError):
            out.rmdir()  # empty, or it would have been refused
        os.replace(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    videos = sum(isinstance(owners[i].records[i].entry, Video) for i in owners)
    twice = sum(len(store.records) for store in stores) - len(owners)
    names = [str(store.path) for store in stores]
    return Merged(str(out), names, videos, len(owners) - videos, twice, len(shards), splits)


def _require_nothing_lost(folder: Path, url: str, places: Sequence[Path | str]) -> None:
    """Raises ViccError if the folder in which the store of a URL is prepared holds files that none
    of `places` has.

    They are of a `vicc prepare` that was killed, or whose copy to the URL failed, and would be
    overwritten.
    """
    if is_held(folder):
        raise ViccError(f"The store of {url} is being prepared in {folder} now. Wait until that has ended.")
    if store_exists(folder):
        there = {video_id for place in places for video_id in Store(place).records}
        if lost := sorted(Store(folder).records.keys() - there):
            raise ViccError(
                f"Files that were prepared for {url} in {folder} are neither there yet nor in the stores given: "
                f"{len(lost)} ({some(lost)}). Give that `vicc prepare` again to its end, or delete the folder."
            )


def _owners(stores: Sequence[Store]) -> dict[str, Store]:
    """The store that each id is taken from, sorted by id."""
    owners: dict[str, Store] = {}
    for store in stores:
        for video_id, record in store.records.items():
            first = owners.setdefault(video_id, store)
            if first is not store and _identity(first.records[video_id]) != _identity(record):
                raise ViccError(
                    f"{video_id!r} stands in {first.path} and in {store.path} with different content. Drop one of the "
                    "two with: vicc store drop STORE ID"
                )
    return dict(sorted(owners.items()))


def _identity(record: Record) -> tuple[Any, ...]:
    """What makes two records the same: everything but the time of the file they were made from."""
    entry = asdict(record.entry)
    entry["source"].pop("modified_ns")
    return record.kind, entry, record.packs


def _slices(owners: dict[str, Store], shard_bytes: int) -> Iterator[list[str]]:
    """Ids of one shard after the other, cut as `StoreWriter` cuts."""
    ids: list[str] = []
    size = 0
    for video_id, store in owners.items():
        ids.append(video_id)
        size += store.records[video_id].payload
        if size >= shard_bytes:
            yield ids
            ids, size = [], 0
    if ids:
        yield ids


def _carry_splits(stores: Sequence[Store], ids: set[str], out: Path) -> list[str]:
    """Take over split files that all stores have, as the jobs of --shard do, or a store that holds
    all videos.

    The others divide only a part of the videos.
    """
    there: dict[str, list[tuple[Store, bytes]]] = {}
    for store in stores:
        for name in other_files(store.path) if isinstance(store.path, Path) else []:
            there.setdefault(name, []).append((store, (Path(store.path) / name).read_bytes()))
    carried: dict[str, bytes] = {}
    for name, copies in there.items():
        whole = len(copies) == len(stores) or any(set(store.records) == ids for store, _ in copies)
        if not whole:
            say(f"left out {name} of {copies[0][0].path}: it divides only some of the videos")
        elif len({data for _, data in copies}) > 1:
            raise ViccError(f"The stores have different split files {name}. Rename or delete one of them.")
        else:
            carried[name] = copies[0][1]
    for name, data in carried.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    return sorted(carried)


def _merge_segments(stores: Sequence[Store], out: Path) -> None:
    """Take over the lengths and shots that were measured; a file of which stores have different
    ones is left out.
    """
    header: dict[str, Any] = {}
    videos: dict[str, Any] = {}
    contradicted: set[str] = set()
    for store in stores:
        path = f"{store.path}/{SEGMENTS_FILE}"
        if (data := read_segments(store.path)) is None:
            continue
        try:
            content = json.loads(data)
            ours = {name: content[name] for name in ("version", "shots")}
            found = dict(content["videos"])
        except (KeyError, TypeError, ValueError) as error:
            raise ViccError(f"{path} cannot be understood ({error}). Delete it: it is measured again.") from error
        header = header or ours
        if ours != header:
            say(f"left out {path}: it was measured by another version of vicc, and is measured again when needed")
            continue
        contradicted |= {key for key in found if key in videos and videos[key] != found[key]}
        videos |= found
    if contradicted:
        say(
            f"left out the lengths of {len(contradicted)} files, which two stores give otherwise "
            f"({min(contradicted).partition(' ')[2]}): they are measured again when needed"
        )
    if header:
        kept = {key: value for key, value in sorted(videos.items()) if key not in contradicted}
        write_json(out / SEGMENTS_FILE, {**header, "videos": kept})


@dataclass(frozen=True)
class Dropped:
    """What `drop_videos` took out, or would; `bytes` are given back to the disk."""

    store: str
    ids: list[str]
    bytes: int


def drop_videos(place: Path, ids: Iterable[str] = (), *, labels: Iterable[str] = (), dry_run: bool = False) -> Dropped:
    """Take videos out of a store, by id or by label: all of them or none. Their shards are written
    anew.

    Raises:
        ViccError: an id or a label that the store does not have, a store in use.
    """
    store = Store(place)
    chosen = set(ids)
    for label in labels:
        here = {video.id for video in store.videos if video.label == label}
        if not here:
            known = sorted({video.label for video in store.videos if video.label is not None})
            raise ViccError(
                f"The store {place} has no label {label!r}.{did_you_mean(label, known)} "
                f"Labels: {', '.join(known[:20]) or 'none'}."
            )
        chosen |= here
    if not chosen:
        raise ViccError("Nothing to drop: expected ids of videos, or --label.")
    size = sum(record.payload for video_id, record in store.records.items() if video_id in chosen)
    store.close()
    if not dry_run:
        with exclusive_folder(place, what="store"):
            writer = StoreWriter(place, store.settings)
            try:
                writer.drop(chosen)
            finally:
                writer.close()
    else:
        unknown = sorted(chosen - store.records.keys())
        if unknown:
            raise ViccError(f"The store {place} has no {', '.join(map(repr, unknown[:5]))}.")
    return Dropped(str(place), sorted(chosen), size)


@dataclass(frozen=True)
class Copied:
    """What `copy_store` did; what stood at the target already is not counted as sent."""

    source: str
    target: str
    videos: int
    bytes: int
    sent_bytes: int


def copy_store(source: Path | str, target: Path | str) -> Copied:
    """Copy a store: to a URL, from one, or between folders. Given again, it goes on where it was.

    The manifest is copied last: a copy that has not ended is no store at a URL.

    Raises:
        ViccError: no store, no access, a store whose run has not ended, a target that is something
            else.
    """
    if isinstance(target, str) and is_url(target):
        if isinstance(source, str) and is_url(source):
            folder = staging_folder(source)
            _require_nothing_lost(folder, source, [source])
            copy_store(source, folder)
            copied = copy_store(folder, target)
            return Copied(source, target, copied.videos, copied.bytes, copied.sent_bytes)
        folder = Path(source)
        store, manifest = _whole(folder)
        sent = upload_store(folder, manifest, target)
    else:
        store = Store(source)
        folder = Path(target)
        if folder.exists() and any(folder.iterdir()) and not _is_ours(folder):
            raise ViccError(f"{folder} exists and is not a store. Give a new folder.")
        if isinstance(store.path, Path):
            _, manifest = _whole(store.path)
            sent = _copy_folder(store.path, manifest, folder)
        else:
            found = remote_manifest(store.path)
            assert found is not None  # `Store` has just read it
            manifest = found
            sent = _receive(folder, manifest, lambda: download_store(str(store.path), manifest, folder))
    total = sum(shard.bytes for shard in manifest.shards)
    return Copied(str(source), str(target), len(store.videos), total, sent)


def stage_store(url: str) -> Path:
    """The local folder in which the store of a URL is prepared, with what is there already.

    Raises:
        ViccError: no access to the URL.
    """
    folder = staging_folder(url)
    manifest = remote_manifest(url)
    if manifest is not None and _published(folder) != manifest.blake2b:
        # Another machine has changed it, or this one never saw it.
        shutil.rmtree(folder, ignore_errors=True)
        copy_store(url, folder)
        _set_published(folder, manifest)
    return folder


def publish_store(folder: Path, url: str) -> None:
    """Copy what was prepared in the folder of `stage_store` to its URL.

    Raises:
        ViccError: no access, no network; given again, it goes on where it was.
    """
    _, manifest = _whole(folder)
    upload_store(folder, manifest, url)
    _set_published(folder, manifest)


def _published(folder: Path) -> str:
    """blake2b of the manifest that folder and URL had in common last."""
    path = folder.with_suffix(".published")
    return path.read_text() if path.exists() else ""


def _set_published(folder: Path, manifest: Manifest) -> None:
    with atomic_write(folder.with_suffix(".published")) as file:
        file.write(manifest.blake2b)


def _whole(folder: Path) -> tuple[Store, Manifest]:
    """A store's folder whose run has ended, and its manifest."""
    store = Store(folder)
    manifest, problems = local_manifest(folder)
    if is_unfinished(folder) or manifest is None or problems:
        why = "a run is under way or was killed" if is_unfinished(folder) else "; ".join(problems)
        raise ViccError(f"The store {folder} cannot be copied as it is ({why}): give the same `vicc prepare` again.")
    return store, manifest


def _is_ours(folder: Path) -> bool:
    return (folder / "store.json").exists() or any(folder.glob("shard-*.lmdb")) or (folder / ".lock").exists()


def _copy_folder(source: Path, manifest: Manifest, folder: Path) -> int:
    def copy() -> int:
        sent = 0
        with progress("copy", total=len(manifest.shards), unit="shards") as advance:
            for shard in manifest.shards:
                path = folder / shard.name
                if not (path.exists() and file_blake2b(path) == shard.blake2b):
                    partial = folder / f".{shard.name}.partial"
                    shutil.copyfile(source / shard.name, partial)
                    os.replace(partial, path)
                    sent += shard.bytes
                advance(1, shard.name)
        for name in [*other_files(source), *[SEGMENTS_FILE] * (source / SEGMENTS_FILE).exists()]:
            with atomic_write(folder / name, "wb") as file:
                file.write((source / name).read_bytes())
        return sent

    return _receive(folder, manifest, copy)


def _receive(folder: Path, manifest: Manifest, copy: Callable[[], int]) -> int:
    """Let a copy come into a folder: until it has ended there is no store.json, so it is no store."""
    with exclusive_folder(folder, what="store"):
        (folder / "store.json").unlink(missing_ok=True)
        sent = copy()
        manifest.write(folder)
        write_json(folder / "store.json", manifest.description)
    return sent
