"""Results found in files and folders, and whether they may stand side by side."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicc.errors import ViccError
from vicc.evaluation.result import Data, Protocol, Result, Row, read_result
from vicc.progress import say

_MARK = '"vicc_result"'
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class Measured:
    """A result, the file it was read from, and the row of it that was asked for, if one was
    (FILE:ROW).
    """

    path: Path
    result: Result
    row: Row | None = None

    @property
    def rows(self) -> list[Row]:
        """The row asked for, or all rows."""
        return self.result.rows if self.row is None else [self.row]


def open_measured(place: str, kind: str = "retrieval") -> Measured:
    """Read FILE, RUN (its KIND.json), or either with :ROW.

    Raises:
        ViccError: no such file, no result, no such row, or a result without labels.
    """
    name, row = place, None
    if not Path(place).exists() and ":" in place:
        name, _, row = place.partition(":") if not Path(place.rpartition(":")[0]).exists() else place.rpartition(":")
    path = Path(name)
    if path.is_dir():
        path = path / f"{kind}.json"
        if not path.exists():
            there = sorted(other.stem for other in path.parent.glob("*.json") if _is_result(other))
            raise ViccError(
                f"{name} has no {path.name}; "
                + (f"its results are: {', '.join(there)} (--kind)." if there else "nothing has been measured there.")
            )
    result = read_result(path)
    if not result.rows:
        raise ViccError(f"The result {path} has no rows: its videos have no labels, so nothing can be compared.")
    return Measured(path, result, None if row is None else result.row(row))


def expanded(places: Sequence[str]) -> list[str]:
    """The places, those with wildcards as what they stand for: before :ROW a shell does not see to
    that.
    """
    found: list[str] = []
    for place in places:
        name, colon, row = place.partition(":")
        there = [] if Path(place).exists() else sorted(glob.glob(name))
        found += [f"{one}{colon}{row}" for one in there] or [place]
    return found


def find_results(places: Sequence[str]) -> list[Measured]:
    """Results of files, and of folders at any depth, by path. What a folder has that cannot be read
    is said.

    Raises:
        ViccError: a file that is no result, or a place without one.
    """
    found: dict[Path, Measured] = {}
    any_file = False
    for place in expanded(places):
        folder = Path(place)
        if not folder.is_dir():
            one = open_measured(place)
            found.setdefault(one.path.resolve() / (one.row.name if one.row else ""), one)
            continue
        files = [path for path in sorted(folder.rglob("*.json")) if _is_result(path)]
        any_file |= bool(files)
        for path, result in _readable(files):
            if result.rows:
                found.setdefault(path.resolve(), Measured(path, result))
            else:
                say(f"left out {path}: its videos have no labels")
    if not found:
        why = "all are left out" if any_file else "no JSON file of vicc's at any depth"
        raise ViccError(
            f"There is no result in {', '.join(places)} ({why}). Make one with: vicc retrieve --run RUN "
            "--store STORE, of videos with labels"
        )
    return list(found.values())


def _readable(files: Sequence[Path]) -> Iterator[tuple[Path, Result]]:
    for path in files:
        try:
            yield path, read_result(path)
        except ViccError as error:
            say(f"left out {path}: {error}")


def _is_result(path: Path) -> bool:
    """By the file's beginning, so that large files of another kind are not read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return _MARK in file.read(100)
    except OSError:
        return False


def protocol_differences(one: Protocol, other: Protocol) -> list[str]:
    """What keeps two protocols apart, in words; empty where their numbers may stand in one column."""
    found = [
        f"{what} {mine} and {theirs}"
        for what, mine, theirs in (
            ("protocol", one.name, other.name),
            ("version", one.version, other.version),
        )
        if mine != theirs
    ]
    for name in dict.fromkeys((*one.settings, *other.settings)):
        mine, theirs = (protocol.settings.get(name, "not given") for protocol in (one, other))
        if mine != theirs:
            found.append(f"{name.replace('_', ' ')} {mine} and {theirs}")
    return found


def data_differences(one: Data, other: Data) -> list[str]:
    """What keeps two data sets apart, whatever their splits."""
    if one.name != other.name:
        return [f"data {one.name} ({one.place}) and {other.name} ({other.place})"]
    if one.content != other.content:
        return [f"videos, labels or lengths of {one.place} and {other.place} (fingerprints differ)"]
    return []


def some(names: Sequence[Any]) -> str:
    """A few of many names."""
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(map(str, names[:_NAMES_SHOWN])) + more
