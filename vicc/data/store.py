"""The store: prepared frames and flow of many videos, the format's reader and writer side by side.

A store is a folder:

    store.json              format name and version, settings every video was prepared with
    shard-00000.lmdb, ...   LMDB files that never change; a new one is begun when the last has grown to `shard_bytes`
    .unfinished             while a `vicc prepare` is under way, or after one that was stopped in whatever way
    journal.lmdb            LMDB file, while a run is under way or after one was killed: videos not yet in a shard
    manifest.json           shards and records in one file, with checksums, see `vicc.data.manifest`

Keys inside a shard and the journal, where h is a hash of the video's id:

    video:h                 record: id, label, group, split, num_frames, frames_per_second, size, source (see `Video`),
                            and of each pack its length and blake2b. JSON, behind 16 bytes of
                            blake2b of itself
    aside:h                 record: id, reason, source: a file that could not be used; no file is lost silently
    rgb:h, flow:h           a frame pack, see `frame_pack`: the encoded frames of one stream, which describe themselves
    gone:h                  record, in the journal only: the shards' video of this id is dropped or changed

All keys of one video are written in one transaction: a video is there as a whole or not at all.
When a shard is full, and at the end, the journal is folded into shards, each written anew from its
sorted keys and given its name at the end. Which videos share a shard follows from their order and
sizes. So a store depends on what was prepared, in which order and with which settings, and on
nothing else: killed at any moment and given again, a run ends with the same files.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import lmdb
import numpy as np

from vicc.data.frame_pack import StoredStream, check_frame_indices, decode_frames, read_frames, read_header
from vicc.data.manifest import MANIFEST, Manifest, ShardFile, read_manifest
from vicc.data.records import (
    FileState,
    Record,
    SetAside,
    StoreSettings,
    Video,
    new_record,
    parse_record,
    payload,
    record_of,
    settings_difference,
)
from vicc.data.remote import fetch_shard, remote_manifest
from vicc.data.shard import (
    JOURNAL,
    OpenFiles,
    blake2b,
    file_blake2b,
    has_journal,
    items_of,
    key_of,
    next_shard_name,
    protect,
    remove_journal,
    shard_names,
    unprotect,
    write_shard,
)
from vicc.errors import ViccError
from vicc.files import read_json, write_json
from vicc.places import is_url, require_store
from vicc.progress import progress, say

FORMAT = "vicc-store"
FORMAT_VERSION = 2
SHARD_BYTES = 512 << 20
_STORE_FILE = "store.json"
_UNFINISHED = ".unfinished"
_STREAMS = get_args(StoredStream)


class Store:
    """Read access to a prepared store. Cheap to send to another process: files are opened there, on
    first use.

    A store that is being prepared elsewhere is read as it is now: whole videos. Open it again to
    see more.

    Args:
        path: the store's folder, or a URL such as s3://bucket/store, whose shards are copied to a
            local cache when a frame of theirs is first asked for.
        cache_bytes: decoded frames kept in memory, at most. A stream of a video is kept as a whole
            when it is first read, until nothing more fits; in a store that fits, later epochs
            decode nothing.

    Raises:
        ViccError: not a store, a store of a newer format, or a damaged one; no access to a URL.
    """

    def __init__(self, path: Path | str, *, cache_bytes: int = 0) -> None:
        self.path: Path | str = path if isinstance(path, str) and is_url(path) else Path(path)
        self._cache: dict[bytes, np.ndarray] = {}
        self._cache_left = cache_bytes
        self._files = OpenFiles()
        self._read_index()

    def _read_index(self) -> None:
        self.records: dict[str, Record] = {}
        self.shard_of: dict[str, str] = {}
        """The shard, or the journal, in which each file's record stands."""
        self.remote_shards: dict[str, ShardFile] = {}
        if isinstance(self.path, str):
            manifest = _require_manifest(self.path)
            self.settings = _parse_description(manifest.description, self.path)
            self.remote_shards = {shard.name: shard for shard in manifest.shards}
            found = _records_of_manifest(manifest, self.path)
        else:
            self.settings = read_settings(self.path)
            found = _records_of_folder(self.path, self._files)
        for name, record in found:
            self.shard_of[record.entry.id] = name
            self.records[record.entry.id] = record
        entries = [record.entry for _, record in sorted(self.records.items())]
        self.videos = [entry for entry in entries if isinstance(entry, Video)]
        self.set_aside = [entry for entry in entries if isinstance(entry, SetAside)]

    def frames(self, video_id: str, stream: StoredStream, frame_indices: Sequence[int]) -> np.ndarray:
        """Decode some frames of a video: uint8 (T, H, W, 3) for rgb, (T, H, W, 2) in stored form
        for flow.

        Args:
            stream: "rgb" or "flow".
            frame_indices: from 0, in any order and as often as wanted; flow has one frame fewer
                than rgb.

        Raises:
            ViccError: no such video, stream or frame, or damaged data; the message names the video.
        """
        with self._pack(video_id, stream) as (key, data):
            return self._decode(key, data, frame_indices)

    def read(self, video_id: str, stream: StoredStream, frame_indices: Sequence[int]) -> int:
        """Read what `frames` would read, and decode nothing; returns the bytes. Errors are those of
        `frames`.
        """
        with self._pack(video_id, stream) as (_, data):
            return read_frames(data, frame_indices)

    @contextmanager
    def _pack(self, video_id: str, stream: StoredStream) -> Iterator[tuple[bytes, memoryview]]:
        """The key of a pack and the pack; an error within the block names the video."""
        if video_id not in self.shard_of:
            raise ViccError(f"The store {self.path} has no video {video_id!r}.")
        key = key_of(stream, video_id)
        with self.file_of(video_id).begin(buffers=True) as transaction:
            data = transaction.get(key)
            if data is None:
                raise ViccError(
                    f"The store {self.path} was prepared without flow (--flow none). Train with --motion diff, or "
                    "prepare another store with flow."
                    if stream == "flow" and self.settings.flow == "none"
                    else f"The store {self.path} has no stream {stream!r} of video {video_id!r}."
                )
            try:
                yield key, data
            except ViccError as error:
                raise ViccError(f"Cannot read frames of {video_id!r} in {self.path}: {error}.") from error

    def _decode(self, key: bytes, data: memoryview, frame_indices: Sequence[int]) -> np.ndarray:
        if key not in self._cache:
            header = read_header(data)
            size = header.num * header.height * header.width * header.channels
            if size > self._cache_left:
                return decode_frames(data, frame_indices)
            self._cache[key] = decode_frames(data, range(header.num))
            self._cache_left -= size
        frames = self._cache[key]
        check_frame_indices(frame_indices, stream=key.partition(b":")[0].decode(), num=len(frames))
        return frames[np.asarray(frame_indices, dtype=int)]  # a copy: what a transform does in place stays its own

    def check_pack(self, video_id: str, stream: StoredStream) -> None:
        """Compare a video's stream with the checksum in its record, which `frames` leaves out.

        Raises:
            ViccError: no such video or stream, or damaged data; the message names the video.
        """
        if video_id not in self.records or stream not in self.records[video_id].packs:
            raise ViccError(f"The store {self.path} has no stream {stream!r} of video {video_id!r}.")
        with self.file_of(video_id).begin(buffers=True) as transaction:
            damage = self.records[video_id].damage(stream, transaction.get(key_of(stream, video_id)))
        if damage:
            raise ViccError(f"Stream {stream} of {video_id!r} in {self.path} is damaged: {damage}.")

    def shard_file(self, name: str) -> Path:
        """A shard as a local file; one of a remote store is copied to the cache first."""
        return fetch_shard(self.path, self.remote_shards[name]) if isinstance(self.path, str) else self.path / name

    def close(self) -> None:
        """Release the files; a later read opens them again."""
        self._files.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}

    def file_of(self, video_id: str) -> lmdb.Environment:
        """The open file in which a video stands. One that a writer elsewhere has moved is looked
        for again, once.
        """
        try:
            environment = self._open(self.shard_of[video_id])
            with environment.begin() as transaction:
                moved = transaction.get(key_of(self.records[video_id].kind, video_id)) is None
        except FileNotFoundError:
            moved = True
        if not moved:
            return environment
        self._files.close()
        self._read_index()
        if video_id not in self.shard_of:
            raise ViccError(f"Video {video_id!r} has been dropped from the store {self.path} since it was opened.")
        return self._open(self.shard_of[video_id])

    def _open(self, name: str) -> lmdb.Environment:
        if name == JOURNAL and isinstance(self.path, Path):
            return self._files.journal(self.path / JOURNAL)
        return self._files.shard(self.shard_file(name))


class StoreWriter:
    """Adds videos to a store, creating it if needed. Use it inside `exclusive_folder`: one writer
    at a time.

    What `add`, `put_aside` and `drop` did is on disk when they return; `close` folds it into shards
    and writes the manifest. A writer that was killed leaves a store that can be read, and the next
    one goes on where it was.

    Args:
        path: the store's folder.
        settings: how the videos are prepared; must equal the settings of an existing store.
        shard_bytes: size at which a new shard is begun.
    """

    def __init__(self, path: Path, settings: StoreSettings, *, shard_bytes: int = SHARD_BYTES) -> None:
        self.path = path
        self.shard_bytes = shard_bytes
        if (path / _STORE_FILE).exists():
            existing = read_settings(path)
            if existing != settings:
                raise ViccError(
                    f"The store {path} was prepared with {settings_difference(existing, settings)}. Give the same "
                    "settings, or another store folder."
                )
        else:
            write_json(path / _STORE_FILE, describe(settings))
        for pattern in (".shard-*.partial", f".{MANIFEST}.*.partial", f".{_STORE_FILE}.*.partial"):
            for left_over in path.glob(pattern):  # of writers that were killed
                left_over.unlink()
        self._files = OpenFiles()
        self._hashes: dict[str, str] = {}
        self._read_index()
        self._fold_if_full()

    def _read_index(self) -> None:
        self._shards: dict[str, dict[str, Record]] = {name: {} for name in shard_names(self.path)}
        for name, record in _shard_records(self.path, self._files):
            self._shards[name][record.entry.id] = record
        self._home = {video_id: name for name, records in self._shards.items() for video_id in records}
        self._journal: dict[str, Record | None] = {}
        """What the journal says of each file; None for one that is dropped."""
        self._restated: dict[str, tuple[Record, bytes]] = {}
        """Records of shards that are to be written anew, with their values."""
        self._new_bytes = self._journal_bytes = 0
        for video_id, entry in _journal_records(self.path, self._files):
            self._note(video_id, entry)

    def has(self, video_id: str, state: FileState, *, min_frames: int | None = None) -> bool:
        """Whether this very file has been prepared or skipped already, for good: see
        `Record.is_final`.
        """
        known = self._known(video_id)
        return known is not None and known.is_final(state, min_frames=min_frames)

    def entries(self) -> list[Video | SetAside]:
        """What the store says of every file, sorted by id."""
        records = map(self._known, self._home.keys() | self._journal.keys())
        return sorted((record.entry for record in records if record is not None), key=lambda entry: entry.id)

    def _known(self, video_id: str) -> Record | None:
        if video_id in self._restated:
            return self._restated[video_id][0]
        if video_id in self._journal:
            return self._journal[video_id]
        return self._shards[self._home[video_id]][video_id] if video_id in self._home else None

    def add(self, video: Video, packs: dict[StoredStream, bytes]) -> None:
        """Write one video, replacing an older one of the same id. On disk when this returns."""
        record, value = new_record(video, packs)
        self._write(video.id, record, {key_of(stream, video.id): data for stream, data in packs.items()}, value)

    def put_aside(self, entry: SetAside) -> None:
        """Record that a file could not be used, and why."""
        record, value = new_record(entry, {})
        self._write(entry.id, record, {}, value)

    def drop(self, video_ids: Iterable[str]) -> None:
        """Take videos, or skipped files, out of the store: all of them or none. `close` gives their
        space back.

        Raises:
            ViccError: an id that the store does not have.
        """
        ids = sorted(set(video_ids))
        unknown = [video_id for video_id in ids if self._known(video_id) is None]
        if unknown:
            raise ViccError(
                f"The store {self.path} has no {', '.join(map(repr, unknown[:5]))}"
                + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
                + ". Nothing was dropped; `vicc store info --videos` lists what there is."
            )
        with self._transaction() as transaction:
            for video_id in ids:
                self._take_out(transaction, video_id)
        for video_id in ids:
            self._note(video_id, None)

    def restate(self, videos: Iterable[Video]) -> None:
        """Change what the store says of videos that it holds; their frames stay as they are and are
        not decoded.

        On disk after `close`, which copies the shards in which one of them stands. Given again
        after a kill, it ends with the same files.
        """
        for video in videos:
            known = self._known(video.id)
            if known is None:
                raise ViccError(f"The store {self.path} has no {video.id!r}.")
            record, value = record_of(video, known.packs)
            if self._journal.get(video.id) is not None:
                with self._transaction() as transaction:
                    transaction.put(key_of("video", video.id), value)
                self._note(video.id, record)
            else:
                self._restated[video.id] = record, value

    def move(self, video_id: str, video: Video) -> None:
        """Give a video another id, and what else is known of it; its frames are taken over as they
        are.

        On disk when this returns; it then stands where a video prepared now would stand.
        """
        known = self._known(video_id)
        if known is None or isinstance(known.entry, SetAside):
            raise ViccError(f"The store {self.path} has no video {video_id!r}.")
        home = self._files.journal(self.path / JOURNAL) if video_id in self._journal else None
        with (home or self._files.shard(self.path / self._home[video_id])).begin() as transaction:
            values = {name: transaction.get(key_of(name, video_id)) for name in known.packs}
        packs: dict[StoredStream, bytes] = {}
        for name in _STREAMS:
            if name in values:
                data = values[name]
                damage = known.damage(name, None if data is None else memoryview(data))
                if data is None or damage:
                    raise ViccError(f"Stream {name} of {video_id!r} in {self.path} is damaged: {damage}.")
                packs[name] = data
        record, value = new_record(video, packs)
        self._write(
            video.id, record, {key_of(name, video.id): data for name, data in packs.items()}, value, instead_of=video_id
        )

    def close(self) -> None:
        """Fold the journal into shards and write the manifest."""
        try:
            if has_journal(self.path) or self._restated:
                self._fold()
            self._write_manifest()
        finally:
            self._files.close()

    def _write(
        self, video_id: str, record: Record, packs: dict[bytes, bytes], value: bytes, *, instead_of: str | None = None
    ) -> None:
        with self._transaction() as transaction:
            self._forget(transaction, video_id)
            transaction.put(key_of(record.kind, video_id), value)
            for key, data in packs.items():
                transaction.put(key, data)
            if instead_of is not None:
                self._take_out(transaction, instead_of)
        self._note(video_id, record)
        if instead_of is not None:
            self._note(instead_of, None)
        self._fold_if_full()

    def _take_out(self, transaction: lmdb.Transaction, video_id: str) -> None:
        self._forget(transaction, video_id)
        if video_id in self._home:
            transaction.put(key_of("gone", video_id), protect({"id": video_id}))

    def _note(self, video_id: str, record: Record | None) -> None:
        """Keep in mind what the journal now says of a file."""
        old = self._journal.get(video_id)
        change = (record.payload if record else 0) - (old.payload if old else 0)
        self._journal_bytes += change
        if video_id not in self._home:
            self._new_bytes += change
        self._journal[video_id] = record
        self._restated.pop(video_id, None)

    def _forget(self, transaction: lmdb.Transaction, video_id: str) -> None:
        for kind in ("video", "aside", "gone", *_STREAMS):
            transaction.delete(key_of(kind, video_id))

    @contextmanager
    def _transaction(self) -> Iterator[lmdb.Transaction]:
        with self._disk_errors(), self._files.journal(self.path / JOURNAL, write=True).begin(write=True) as transaction:
            yield transaction

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except lmdb.Error as error:
            raise ViccError(
                f"Cannot write to the store {self.path}: {error}. If the disk is full, free some space and give the "
                "same command again: the videos written so far are kept."
            ) from error

    def _growing(self) -> tuple[str, int]:
        """The shard that new videos go to, and its size so far."""
        names = sorted(self._shards)
        size = payload(self._shards[names[-1]].values()) if names else 0
        return (names[-1], size) if names and size < self.shard_bytes else (next_shard_name(names), 0)

    def _fold_if_full(self) -> None:
        # Asked after every video, so that a shard holds as many as it would have held had no writer
        # been stopped. Changed videos go back to their shards; a journal full of them is folded
        # too, or it would grow without end.
        if self._journal and max(self._growing()[1] + self._new_bytes, self._journal_bytes) >= self.shard_bytes:
            self._fold()

    def _fold(self) -> None:
        """Write the shards anew that the journal changes, then take the journal away.

        Killed in between, the next writer finds shards that hold some of the journal already, and
        does it again.
        """
        growing = self._growing()[0]
        changed: dict[str, dict[str, Record]] = {}
        for video_id, record in self._journal.items():
            name = self._home.get(video_id, growing)
            records = changed.setdefault(name, dict(self._shards.get(name, {})))
            records.pop(video_id, None)
            if record is not None:
                records[video_id] = record
        for video_id, (record, _) in self._restated.items():
            name = self._home[video_id]
            changed.setdefault(name, dict(self._shards[name]))[video_id] = record
        with self._disk_errors():
            # Also a sign that the shards are being written, for whoever looks at the store before
            # they all are.
            journal = self._files.journal(self.path / JOURNAL, write=True)
            for name, records in sorted(changed.items()):
                if not records:
                    (self.path / name).unlink(missing_ok=True)
                    continue
                old = self._files.shard(self.path / name) if name in self._shards else journal
                environments = {video_id: journal if video_id in self._journal else old for video_id in records}
                values: dict[bytes, lmdb.Environment | bytes] = {
                    key: environments[video_id] for video_id, record in records.items() for key in record.lmdb_keys()
                }
                for video_id in records.keys() & self._restated.keys():
                    values[key_of("video", video_id)] = self._restated[video_id][1]
                self._hashes[name] = write_shard(self.path / name, values)
        del journal
        self._files.close()
        remove_journal(self.path)
        for name, records in changed.items():
            self._shards[name] = records
            if not records:
                del self._shards[name]
        self._home = {video_id: name for name, records in self._shards.items() for video_id in records}
        self._journal, self._restated, self._new_bytes, self._journal_bytes = {}, {}, 0, 0

    def _write_manifest(self) -> None:
        path = self.path / MANIFEST
        description = read_json(self.path / _STORE_FILE, what="store description")
        manifest = make_manifest(self.path, description, self._shards, known=self._hashes)
        if not (path.exists() and path.read_bytes() == manifest.to_bytes()):
            manifest.write(self.path)


def make_manifest(
    folder: Path,
    description: dict[str, Any],
    shards: Mapping[str, Mapping[str, Record]],
    *,
    known: Mapping[str, str],
) -> Manifest:
    """The manifest of a store's folder.

    Args:
        shards: the records of each shard, by id.
        known: blake2b of shards as files, where they have just been written. Others are taken from
            the manifest that stands in the folder, as far as the records are the same, or else
            computed.
    """
    old: dict[tuple[str, int, str], str] = {}
    if (folder / MANIFEST).exists():
        with suppress(ViccError):  # a damaged one is written anew
            found = read_manifest((folder / MANIFEST).read_bytes(), where=str(folder / MANIFEST))
            old = {(shard.name, shard.bytes, shard.content): shard.blake2b for shard in found.shards}
    facts = [
        (name, (folder / name).stat().st_size, _content_sum(records.values()))
        for name, records in sorted(shards.items())
    ]
    unknown = sum(size for name, size, content in facts if name not in known and (name, size, content) not in old)
    files: list[ShardFile] = []
    with progress("checksums", total=round(unknown / 1e6), unit="MB") if unknown > 1e9 else nullcontext() as advance:
        for name, size, content in facts:
            checksum = known.get(name) or old.get((name, size, content))
            if checksum is None:
                checksum = file_blake2b(folder / name)
                if advance is not None:
                    advance(round(size / 1e6), name)
            files.append(ShardFile(name, size, content, checksum))
    documents = {name: [record.to_json() for _, record in sorted(shards[name].items())] for name, _, _ in facts}
    return Manifest(description, files, documents)


def _content_sum(records: Iterable[Record]) -> str:
    return blake2b("".join(sorted(record.blake2b for record in records)).encode())


def describe(settings: StoreSettings) -> dict[str, Any]:
    """The content of store.json."""
    return {"format": FORMAT, "version": FORMAT_VERSION, "settings": asdict(settings)}


def store_exists(place: Path | str) -> bool:
    """Whether there is a store, readable or not, in a folder or behind a URL."""
    if isinstance(place, str) and is_url(place):
        return remote_manifest(place) is not None
    return (Path(place) / _STORE_FILE).exists()


def mark_unfinished(folder: Path) -> None:
    """A `vicc prepare` into a store begins: it lacks videos until `mark_finished`, however the
    command ends.
    """
    (folder / _UNFINISHED).touch()


def mark_finished(folder: Path) -> None:
    """The `vicc prepare` came to its end."""
    (folder / _UNFINISHED).unlink(missing_ok=True)


def is_unfinished(folder: Path) -> bool:
    """Whether a `vicc prepare` into a store is under way, or was the last one and did not come to
    its end.
    """
    return has_journal(folder) or (folder / _UNFINISHED).exists()


def say_if_unfinished(store: Store) -> None:
    """Warn whoever trains on, divides or measures a store that lacks some of its videos, as it
    looks like any other.
    """
    if isinstance(store.path, Path) and is_unfinished(store.path):
        say(
            f"warning: the store {store.path} is not complete: its `vicc prepare` is at work or was stopped, with "
            f"{len(store.videos)} videos there so far. Give that command again, to its end"
        )


def read_settings(path: Path) -> StoreSettings:
    """The settings of a store in a folder.

    Raises:
        ViccError: no store, one of another format version, or a damaged description.
    """
    require_store(path)
    return _parse_description(read_json(path / _STORE_FILE, what="store description"), path)


def _parse_description(description: Any, path: Path | str) -> StoreSettings:
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ViccError(f"{path}/{_STORE_FILE} does not describe a vicc store.")
    version = description.get("version")
    if version != FORMAT_VERSION:
        raise ViccError(
            f"The store {path} has format version {version}; this vicc reads version {FORMAT_VERSION}. "
            + ("Update vicc." if isinstance(version, int) and version > FORMAT_VERSION else "Prepare the videos again.")
        )
    try:
        return StoreSettings(**description["settings"])
    except (KeyError, TypeError) as error:
        raise ViccError(f"The settings in {path}/{_STORE_FILE} cannot be understood: {error}.") from error


def _require_manifest(url: str) -> Manifest:
    manifest = remote_manifest(url)
    if manifest is None:
        raise ViccError(
            f"No store at {url} (there is no {MANIFEST}): the address is wrong, or a copy to it has not ended. "
            f"Copy one there with: vicc store copy STORE {url}"
        )
    return manifest


def _records_of_manifest(manifest: Manifest, where: str) -> list[tuple[str, Record]]:
    try:
        return [
            (name, Record.from_json(document)) for name, documents in manifest.records.items() for document in documents
        ]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ViccError(f"The manifest of {where} holds an entry that cannot be understood ({error}).") from error


def _records_of_folder(folder: Path, files: OpenFiles) -> list[tuple[str, Record]]:
    """Every record of a store and where it stands, as one moment has them."""
    for _ in range(10):
        try:
            # The journal first: a writer that folds it meanwhile has its videos in the shards
            # before it is gone.
            journal = dict(_journal_records(folder, files))
            shards = [(name, record) for name, record in _shard_records(folder, files)]
        except FileNotFoundError:
            files.close()  # a writer has just moved something: look again
            continue
        found = [(name, record) for name, record in shards if record.entry.id not in journal]
        return found + [(JOURNAL, record) for record in journal.values() if record is not None]
    raise ViccError(f"The store {folder} changes too fast to be read. Give the command again.")


def _shard_records(folder: Path, files: OpenFiles) -> Iterator[tuple[str, Record]]:
    for name in shard_names(folder):
        for _, record in _parsed(files.shard(folder / name), folder / name):
            assert record is not None  # only the journal drops
            yield name, record


def _journal_records(folder: Path, files: OpenFiles) -> Iterator[tuple[str, Record | None]]:
    """What the journal says of each file; None for one that is dropped."""
    if has_journal(folder):
        with suppress(FileNotFoundError):  # folded meanwhile
            yield from _parsed(files.journal(folder / JOURNAL), folder / JOURNAL)


def _parsed(environment: lmdb.Environment, path: Path) -> Iterator[tuple[str, Record | None]]:
    try:
        with environment.begin() as transaction:
            for kind in ("video", "aside"):
                for _, value in items_of(transaction, f"{kind}:".encode()):
                    record = parse_record(kind, value)
                    yield record.entry.id, record
            for _, value in items_of(transaction, b"gone:"):
                yield unprotect(value)["id"], None
    except (lmdb.Error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ViccError(
            f"The shard {path} holds an entry that cannot be understood ({error}): it is damaged or of another version "
            "of vicc. See what else is: vicc store verify"
        ) from error
