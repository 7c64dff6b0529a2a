"""Which videos are for training and which for testing: the folders' own division, split files,
grouped folds.

A split file is a CSV with a column `id` and a column for each fold, 1, 2, ..., whose cells are
train, test or empty (the video is unused in that fold). A store keeps its own as
STORE/splits/NAME.csv. A row that names a whole file stands for all parts of it.
"""

import csv
import hashlib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from vicc.data.csv_rows import read_csv
from vicc.data.names import VideoNames, some
from vicc.data.sides import Side, Split
from vicc.data.video_files import file_id
from vicc.errors import ViccError
from vicc.files import atomic_write
from vicc.words import did_you_mean

SPLITS_FOLDER = "splits"
OFFICIAL = "official"
_BUILT_IN = ("folders", "grouped", "undivided")
_WITHOUT_FILE = ("folders", "folders:val", "grouped")
TEST_SHARE = 0.3
_HELD_OUT: tuple[Side, ...] = ("test", "val")


class SplitMember(Protocol):
    """What a split looks at; `Video` and `VideoFile` both have it."""

    @property
    def id(self) -> str: ...
    @property
    def label(self) -> str | None: ...
    @property
    def group(self) -> str | None: ...
    @property
    def split(self) -> Side | None: ...


Member = TypeVar("Member", bound=SplitMember)


@dataclass(frozen=True)
class Division(Generic[Member]):
    """Training and test videos, each in the order given; videos that the split leaves out are in
    neither.

    `name` is what `--split` takes to have it again, `notes` are sentences that a user should see,
    and `missing` are the videos that the split names and that are not here.
    """

    name: str
    train: list[Member]
    test: list[Member]
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class SplitTable:
    """What a split file says: for each id, the side in fold 1, 2, ...; None where it is unused."""

    num_folds: int
    cells: Mapping[str, tuple[Split | None, ...]]


def divide_videos(
    videos: Sequence[Member],
    split: str | None = None,
    *,
    splits_folder: Path,
    test_share: float = TEST_SHARE,
    seed: int = 0,
) -> Division[Member]:
    """Divide videos into training and test videos.

    Args:
        split: NAME:FOLD of a split file in `splits_folder`, FILE.csv:FOLD, `folders` (their own
            train and test), `folders:val` (val in place of test) or `grouped` (see
            `train_and_test`). The fold can be left out where there is one only. None: official:1
            where there are official splits, else as `train_and_test` does.
        test_share, seed: of a division by groups.

    Raises:
        ViccError: no such split or fold, a split file that cannot be used or that names none of the
            videos.
    """
    if split is None and (splits_folder / f"{OFFICIAL}.csv").exists():
        split = f"{OFFICIAL}:1"
        divided = _divide_by_file(videos, split, splits_folder)
        note = (
            f"training and test videos as in {split}, {len(divided.train)} and {len(divided.test)}; --split changes it"
        )
        return replace(divided, notes=(note, *divided.notes))
    own = _tested_side(videos)
    if split == "folders" and own is None:
        raise ViccError("--split folders: these videos did not come from train and test folders. Give another split.")
    if split == "folders:val" and not any(video.split == "val" for video in videos):
        raise ViccError(
            "--split folders:val: no videos came from val beside train and test folders. Val alone is tested by "
            "--split folders; else give another split."
        )
    if split == "grouped" or (split is None and own is None):
        train, test = divide_by_groups(videos, test_share=test_share, seed=seed)
        name = "grouped" if test else "undivided"
        return Division(name, train, test, (*_notes_on_groups(videos, train, test), *note_on_sides_passed_over(videos)))
    if split is None or split in _WITHOUT_FILE:
        tested = "val" if split == "folders:val" else own
        train, test = _divide_by_sides(videos, tested)
        notes = _notes_on_sides(videos, len(train), tested)
        return Division(split or "folders", train, test, (*notes, *_note_on_shared_groups(train, test, "folders")))
    return _divide_by_file(videos, split, splits_folder)


def note_on_sides_passed_over(videos: Sequence[SplitMember]) -> tuple[str, ...]:
    """A sentence for a division that does not keep the sides that folders or a list give."""
    counts = Counter(video.split for video in videos if video.split is not None)
    if _tested_side(videos) is None:
        return ()
    sides = ", ".join(f"{side} {counts[side]}" for side in ("train", "val", "test") if counts[side])
    return (f"the sides that the folders or the list give ({sides}) are not kept: all videos are divided anew",)


def note_on_groups_of_sides(videos: Sequence[SplitMember]) -> tuple[str, ...]:
    """A sentence on groups that the sides which folders or a list give tear apart; none for a
    single side.
    """
    held_out = [video for video in videos if video.split in _HELD_OUT]
    others = [video for video in videos if video.split not in _HELD_OUT]
    return _note_on_shared_groups(others, held_out, "folders")


def _note_on_shared_groups(train: Sequence[SplitMember], test: Sequence[SplitMember], name: str) -> tuple[str, ...]:
    both = {group_name(video) for video in train} & {group_name(video) for video in test}
    if not both or name.partition(":")[0] == OFFICIAL:
        return ()
    plural = "s" * (len(both) > 1)
    return (f"{len(both)} group{plural} of videos on both sides of the split {name}, such as {min(both)}",)


def _tested_side(videos: Sequence[SplitMember]) -> Side | None:
    """The side that is tested: test, or val where there is no test; None if no video is on either."""
    sides = {video.split for video in videos}
    return next((side for side in _HELD_OUT if side in sides), None)


def _divide_by_sides(videos: Sequence[Member], tested: Side | None) -> tuple[list[Member], list[Member]]:
    """Videos that are held out are never trained on, also where they are not tested."""
    return (
        [video for video in videos if video.split not in _HELD_OUT],
        [video for video in videos if video.split == tested],
    )


def _notes_on_sides(videos: Sequence[SplitMember], num_train: int, tested: Side | None) -> tuple[str, ...]:
    counts = Counter(video.split for video in videos)
    name = "folders:val" if tested == "val" and counts["test"] else "folders"
    notes = [f"split {name}: {num_train} training and {counts[tested]} test videos, as their folders or list say"]
    left: Side = "test" if tested == "val" else "val"
    if counts[left]:
        way = "--split folders:val tests them in place of test" if left == "val" else "--split folders tests them"
        notes.append(f"{counts[left]} videos of {left} are neither trained on nor tested; {way}")
    if counts[None]:
        names = [video.id for video in videos if video.split is None]
        notes.append(f"{_of(counts[None], len(videos))} no side ({some(names)}): trained on")
    without = [video.id for video in videos if video.label is None]
    if without and len(without) < len(videos):
        notes.append(f"{_of(len(without), len(videos))} no label ({some(without)})")
    return tuple(notes)


def _notes_on_groups(videos: Sequence[Member], train: Sequence[Member], test: Sequence[Member]) -> tuple[str, ...]:
    labels = _note_on_labels(videos)
    if not test:
        labelled = any(video.label is not None for video in videos)
        why = "no group is small enough to be held out of its class" if labelled else "none has a label"
        return (f"all {len(train)} videos train, none is tested: {why}", *labels)
    note = f"split grouped: {len(train)} training and {len(test)} test videos; {describe_groups(videos)}"
    left = len(videos) - len(train) - len(test)
    share = f"{left} videos without a label are of the same groups as test videos: left out"
    return (note, *labels, *([share] if left else []))


def describe_groups(videos: Sequence[SplitMember]) -> str:
    """How many groups there are, and how many videos have none, each being a group of its own."""
    without = sum(video.group is None for video in videos)
    groups = len({video.group for video in videos} - {None})
    if not groups:
        return "no video has a group, so each counts as a recording of its own"
    have = "video has none, and" if without == 1 else "videos have none, and each"
    rest = f"{without} {have} counts as a recording of its own" if without else "and every video has one"
    return f"{groups} group{'s' * (groups > 1)}, {rest}"


def _note_on_labels(videos: Sequence[SplitMember]) -> list[str]:
    """Videos without a label among others that have one."""
    without = [video.id for video in videos if video.label is None]
    if not without or len(without) == len(videos):
        return []
    one = len(without) == 1
    return [
        f"{_of(len(without), len(videos))} no label ({some(without)}): "
        f"{'it trains, and is' if one else 'they train, and are'} not tested"
    ]


def _of(count: int, total: int) -> str:
    return f"{count} of {total} videos {'has' if count == 1 else 'have'}"


def train_and_test(
    videos: Sequence[Member], *, test_share: float = TEST_SHARE, seed: int = 0
) -> tuple[list[Member], list[Member]]:
    """Divide videos into training and test videos without a split file.

    The folders' own `train` and `test` are kept where there are any; videos of `val` are then on
    neither side. Otherwise labelled videos are divided so that about `test_share` of each class is
    tested and no group lies on both sides; the division depends only on the seed and the names of
    the groups. Videos without labels train.
    """
    own = _tested_side(videos)
    if own is not None:
        return _divide_by_sides(videos, own)
    return divide_by_groups(videos, test_share=test_share, seed=seed)


def divide_by_groups(videos: Sequence[Member], *, test_share: float, seed: int) -> tuple[list[Member], list[Member]]:
    """Training and test videos, about `test_share` of each class, whole groups only; a class keeps
    training videos.

    Depends on the seed and the names of the groups alone. Videos without labels are never tested:
    they train, but for those of a group that is tested, which are on neither side.
    """
    groups: dict[str, list[Member]] = defaultdict(list)
    labelled = [video for video in videos if video.label is not None]
    for video in labelled:
        groups[group_name(video)].append(video)
    wanted = {label: test_share * count for label, count in Counter(video.label for video in labelled).items()}
    test_groups: set[str] = set()
    taken: Counter[str | None] = Counter()
    for name in sorted(groups, key=lambda name: _hash(f"{seed}/{name}")):
        counts = Counter(video.label for video in groups[name])
        # Half a group too many is as far from the wanted share as half a group too few.
        if all(taken[label] + count / 2 <= wanted[label] for label, count in counts.items()):
            test_groups.add(name)
            taken.update(counts)
    return (
        [video for video in videos if group_name(video) not in test_groups],
        [video for video in labelled if group_name(video) in test_groups],
    )


def group_name(video: SplitMember) -> str:
    """The group of a video; a video without one is a group of its own."""
    return video.group or video.id


def grouped_folds(videos: Sequence[SplitMember], *, folds: int, seed: int = 0) -> SplitTable:
    """Divide videos into folds, each tested once, so that no group lies in two of them and every
    class is spread as evenly as whole groups allow. Depends only on the seed, ids, labels and
    groups, not on the order.

    The largest groups are placed first, each to the fold where its classes are rarest; then groups
    move, or change places with one another, as long as that makes the folds more even.

    Raises:
        ViccError: fewer groups than folds.
    """
    groups: dict[str, list[SplitMember]] = defaultdict(list)
    for video in videos:
        groups[group_name(video)].append(video)
    if len(groups) < folds:
        raise ViccError(
            f"{len(groups)} group{'s' if len(groups) != 1 else ''} of videos cannot make {folds} folds, since a group "
            "stays whole. Give a smaller --folds."
        )
    counts = {name: _counts(members) for name, members in groups.items()}
    fold_of_group = _distribute(counts, folds, seed)
    fold_of = {video.id: fold_of_group[name] for name, members in groups.items() for video in members}
    cells: dict[str, tuple[Split | None, ...]] = {
        name: tuple("test" if fold == number else "train" for number in range(folds))
        for name, fold in sorted(fold_of.items())
    }
    return SplitTable(folds, cells)


class _All:
    """Stands for the class of all videos: folds are balanced in size as they are in each class."""


_ROUNDS = 20
_LEAST_GAIN = 1e-9  # rounding must not make groups move for ever
_MOST_SWAPPED = 300  # groups: trying all pairs of more takes minutes and gains nothing, as many small groups are even


def _counts(members: Iterable[SplitMember]) -> Counter[Hashable]:
    # Labels in one order, or sums of floats would depend on the order of the videos. Videos without
    # a label are spread as evenly as those of a class.
    counts: Counter[Hashable] = Counter(sorted(video.label or "" for video in members))
    counts[_All] = counts.total()
    return counts


def _distribute(groups: Mapping[str, Counter[Hashable]], folds: int, seed: int) -> dict[str, int]:
    """The fold of each group. Minimises the sum, over folds and classes, of n * n / (videos of the
    class).
    """
    total: Counter[Hashable] = Counter()
    for counts in groups.values():
        total.update(counts)
    filled: list[Counter[Hashable]] = [Counter() for _ in range(folds)]
    names = sorted(groups, key=lambda name: (-groups[name][_All], _hash(f"{seed}/{name}")))
    fold_of: dict[str, int] = {}
    for name in names:

        def added(fold: int, counts: Counter[Hashable] = groups[name]) -> float:
            return sum(count * (2 * filled[fold][label] + count) / total[label] for label, count in counts.items())

        # An empty fold costs least and is the smallest, so none stays empty.
        fold_of[name] = min(range(folds), key=lambda fold: (added(fold), filled[fold][_All], fold))
        filled[fold_of[name]].update(groups[name])

    nothing: Counter[Hashable] = Counter()

    def change(name: str, fold: int, back: str | None) -> float:
        """What the sum gains when a group goes to `fold` and another group comes back from there."""
        come = groups[back] if back is not None else nothing
        here, there = filled[fold_of[name]], filled[fold]
        difference = {label: come[label] - groups[name][label] for label in {**groups[name], **come}}
        return sum(2 * d * (here[label] - there[label] + d) / total[label] for label, d in difference.items() if d)

    for _ in range(_ROUNDS):
        moved = False
        for name in names:
            here = fold_of[name]
            last = sum(fold == here for fold in fold_of.values()) == 1
            moves = [(fold, None) for fold in range(folds) if fold != here and not last]
            swaps = [(fold_of[other], other) for other in names if fold_of[other] != here]
            choices: list[tuple[int, str | None]] = [*moves, *(swaps if len(names) <= _MOST_SWAPPED else [])]
            gains = [change(name, *choice) for choice in choices]
            if gains and min(gains) < -_LEAST_GAIN:
                fold, back = choices[gains.index(min(gains))]
                for group, target in ((name, fold), (back, here)):
                    if group is not None:
                        filled[fold_of[group]].subtract(groups[group])
                        filled[target].update(groups[group])
                        fold_of[group] = target
                moved = True
        if not moved:
            break
    return fold_of


def read_split_table(path: Path) -> SplitTable:
    """Read a split file.

    Raises:
        ViccError: no such file, or one that is no split file; the message names the line.
    """
    if not path.is_file():
        raise ViccError(f"No such split file: {path}. Make one with: vicc splits STORE --folds 5")
    cells: dict[str, tuple[Split | None, ...]] = {}
    columns: list[str] = []
    for line, row in read_csv(path, required=("id",), what="split file", errors="surrogateescape"):
        columns = [name for name in row if name != "id"]
        if columns != [str(number) for number in range(1, len(columns) + 1)] or not columns:
            raise ViccError(f"{path} has the columns {list(row)}; expected id, 1, 2, ... with a column for each fold.")
        if row["id"] in cells:
            raise ViccError(f"Line {line} of {path} gives {row['id']!r} a second time. Take one of the lines out.")
        cells[row["id"]] = tuple(_side(row[name], f"Line {line} of {path}") for name in columns)
    if not cells:
        raise ViccError(f"The split file {path} has no rows; expected one for each video.")
    return SplitTable(len(columns), cells)


def write_split_table(path: Path, table: SplitTable) -> None:
    """Write a split file, atomically, sorted by id."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", *range(1, table.num_folds + 1)])
    writer.writerows([name, *(cell or "" for cell in cells)] for name, cells in sorted(table.cells.items()))
    with atomic_write(path, "wb") as file:
        file.write(text.getvalue().encode("utf-8", "surrogateescape"))  # names of files need not be valid UTF-8


def add_to_split_table(path: Path, table: SplitTable) -> None:
    """Write a split file; rows that it holds for other videos stay."""
    old = read_split_table(path) if path.exists() else SplitTable(table.num_folds, {})
    num_folds = max(old.num_folds, table.num_folds)
    cells = {
        name: (*sides, *[None] * (num_folds - len(sides))) for name, sides in [*old.cells.items(), *table.cells.items()]
    }
    both = SplitTable(num_folds, cells)
    if both != old or not path.exists():
        write_split_table(path, both)


def division_table(division: Division[Member]) -> SplitTable:
    """A division as a split table of one fold, to be kept."""
    train: dict[str, tuple[Split | None, ...]] = {video.id: ("train",) for video in division.train}
    return SplitTable(1, {**train, **{video.id: ("test",) for video in division.test}})


def require_split_name(name: str) -> None:
    """Make sure that a name for a split file is one: a word, not a path, and free to take.

    Raises:
        ViccError: it is not.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or name.endswith(".csv"):
        raise ViccError(
            f"--name {name!r}: expected letters, digits, '-', '_' and '.', such as grouped-5. For a file elsewhere "
            "give --out FILE.csv."
        )
    if name in (OFFICIAL, *_BUILT_IN):
        raise ViccError(f"--name {name}: this name has a meaning of its own. Give another, such as my-{name}.")


def divide_by_table(videos: Sequence[Member], table: SplitTable, fold: int, *, name: str) -> Division[Member]:
    """Divide videos as one fold of a table says; `name` is the split's, for the notes.

    Raises:
        ViccError: the table names none of the videos.
    """
    keys = _rows_of_videos(videos, table, fold, name)
    sides = {key: cells[fold - 1] for key, cells in table.cells.items()}
    train = [video for video in videos if sides.get(keys[video.id]) == "train"]
    test = [video for video in videos if sides.get(keys[video.id]) == "test"]
    missing = [video.id for video in videos if keys[video.id] not in sides]
    lacking = sorted({key for key, side in sides.items() if side is not None} - set(keys.values()))
    notes = [
        f"{len(missing)} of {len(videos)} videos are not in the split {name}: they are left out ({some(missing)})"
        if missing
        else "",
        f"{len(lacking)} of {len(sides)} videos of the split {name} are not here: it is used without them "
        f"({some(lacking)})"
        if lacking
        else "",
        *_note_on_shared_groups(train, test, name),
    ]
    return Division(name, train, test, tuple(note for note in notes if note), tuple(lacking))


def _rows_of_videos(videos: Sequence[SplitMember], table: SplitTable, fold: int, name: str) -> dict[str, str]:
    """For each video the name by which the table calls it, or its file; its own id where it does
    not.

    Raises:
        ViccError: the table names none of the videos, or one of them twice, on different sides.
    """
    names = list(table.cells)
    matched = VideoNames({name for video in videos for name in (video.id, file_id(video.id))}).match(names)
    for written, fitting in matched.ambiguous.items():
        raise ViccError(f"The split {name} has {written!r}, which could be {' or '.join(fitting[:3])}. Mend that row.")
    rows: dict[str, str] = {}
    for written, video in zip(names, matched.ids, strict=True):
        if video is None:
            continue
        other = rows.setdefault(video, written)
        if table.cells[other][fold - 1] != table.cells[written][fold - 1]:
            raise ViccError(
                f"The split {name} has {video!r} twice, as {other!r} and as {written!r}, on different sides. Take one "
                "of the rows out."
            )
    if not rows:
        raise ViccError(
            f"The split {name} names none of these {len(videos)} videos: it belongs to other ones "
            f"({some(names)}; here: {some([video.id for video in videos])})."
        )
    return {video.id: rows.get(video.id) or rows.get(file_id(video.id)) or video.id for video in videos}


def require_split(split: str, splits_folder: Path) -> None:
    """Make sure that there is such a split, as far as that can be known without the videos.

    Raises:
        ViccError: no such split or fold, or a split file that cannot be used.
    """
    if split not in _WITHOUT_FILE:
        _find_fold(split, splits_folder)


def _divide_by_file(videos: Sequence[Member], split: str, folder: Path) -> Division[Member]:
    table, name, fold = _find_fold(split, folder)
    return divide_by_table(videos, table, fold, name=f"{name}:{fold}")


def _find_fold(split: str, folder: Path) -> tuple[SplitTable, str, int]:
    """The table that NAME:FOLD or FILE.csv:FOLD means, NAME or FILE.csv, and the fold."""
    name, colon, fold = split.rpartition(":")
    if not (colon and re.fullmatch(r"[0-9]{1,4}", fold)):
        name, fold = split, ""
    path = Path(name) if name.endswith(".csv") or "/" in name else folder / f"{name}.csv"
    if not path.is_file() and path.parent == folder:
        there = sorted(file.stem for file in folder.glob("*.csv"))
        raise ViccError(
            f"--split {split}: there is no split {name!r} in {folder}."
            f"{did_you_mean(name, [*there, 'folders', 'grouped'])} "
            + (f"There are: {', '.join(there)}." if there else "Make one with: vicc splits STORE --folds 5")
        )
    table = read_split_table(path)
    if not fold and table.num_folds > 1:
        raise ViccError(
            f"--split {split}: it has {table.num_folds} folds. Give one of them, for instance --split {name}:1"
        )
    if not 1 <= int(fold or 1) <= table.num_folds:
        raise ViccError(f"--split {split}: there is no fold {fold}; {path} has {table.num_folds}, from 1.")
    return table, name, int(fold or 1)


def _side(cell: str, where: str) -> Split | None:
    side: Split | None = {"train": "train", "test": "test"}.get(cell.lower())  # type: ignore[assignment]
    if cell and side is None:
        raise ViccError(f"{where} has {cell!r}; expected train, test or nothing.")
    return side


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape")).digest()
