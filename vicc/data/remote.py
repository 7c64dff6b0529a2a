"""Stores behind a URL (s3:// and what else fsspec knows): copied up whole, read shard by shard
through a local cache.

A store there has the files of a local one. Beside each shard stands SHARD.blake2b, the checksum of
what was copied, so that a copy given again sends only what is missing. The manifest goes last.

The cache is that of `vicc.data.cache`. Keys and passwords come from the environment, as fsspec and
the cloud's own tools read them; a URL that holds some is refused.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from vicc.data.cache import cache_folder, hold, make_room, mark_used
from vicc.data.manifest import MANIFEST, Manifest, ShardFile, read_manifest
from vicc.data.shard import blake2b, file_blake2b
from vicc.errors import ViccError
from vicc.files import atomic_write
from vicc.places import is_url
from vicc.progress import progress

_STORE_FILE = "store.json"
SEGMENTS_FILE = "segments.json"
"""Of a store's folder: lengths and shots of files that were measured to be cut. Without it they are
measured again.
"""
_CHUNK_BYTES = 8 << 20


class DamagedShardError(ViccError):
    """A remote shard is not what its manifest says."""


def staging_folder(url: str) -> Path:
    """The local folder in which a store is prepared before it is copied to `url`."""
    return cache_folder() / "staging" / _url_key(url)


def _url_key(url: str) -> str:
    return blake2b(url.rstrip("/").encode())


def remote_manifest(url: str) -> Manifest | None:
    """The manifest of a remote store; None where there is none.

    Raises:
        ViccError: no access, no network, a damaged manifest.
    """
    with _errors(url):
        files, root = _filesystem(url)
        data = files.cat_file(f"{root}/{MANIFEST}") if files.exists(f"{root}/{MANIFEST}") else None
    return None if data is None else read_manifest(data, where=f"{url}/{MANIFEST}")


def fetch_shard(url: str, shard: ShardFile) -> Path:
    """A shard of a remote store as a local file: copied once, whichever process asks first, and
    checked.

    Raises:
        ViccError: the shard is not there or is not what the manifest says, no access, no network, a
            full disk.
    """
    path = cache_folder() / "shards" / _url_key(url) / f"{shard.blake2b}.lmdb"
    hold(path.parent)
    if path.exists():
        mark_used(path)
        return path
    with FileLock(path.with_suffix(".lock")):  # another process may be copying it: wait for that one
        if not path.exists():
            make_room(shard.bytes)
            _download(url, shard, path)
    return path


def _download(url: str, shard: ShardFile, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    digest = hashlib.blake2b(digest_size=16)
    try:
        with _errors(url), temporary.open("wb") as target:
            files, root = _filesystem(url)
            with _megabytes(f"copy {shard.name}", shard.bytes) as advance, _reader(files, root, shard.name) as source:
                while chunk := source.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    target.write(chunk)
                    advance(len(chunk))
            target.flush()
            os.fsync(target.fileno())
        if digest.hexdigest() != shard.blake2b:
            raise DamagedShardError(
                f"The shard {shard.name} of {url} is not what its manifest says: it was damaged, or the store has "
                "been changed since this command began. Give the command again, or copy the store there again."
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _reader(files: Any, root: str, name: str) -> Any:
    # Read once from front to back: fsspec's cache would only hold memory.
    return files.open(f"{root}/{name}", "rb", cache_type="none")


def upload_store(folder: Path, manifest: Manifest, url: str) -> int:
    """Copy a local store to a URL; what is there already is not sent again. Returns the bytes that
    were sent.

    Shards that an older store there had and this one lacks are removed, once the new manifest
    stands.

    Raises:
        ViccError: no access, no network; the same command given again goes on where it was.
    """
    with _errors(url):
        files, root = _filesystem(url)
        _make_folder(files, root)
        found = files.find(root, maxdepth=1, detail=True)
        there = {path.rpartition("/")[2]: entry["size"] for path, entry in found.items()}
        missing = [shard for shard in manifest.shards if not _is_there(files, root, shard, there)]
        others = [_STORE_FILE, *other_files(folder), *[SEGMENTS_FILE] * (folder / SEGMENTS_FILE).exists()]
        with _megabytes("copy", sum(shard.bytes for shard in missing)) as advance:
            for shard in missing:
                # The checksum after the shard: one of which only a part, or an older one, is there
                # is sent again.
                _send(folder / shard.name, files, f"{root}/{shard.name}", advance)
                files.pipe_file(f"{root}/{shard.name}.blake2b", shard.blake2b.encode())
        for name in others:
            _make_folder(files, f"{root}/{name}".rpartition("/")[0])
            files.pipe_file(f"{root}/{name}", (folder / name).read_bytes())
        files.pipe_file(f"{root}/{MANIFEST}", manifest.to_bytes())
        kept = {shard.name for shard in manifest.shards}
        for name in there:
            if name.startswith("shard-") and name.removesuffix(".blake2b") not in kept:
                files.rm_file(f"{root}/{name}")
    return sum(shard.bytes for shard in missing)


def _is_there(files: Any, root: str, shard: ShardFile, there: dict[str, int]) -> bool:
    if there.get(shard.name) != shard.bytes or f"{shard.name}.blake2b" not in there:
        return False
    return bool(files.cat_file(f"{root}/{shard.name}.blake2b") == shard.blake2b.encode())


def _send(path: Path, files: Any, target: str, advance: Callable[[int], None]) -> None:
    with path.open("rb") as source, files.open(target, "wb") as sink:
        while chunk := source.read(_CHUNK_BYTES):
            sink.write(chunk)
            advance(len(chunk))


def _make_folder(files: Any, path: str) -> None:
    # Object stores have no folders, and for some of them this would make a bucket.
    protocols = {files.protocol} if isinstance(files.protocol, str) else set(files.protocol)
    if not protocols & {"s3", "s3a", "gs", "gcs", "abfs", "az"}:
        files.makedirs(path, exist_ok=True)


def download_store(url: str, manifest: Manifest, folder: Path) -> int:
    """Copy a remote store into a folder; shards that are there already stay. Returns the bytes that
    were fetched.

    Raises:
        ViccError: as `fetch_shard`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fetched = 0
    for shard in manifest.shards:
        path = folder / shard.name
        if not (path.exists() and path.stat().st_size == shard.bytes and file_blake2b(path) == shard.blake2b):
            _download(url, shard, path)
            fetched += shard.bytes
    kept = {shard.name for shard in manifest.shards}
    for path in folder.glob("shard-*.lmdb"):
        if path.name not in kept:
            path.unlink()
    _download_splits(url, folder)
    if (segments := read_segments(url)) is not None:
        with atomic_write(folder / SEGMENTS_FILE, "wb") as file:
            file.write(segments)
    return fetched


def read_segments(place: Path | str) -> bytes | None:
    """The file of a store, here or remote, that remembers what was measured of videos; None where
    there is none.

    Raises:
        ViccError: no access, no network.
    """
    if not (isinstance(place, str) and is_url(place)):
        path = Path(place) / SEGMENTS_FILE
        return path.read_bytes() if path.exists() else None
    with _errors(place):
        files, root = _filesystem(place)
        return bytes(files.cat_file(f"{root}/{SEGMENTS_FILE}")) if files.exists(f"{root}/{SEGMENTS_FILE}") else None


def splits_folder(place: Path | str) -> Path:
    """The folder of a store's split files; those of a URL are copied to the local cache first, each
    time.

    Raises:
        ViccError: no access, no network.
    """
    if not (isinstance(place, str) and is_url(place)):
        return Path(place) / "splits"
    folder = cache_folder() / "splits" / _url_key(place)
    _download_splits(place, folder)
    return folder / "splits"


def _download_splits(url: str, folder: Path) -> None:
    with _errors(url):
        files, root = _filesystem(url)
        names = {path[len(root) :].lstrip("/") for path in files.find(f"{root}/splits")}
        names = {name for name in names if Path(name).parts[0] == "splits" and ".." not in Path(name).parts}
        for name in names:
            with atomic_write(folder / name, "wb") as file:
                file.write(files.cat_file(f"{root}/{name}"))
        for name in set(other_files(folder)) - names:
            (folder / name).unlink(missing_ok=True)


def other_files(folder: Path) -> list[str]:
    """Files of a local store, beside its shards and what describes them, that belong to it: its
    split files.
    """
    return sorted(path.relative_to(folder).as_posix() for path in (folder / "splits").glob("*.csv"))


def _filesystem(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path there. Made anew each time: fsspec's must not cross a
    fork.
    """
    import fsspec

    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ViccError(
            f"The URL {parts.scheme}://...@{parts.netloc.rpartition('@')[2]}{parts.path} holds a user or password. "
            "Give it without, and the keys in the environment (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)."
        )
    files, root = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    return files, str(root).rstrip("/")


@contextmanager
def _megabytes(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Progress in MB for work that comes in bytes."""
    done = shown = 0
    with progress(description, total=round(total / 1e6), unit="MB") as advance:

        def add(count: int) -> None:
            nonlocal done, shown
            done += count
            advance(round(done / 1e6) - shown)
            shown = round(done / 1e6)

        yield add


@contextmanager
def _errors(url: str) -> Iterator[None]:
    """Say in one sentence why a remote store cannot be reached."""
    try:
        yield
    except ImportError as error:
        scheme = urlsplit(url).scheme
        needed = "pip install 'vicc[remote]'" if scheme in ("s3", "s3a") else f"what fsspec needs for it ({error})"
        raise ViccError(f"{url} cannot be read without another package: {needed}.") from error
    except FileNotFoundError as error:
        raise ViccError(f"{url} is not there ({_line(error)}). Check the bucket and the path.") from error
    except PermissionError as error:
        raise ViccError(
            f"No access to {url} ({_line(error)}). Check the keys in the environment and what they may do."
        ) from error
    except ValueError as error:
        raise ViccError(f"{url} is no place for a store ({_line(error)}).") from error
    except OSError as error:
        raise ViccError(f"{url} cannot be reached, or its copy not be written here ({_line(error)}).") from error
    except Exception as error:
        # Errors of the cloud's own libraries have no base in common with anything.
        if type(error).__module__.partition(".")[0] not in ("botocore", "aiobotocore", "aiohttp", "fsspec"):
            raise
        if "redential" in type(error).__name__:
            raise ViccError(
                f"No keys for {url}: expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another place where the "
                "cloud's own tools look for them."
            ) from error
        raise ViccError(f"{url} cannot be reached ({_line(error)}). Check the network and the address.") from error


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
