"""Folders and words that name a side of a division: train, val, test, in the spellings that are
met.

A folder is a side if a counterpart stands beside it: a training side beside a validation or test
side. Alone it is one only if it holds nothing but folders (of classes). Else it is a class that
happens to be called so.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "test"]
Side = Literal["train", "val", "test"]
"""The side of a video, as a folder or list names it. `val` only where videos for testing are named
too: then those alone are tested.
"""

Folders = tuple[str, ...]
"""Names of folders, from the outermost one."""

Kind = Literal["train", "val", "eval", "test"]
"""What a word says by itself; see `resolve_sides` for what becomes of it among the others."""
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev", "devel", "development"), "val"),
    **dict.fromkeys(("eval", "evaluation", "evaluate", "holdout", "heldout"), "eval"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
_RANKS: tuple[Kind, ...] = ("test", "eval", "val")  # of those that are there the first is tested
_NEUTRAL = frozenset(
    (
        *("set", "sets", "split", "splits", "part", "subset", "data", "dataset", "list", "lists"),
        *("folder", "dir", "video", "videos", "clip", "clips", "px"),
    )
)
_HELD_OUT_WORDS = "test, val, valid, dev, eval, holdout"


@dataclass(frozen=True)
class SideFolders:
    """Which folders are sides.

    Attributes:
        sides: by a side's folders, itself last.
        notes: what a user should know of folders that look like sides.
    """

    sides: Mapping[Folders, Kind]
    notes: tuple[str, ...]

    def place_of(self, folders: Folders) -> int | None:
        """Where in a file's folders the side is; None if there is none."""
        return next((place for place in range(len(folders)) if folders[: place + 1] in self.sides), None)


def kind_of(text: str) -> Kind | None:
    """What a word says, such as `Train`, `dev` or `val_256`; None if it names no side."""
    kind, rest = _parse(text)
    return None if _telling(rest) else kind


def resolve_sides(kinds: Sequence[Kind | None]) -> list[Side | None]:
    """The side of each video. Of held-out videos of several kinds (val and test) only one kind is
    tested.
    """
    tested = next((kind for kind in _RANKS if kind in kinds), None)
    sides: dict[Kind | None, Side | None] = {"train": "train", "val": "val", "eval": "val", tested: "test", None: None}
    return [sides[kind] for kind in kinds]


def find_side_folders(folders_of_files: Iterable[Folders]) -> SideFolders:
    """Find the folders that are sides, given for each file the folders that it lies in."""
    direct: set[Folders] = set(folders_of_files)  # folders that hold files themselves
    children: dict[Folders, set[str]] = defaultdict(set)
    for folders in direct:
        for depth in range(len(folders)):
            children[folders[:depth]].add(folders[depth])
    found = _search(children, direct, depths=frozenset())
    # Once more, as CLASS/train beside CLASS/test shows what CLASS/train of a class without test
    # videos is.
    return _search(children, direct, depths=frozenset(map(len, found.sides))) if found.sides else found


def _search(children: Mapping[Folders, set[str]], direct: set[Folders], *, depths: frozenset[int]) -> SideFolders:
    """The sides; `depths` are those at which sides are known to be."""
    sides: dict[Folders, Kind] = {}
    notes: list[str] = []
    for parent in sorted(children, key=lambda folders: (len(folders), folders)):
        if any(parent[:depth] in sides for depth in range(1, len(parent) + 1)):
            continue  # what is inside a side is a class
        found, more = _sides_among(parent, children[parent], direct, len(parent) + 1 in depths)
        sides |= found
        notes += more
    return SideFolders(sides, tuple(notes))


def _sides_among(
    parent: Folders, names: set[str], direct: set[Folders], others: bool
) -> tuple[dict[Folders, Kind], list[str]]:
    """The sides among folders that stand side by side; `others`: whether there are sides elsewhere
    at this depth.
    """
    parsed = {name: _parse(name) for name in sorted(names)}
    looks = {name: (kind, rest) for name, (kind, rest) in parsed.items() if kind is not None}
    found = {name: kind for name, (kind, rest) in looks.items() if _has_counterpart(kind, rest, looks.values())}
    if found:
        beside = sorted(names - set(found))
        notes = [f"no side is known for {_named(beside, parent)}, beside {_named(found, parent)}: videos there train"]
        return {(*parent, name): kind for name, kind in found.items()}, notes if beside else []
    plain = {name: kind for name, (kind, rest) in looks.items() if not _telling(rest)}
    if others and parent and plain and len(plain) == len(names):
        return {(*parent, name): kind for name, kind in plain.items()}, []
    flat = {name for name in names if (*parent, name) in direct}
    beside = sorted(names - set(plain))
    alone = {name: kind for name, kind in plain.items() if _parse(name)[1] == () and not flat}
    if alone:
        side, other = ("training", _HELD_OUT_WORDS) if "train" in alone.values() else ("test", "train")
        note = f"no counterpart ({other}) stands beside the {side} side, {_named(alone, parent)}"
        if beside and "train" in alone.values():
            note += f"; the videos of {_named(beside, parent)} are not held out, they train as well"
        return {(*parent, name): kind for name, kind in alone.items()}, [note]
    if not plain:
        return {}, []
    side, other = ("training", _HELD_OUT_WORDS) if "train" in plain.values() else ("test", "train")
    taken = "taken for a class like any other" if flat & set(plain) else "its videos are divided like any others"
    return {}, [f"no counterpart ({other}) stands beside {_named(plain, parent)}, so that is no {side} side: {taken}"]


def _has_counterpart(kind: Kind, rest: Folders, looks: Iterable[tuple[Kind, Folders]]) -> bool:
    """Whether the other side is there: with the same words (train-clean-100 and test-clean), or one
    of the two is the plain word (train and test_unseen).
    """
    across = [_telling(other_rest) for other, other_rest in looks if (other == "train") != (kind == "train")]
    return any(other in ((), _telling(rest)) or not _telling(rest) for other in across)


def _parse(name: str) -> tuple[Kind | None, Folders]:
    """The kind that a name has a word for, and its other words: `kinetics400_train` gives train,
    kinetics and 400.
    """
    tokens = re.findall(r"[^\W\d_]+|\d+", name.casefold())
    kinds: set[Kind] = set()
    rest: list[str] = []
    for token in tokens:
        word, neutral = _without_neutral_end(token)
        if word in _KINDS:
            kinds.add(_KINDS[word])
            rest += [neutral] if neutral else []
        else:
            rest.append(token)
    if kinds == {"train", "val"}:
        kinds = {"train"}  # train_val: both are for training, and another folder is tested
    return (kinds.pop() if len(kinds) == 1 else None), tuple(rest)


def _without_neutral_end(token: str) -> tuple[str, str]:
    """`trainset` is train and set."""
    if token in _KINDS:
        return token, ""
    ends = (word for word in _NEUTRAL if token.endswith(word) and token.removesuffix(word) in _KINDS)
    end = next(ends, "")
    return token.removesuffix(end), end


def _telling(rest: Folders) -> Folders:
    """The words that say more than that this is a set of videos: no numbers, no `set`, no single
    letters.
    """
    return tuple(word for word in rest if not word.isdigit() and len(word) > 1 and word not in _NEUTRAL)


def _named(names: Iterable[str], parent: Folders) -> str:
    paths = ["/".join((*parent, name)) for name in names] or ["none"]
    *first, last = paths if len(paths) <= 4 else [*paths[:3], f"{len(paths) - 3} more"]
    return f"the folders {', '.join(first)} and {last}" if first else f"the folder {last}"
