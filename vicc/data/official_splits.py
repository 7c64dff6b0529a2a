"""The divisions published with UCF101, HMDB51 and Kinetics, all folds, looked up by the names of
the clips.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from vicc.data.csv_rows import has_columns, read_csv
from vicc.data.names import clean_path, some, without_suffix
from vicc.data.sides import Split
from vicc.data.splits import SplitTable
from vicc.data.video_files import KINETICS_NAME, VideoFile, file_id, without_single_class
from vicc.errors import ViccError
from vicc.progress import say

# Where the archives put their lists: inside the folder of videos, or beside it.
_USUAL_FOLDERS = (
    "ucfTrainTestlist",
    "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist",
    "testTrainMulti_7030_splits",
    "test_train_splits/testTrainMulti_7030_splits",
    "annotations",
)
_UCF101_LIST = re.compile(r"(train|test)list(\d+)\.txt", re.IGNORECASE)
_HMDB51_LIST = re.compile(r"(.+)_test_split(\d+)\.txt", re.IGNORECASE)
_HMDB51_CELLS: dict[str, Split | None] = {"0": None, "1": "train", "2": "test"}
_KINETICS_COLUMNS = ("youtube_id", "time_start", "split")
_KINETICS_WORDS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}


@dataclass
class _Row:
    """What the lists say of one clip: its class, and its side in each fold."""

    label: str | None
    cells: dict[int, Split] = field(default_factory=dict)


@dataclass(frozen=True)
class _Lists:
    """The lists of one data set, the `files` in `place`; `key` turns a clip's name without its
    suffix into a key of `rows`, and `unclear` are keys of several rows that differ.
    """

    title: str
    place: Path
    files: tuple[Path, ...]
    folds: list[int]
    rows: dict[str, _Row]
    key: Callable[[str], str]
    unclear: frozenset[str] = frozenset()


@dataclass(frozen=True)
class OfficialSplits:
    """What the official lists say of some videos: the files, labelled by the lists where they had
    no label, a table with a row for each file that the lists name (None: no file), sentences that a
    user should see, and the lists that were read.
    """

    files: list[VideoFile]
    table: SplitTable | None
    notes: tuple[str, ...]
    lists: tuple[Path, ...] = ()


def with_official_splits(
    place: Path, files: Sequence[VideoFile], *, given: Path | None = None
) -> tuple[list[VideoFile], SplitTable | None]:
    """The files and the table of `find_official_splits`, whose notes are said."""
    found = find_official_splits(place, files, given=given)
    for note in found.notes:
        say(note)
    return found.files, found.table


def find_official_splits(place: Path, files: Sequence[VideoFile], *, given: Path | None = None) -> OfficialSplits:
    """Find the official lists that name these videos.

    Clips are found by their names without suffix, so converted files are too. Kinetics' validation
    videos are the tested ones; its test videos are tested only where no list of validation videos
    is there.

    Args:
        place: where the files were found; lists in it and in the usual folders in it and beside it
            are found.
        given: the folder of the lists or, for Kinetics, the CSV file; then nothing else is
            searched.

    Raises:
        ViccError: `given` holds no official lists, or none that names one of the videos; a list
            that cannot be read.
    """
    found = [lists for folder in _folders(place, given) for lists in _read_lists(folder)]
    if given is not None and not found:
        raise ViccError(
            f"{given} holds no official split files. Give the folder with trainlist01.txt and testlist01.txt (UCF101) "
            "or CLASS_test_split1.txt (HMDB51), or a CSV with the columns youtube_id, time_start, split (Kinetics)."
        )
    read = tuple(file for lists in found for file in lists.files)
    labels: dict[str, str | None] = {}
    cells: dict[str, dict[int, Split]] = {}
    ids = list(dict.fromkeys(file_id(file.id) for file in files))
    notes = []
    for lists in found:
        keys = {name: lists.key(clean_path(Path(name).stem)) for name in ids}
        named = {
            name: row for name, key in keys.items() if name not in cells and (row := lists.rows.get(key)) is not None
        }
        labels |= {name: row.label for name, row in named.items()}
        cells |= {name: row.cells for name, row in named.items()}
        if named:
            folds = f"{len(lists.folds)} fold{'s' if len(lists.folds) > 1 else ''}"
            notes.append(f"official splits of {lists.title}, {folds}: they name {len(named)} of {len(ids)} videos")
        elif given is None:
            notes.append(
                f"the official lists of {lists.title} in {lists.place} name none of the {len(ids)} videos and are "
                f"not used (they name {some(list(lists.rows), at_most=1)}; here is {ids[0]})"
            )
        unclear = [name for name, key in keys.items() if key in lists.unclear]
        if unclear:
            notes.append(
                f"the lists of {lists.title} have rows that differ from one another for {len(unclear)} of {len(ids)} "
                f"videos ({some(unclear)}): none of these rows is used"
            )
    if not cells:
        if given is not None:
            raise ViccError(f"The official split files in {given} name none of the {len(files)} videos in {place}.")
        return OfficialSplits(list(files), None, tuple(notes), read)
    num_folds = max(fold for lists in found for fold in lists.folds)
    table = SplitTable(
        num_folds,
        {name: tuple(row.get(fold) for fold in range(1, num_folds + 1)) for name, row in sorted(cells.items())},
    )
    labelled = [replace(file, label=file.label or labels.get(file_id(file.id))) for file in files]
    return OfficialSplits(without_single_class(labelled)[0], table, tuple(notes), read)


def _folders(place: Path, given: Path | None) -> list[Path]:
    if given is not None:
        if not given.exists():
            raise ViccError(f"No such folder or file of official splits: {given}.")
        if given.is_file():
            return [given]
    folder = given or (place if place.is_dir() else place.parent)
    around = [folder] if given is not None else [folder, folder.absolute().parent]
    return [folder, *(path for start in around for name in _USUAL_FOLDERS if (path := start / name).is_dir())]


def _read_lists(folder: Path) -> Iterator[_Lists]:
    files = [folder] if folder.is_file() else sorted(path for path in folder.iterdir() if path.is_file())
    ucf101 = [(path, match) for path in files if (match := _UCF101_LIST.fullmatch(path.name))]
    hmdb51 = [(path, match) for path in files if (match := _HMDB51_LIST.fullmatch(path.name))]
    kinetics = [path for path in files if path.suffix.lower() == ".csv" and has_columns(path, _KINETICS_COLUMNS)]
    if ucf101:
        yield _read_ucf101(folder, ucf101)
    if hmdb51:
        yield _read_hmdb51(folder, hmdb51)
    if kinetics:
        yield _read_kinetics(folder, kinetics)


def _read_ucf101(folder: Path, files: list[tuple[Path, re.Match[str]]]) -> _Lists:
    sides: dict[int, set[str]] = defaultdict(set)
    rows: dict[str, _Row] = {}
    for path, match in files:
        side: Split = "train" if match[1].lower() == "train" else "test"
        fold = int(match[2])
        sides[fold].add(side)
        for number, line in _lines(path):
            # "Class/v_Class_g08_c01.avi 1"; the lists of test videos leave the class's number out.
            name = PurePosixPath(clean_path(re.sub(r"\s+\d+$", "", line)))
            row = rows.setdefault(without_suffix(name.name).casefold(), _Row(name.parent.name or None))
            _put(row, fold, side, path, number)
    for fold, there in sorted(sides.items()):
        if len(there) < 2 or fold < 1:
            lacking = "test" if there == {"train"} else "train"
            raise ViccError(
                f"{folder} has no {lacking}list{fold:02d}.txt, without which fold {fold} of UCF101 is not whole. "
                "Put it there, or take the other list of that fold away."
            )
    return _Lists("UCF101", folder, tuple(path for path, _ in files), sorted(sides), rows, str.casefold)


def _read_hmdb51(folder: Path, files: list[tuple[Path, re.Match[str]]]) -> _Lists:
    rows: dict[str, _Row] = {}
    folds = set()
    for path, match in files:
        fold = int(match[2])
        folds.add(fold)
        for number, line in _lines(path):
            name, cell = [*line.rsplit(None, 1), ""][:2]
            if cell not in _HMDB51_CELLS or not name:
                raise ViccError(
                    f"Line {number} of {path} reads {line[:80]!r}; expected a file's name and 0 (unused), 1 (train) or "
                    "2 (test)."
                )
            clip = without_suffix(PurePosixPath(clean_path(name)).name)
            row = rows.setdefault(clip.casefold(), _Row(match[1]))
            side = _HMDB51_CELLS[cell]
            if side is not None:
                _put(row, fold, side, path, number)
    return _Lists("HMDB51", folder, tuple(path for path, _ in files), sorted(folds), rows, str.casefold)


def _read_kinetics(folder: Path, files: list[Path]) -> _Lists:
    found = [
        (path, line, row)
        for path in files
        for line, row in read_csv(path, required=_KINETICS_COLUMNS, what="list of Kinetics")
    ]
    words = {row["split"].lower() for _, _, row in found}
    tested = "val" if any(_KINETICS_WORDS.get(word) == "val" for word in words) else "test"
    rows: dict[str, _Row] = {}
    unclear: set[str] = set()
    for path, line, row in found:
        word = _KINETICS_WORDS.get(row["split"].lower())
        try:
            start = int(float(row["time_start"]))
        except (ValueError, OverflowError):
            start = -1
        if word is None or start < 0:
            raise ViccError(
                f"Line {line} of {path} has split {row['split']!r} and time_start {row['time_start']!r}; expected "
                "train, validate or test, and seconds."
            )
        side: Split | None = "train" if word == "train" else "test" if word == tested else None
        entry = _Row(row.get("label") or None, {1: side} if side else {})
        youtube_id = row["youtube_id"]
        # A file is named by the id alone, or by id and time. Neither must mean two different rows.
        for key in (youtube_id, f"{youtube_id}_{start:06d}"):
            if rows.setdefault(key, entry) != entry:
                unclear.add(key)
    for key in unclear:
        del rows[key]
    return _Lists("Kinetics", folder, tuple(files), [1], rows, _kinetics_key, frozenset(unclear))


def _kinetics_key(stem: str) -> str:
    """The id, and the start as the lists have it where the name gives one: ID_10_20 is ID_000010."""
    match = KINETICS_NAME.fullmatch(stem)
    return stem if match is None or match["start"] is None else f"{match['id']}_{int(float(match['start'])):06d}"


def _put(row: _Row, fold: int, side: Split, path: Path, line: int) -> None:
    if row.cells.setdefault(fold, side) != side:
        raise ViccError(
            f"Line {line} of {path} puts a video on the side {side!r} of fold {fold}, and another line on the other "
            "side. Take a fresh copy of the official lists."
        )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise ViccError(f"The official list {path} cannot be read: {error}.") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.strip()
