"""The manifest of a store: its shards with their checksums, and every record with the shard it
stands in.

A store in a folder is read from its shards, which are the truth. A store behind a URL is read from
its manifest, which is copied there last, so that a copy that is under way is not taken for a store.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vicc.data.shard import blake2b
from vicc.errors import ViccError
from vicc.files import atomic_write

MANIFEST = "manifest.json"
_SHARD_NAME = re.compile(r"shard-\d{5,9}\.lmdb")
_HEX = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class ShardFile:
    """A shard as a file.

    Attributes:
        content: blake2b over the checksums of its records, which also follows from reading the
            records alone.
        blake2b: of the file.
    """

    name: str
    bytes: int
    content: str
    blake2b: str

    def __post_init__(self) -> None:
        # These become file names: what comes from elsewhere must not lead out of a folder.
        if not (_SHARD_NAME.fullmatch(self.name) and _HEX.fullmatch(self.content) and _HEX.fullmatch(self.blake2b)):
            raise ValueError(f"{self.name!r} is no shard")
        if not isinstance(self.bytes, int) or self.bytes < 0:
            raise ValueError(f"{self.bytes!r} is no number of bytes")


@dataclass(frozen=True)
class Manifest:
    """What a manifest says.

    Attributes:
        description: the content of store.json.
        records: by the name of their shard, each as `Record.to_json` gives it.
    """

    description: dict[str, Any]
    shards: list[ShardFile]
    records: dict[str, list[dict[str, Any]]]

    def to_bytes(self) -> bytes:
        """As written: a JSON document whose part `manifest` is protected by the checksum beside it."""
        body = {
            "store": self.description,
            "shards": [asdict(shard) for shard in self.shards],
            "records": self.records,
        }
        text = json.dumps(body)
        return f'{{"blake2b": "{blake2b(text.encode())}", "manifest": {text}}}\n'.encode()

    @property
    def blake2b(self) -> str:
        """Of the manifest as written."""
        return blake2b(self.to_bytes())

    def write(self, folder: Path) -> None:
        """Write it into a store's folder, atomically."""
        with atomic_write(folder / MANIFEST, "wb") as file:
            file.write(self.to_bytes())


def read_manifest(data: bytes, *, where: str) -> Manifest:
    """Raises ViccError for a manifest that is damaged or of something else."""
    try:
        document = json.loads(data)
        body = document["manifest"]
        if document["blake2b"] != blake2b(json.dumps(body).encode()):
            raise ValueError("its checksum does not fit")
        manifest = Manifest(body["store"], [ShardFile(**shard) for shard in body["shards"]], body["records"])
        if set(manifest.records) - {shard.name for shard in manifest.shards}:
            raise ValueError("it has records of shards that it does not name")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ViccError(
            f"The manifest {where} is damaged ({error}). Write it anew with: vicc store copy, or vicc prepare."
        ) from error
    return manifest


def stale_shards(manifest: Manifest, folder: Path) -> list[str]:
    """What of a local store is not as its manifest says, each in a few words; sizes are compared,
    contents are not.
    """
    known = {shard.name: shard.bytes for shard in manifest.shards}
    found = {file.name: file.stat().st_size for file in folder.glob("shard-*.lmdb")}
    return [
        f"{name}: {_size(found.get(name))}, manifest {_size(known.get(name))}"
        for name in sorted(known.keys() | found.keys())
        if known.get(name) != found.get(name)
    ]


def _size(count: int | None) -> str:
    return "missing" if count is None else f"{count} bytes"
