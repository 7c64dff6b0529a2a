"""`vicc store verify`: all of a store against its checksums.

Each shard is read in another process, since LMDB can end its process on a damaged one.
"""

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from vicc.cores import usable_cores
from vicc.data.frame_pack import StoredStream, decode_frames, read_header
from vicc.data.maintenance import local_manifest
from vicc.data.manifest import MANIFEST
from vicc.data.records import Record, Video, parse_record
from vicc.data.remote import DamagedShardError
from vicc.data.shard import JOURNAL, OpenFiles, file_blake2b, has_journal, items_of, key_of, shard_names
from vicc.data.store import Store, read_settings
from vicc.errors import ViccError
from vicc.places import is_url
from vicc.prepare.engines import run_locally
from vicc.progress import progress

_FRAMES_AT_ONCE = 32


@dataclass(frozen=True)
class Damage:
    """Something of a store that is not as it should be; `video` is empty where it is not known
    whose.
    """

    shard: str
    video: str
    what: str


@dataclass(frozen=True)
class Verification:
    """What `verify_store` read, and what is wrong."""

    store: str
    videos: int
    bytes: int
    decoded_frames: int
    damage: list[Damage]


def verify_store(place: Path | str, *, decode: bool = False, workers: int | None = None) -> Verification:
    """Read all of a store and compare it with its checksums; with `decode`, decode every frame as
    well.

    Each shard is read in another process, since a damaged one can crash its reader.

    Raises:
        ViccError: no store, no access to a URL. Damage is no error here: it is what this function
            finds.
    """
    damage: list[Damage] = []
    files: dict[str, Path] = {}
    if isinstance(place, str) and is_url(place):
        store = Store(place)
        where = place
        for name in store.remote_shards:
            try:
                files[name] = store.shard_file(name)
            except DamagedShardError as error:
                damage.append(Damage(name, "", str(error)))
        sums = {name: shard.blake2b for name, shard in store.remote_shards.items()}
        expected = {name: {i for i, shard in store.shard_of.items() if shard == name} for name in files}
    else:
        folder = Path(place)
        read_settings(folder)
        where, files = str(folder), {name: folder / name for name in shard_names(folder)}
        manifest, problems = (None, []) if has_journal(folder) else local_manifest(folder)
        damage = [Damage("", "", problem) for problem in problems]
        sums = {shard.name: shard.blake2b for shard in manifest.shards} if manifest else {}
        expected = {
            name: {document["entry"]["id"] for document in documents}
            for name, documents in (manifest.records.items() if manifest else ())
        }
        if has_journal(folder):
            files[JOURNAL] = folder / JOURNAL
    total = sum(path.stat().st_size for path in files.values())
    items = [_File(name, path, sums.get(name), expected.get(name)) for name, path in files.items()]
    workers = max(1, min(workers or usable_cores(), len(items)))
    found: list[_Part] = []
    running = run_locally(partial(_verify_file, decode=decode), items, died=_died, size_of=_size, workers=workers)
    with progress("verify", total=round(total / 1e6), unit="MB") as advance, closing(running) as results:
        for item, part in results:
            found.append(part)
            advance(round(item.path.stat().st_size / 1e6), item.name)
    return Verification(
        store=where,
        videos=sum(part.videos for part in found),
        bytes=total,
        decoded_frames=sum(part.frames for part in found),
        damage=damage + [entry for part in found for entry in part.damage],
    )


def _size(part: "_Part") -> int:
    return 0  # a few words


@dataclass(frozen=True)
class _File:
    """A shard or the journal, and what the manifest says of it, where there is one."""

    name: str
    path: Path
    blake2b: str | None
    ids: set[str] | None


@dataclass(frozen=True)
class _Part:
    videos: int
    frames: int
    damage: list[Damage]


def _died(item: _File, reason: str) -> _Part:
    return _Part(0, 0, [Damage(item.name, "", f"reading it ends the process ({reason}): restore this file")])


def _verify_file(item: _File, *, decode: bool) -> _Part:
    """Everything in one shard, or in the journal."""
    name, path, damage = item.name, item.path, list[Damage]()
    if item.blake2b is not None and file_blake2b(path) != item.blake2b:
        damage.append(Damage(name, "", f"the file is not what {MANIFEST} says"))
    videos = frames = 0
    try:
        files = OpenFiles()
        environment = files.journal(path) if name == JOURNAL else files.shard(path)
        with environment.begin(buffers=True) as transaction:
            known: set[bytes] = set()
            ids: set[str] = set()
            for kind in ("video", "aside"):
                for key, value in items_of(transaction, f"{kind}:".encode()):
                    known.add(key)
                    try:
                        record = parse_record(kind, value)
                        if key_of(kind, record.entry.id) != key:
                            raise ValueError("it stands under another video's key")
                    except (ValueError, TypeError, KeyError, AttributeError) as error:
                        damage.append(
                            Damage(name, "", f"the record {key.decode(errors='replace')} is damaged ({error})")
                        )
                        known |= {key.replace(kind.encode(), stream.encode(), 1) for stream in get_args(StoredStream)}
                        continue
                    videos += isinstance(record.entry, Video)
                    ids.add(record.entry.id)
                    known.update(record.lmdb_keys())
                    for stream in record.packs:
                        data = transaction.get(key_of(stream, record.entry.id))
                        what, count = _verify_pack(data, record, stream, decode)
                        frames += count
                        if what:
                            damage.append(Damage(name, record.entry.id, f"stream {stream}: {what}"))
            for stray, _ in transaction.cursor():
                if bytes(stray) not in known and not bytes(stray).startswith(b"gone:"):
                    damage.append(Damage(name, "", f"{bytes(stray).decode(errors='replace')} belongs to no record"))
        missing = sorted((item.ids or set()) - ids)
        damage += [Damage(name, video_id, f"{MANIFEST} has it, the shard has not") for video_id in missing]
    except (ViccError, OSError) as error:
        damage.append(Damage(name, "", str(error)))
    except Exception as error:
        if type(error).__module__ != "lmdb":
            raise
        damage.append(Damage(name, "", f"its structure is damaged ({error})"))
    return _Part(videos, frames, damage)


def _verify_pack(data: Any, record: Record, stream: str, decode: bool) -> tuple[str, int]:
    """What is wrong with a pack, in words, or nothing; and how many of its frames were decoded."""
    what = record.damage(stream, data)
    if what or not decode:
        return what, 0
    try:
        num = read_header(data).num
        for start in range(0, num, _FRAMES_AT_ONCE):
            decode_frames(data, range(start, min(start + _FRAMES_AT_ONCE, num)))
    except ViccError as error:
        return str(error), 0
    if isinstance(record.entry, Video) and stream == "rgb" and num != record.entry.num_frames:
        return f"{num} frames of {record.entry.num_frames}", num
    return "", num
