"""The divisions published with UCF101, HMDB51 and Kinetics, all folds, looked up by the names of the clips."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vicc.data.sources import KINETICS_NAME, Split, VideoSource, file_id, read_csv
from vicc.data.splits import SplitTable
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
_UCF101_LIST = re.compile(r"(train|test)list(\d+)\.txt")
_HMDB51_LIST = re.compile(r"(.+)_test_split(\d+)\.txt")
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
    """The lists of one data set; `key` turns a clip's name without its suffix into a key of `rows`."""

    title: str
    folds: list[int]
    rows: dict[str, _Row]
    key: Callable[[str], str]


def with_official_splits(
    place: Path, sources: Sequence[VideoSource], *, given: Path | None = None
) -> tuple[list[VideoSource], SplitTable | None]:
    """Find the official lists that name these videos; the sources, labelled by the lists where they had no label, and
    a table with a row for each file that the lists name.

    Clips are found by their names without suffix, so converted files are too. Kinetics' validation videos are the
    tested ones; its test videos are tested only where no list of validation videos is there.

    Args:
        place: where the sources were found; lists in it and in the usual folders in it and beside it are found.
        given: the folder of the lists or, for Kinetics, the CSV file; then nothing else is searched.

    Raises:
        ViccError: `given` holds no official lists, or none that names one of the videos; a list that cannot be read.
    """
    found = [lists for folder in _folders(place, given) for lists in _read_lists(folder)]
    if given is not None and not found:
        raise ViccError(
            f"{given} holds no official split files. Give the folder with trainlist01.txt and testlist01.txt (UCF101) "
            "or CLASS_test_split1.txt (HMDB51), or a CSV with the columns youtube_id, time_start, split (Kinetics)."
        )
    labels: dict[str, str | None] = {}
    cells: dict[str, dict[int, Split]] = {}
    for lists in found:
        named = {}
        for source in sources:
            name = file_id(source.id)
            row = lists.rows.get(lists.key(Path(name).stem))
            if row is not None and name not in cells:
                named[name] = row
        labels |= {name: row.label for name, row in named.items()}
        cells |= {name: row.cells for name, row in named.items()}
        if named:
            folds = f"{len(lists.folds)} fold{'s' if len(lists.folds) > 1 else ''}"
            files = len({file_id(source.id) for source in sources})
            say(f"official splits of {lists.title}, {folds}: they name {len(named)} of {files} videos")
    if not cells:
        if given is not None:
            raise ViccError(f"The official split files in {given} name none of the {len(sources)} videos in {place}.")
        return list(sources), None
    num_folds = max(fold for lists in found for fold in lists.folds)
    table = SplitTable(
        num_folds,
        {name: tuple(row.get(fold) for fold in range(1, num_folds + 1)) for name, row in sorted(cells.items())},
    )
    labelled = [replace(source, label=source.label or labels.get(file_id(source.id))) for source in sources]
    if len({source.label for source in labelled}) == 1:
        labelled = list(sources)  # one single class is no label
    return labelled, table


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
    kinetics = [path for path in files if path.suffix.lower() == ".csv" and _has_kinetics_columns(path)]
    if ucf101:
        yield _read_ucf101(folder, ucf101)
    if hmdb51:
        yield _read_hmdb51(hmdb51)
    if kinetics:
        yield _read_kinetics(kinetics)


def _read_ucf101(folder: Path, files: list[tuple[Path, re.Match[str]]]) -> _Lists:
    sides: dict[int, set[str]] = defaultdict(set)
    rows: dict[str, _Row] = {}
    for path, match in files:
        side: Split = "train" if match[1] == "train" else "test"
        fold = int(match[2])
        sides[fold].add(side)
        for number, line in _lines(path):
            # "Class/v_Class_g08_c01.avi 1"; the lists of test videos leave the class's number out.
            name = Path(re.sub(r"\s+\d+$", "", line))
            row = rows.setdefault(name.stem.casefold(), _Row(name.parent.name or None))
            _put(row, fold, side, path, number)
    for fold, there in sorted(sides.items()):
        if len(there) < 2 or fold < 1:
            lacking = "test" if there == {"train"} else "train"
            raise ViccError(
                f"{folder} has no {lacking}list{fold:02d}.txt, without which fold {fold} of UCF101 is not whole. "
                "Put it there, or take the other list of that fold away."
            )
    return _Lists("UCF101", sorted(sides), rows, str.casefold)


def _read_hmdb51(files: list[tuple[Path, re.Match[str]]]) -> _Lists:
    rows: dict[str, _Row] = {}
    folds = set()
    for path, match in files:
        fold = int(match[2])
        folds.add(fold)
        for number, line in _lines(path):
            name, _, cell = line.rpartition(" ")
            if cell not in _HMDB51_CELLS or not name:
                raise ViccError(
                    f"Line {number} of {path} reads {line[:80]!r}; expected a file's name and 0 (unused), 1 (train) or "
                    "2 (test)."
                )
            row = rows.setdefault(Path(name.strip()).stem.casefold(), _Row(match[1]))
            side = _HMDB51_CELLS[cell]
            if side is not None:
                _put(row, fold, side, path, number)
    return _Lists("HMDB51", sorted(folds), rows, str.casefold)


def _read_kinetics(files: list[Path]) -> _Lists:
    found = [
        (path, line, row)
        for path in files
        for line, row in read_csv(path, required=_KINETICS_COLUMNS, what="list of Kinetics")
    ]
    words = {row["split"].strip().lower() for _, _, row in found}
    tested = "val" if any(_KINETICS_WORDS.get(word) == "val" for word in words) else "test"
    rows: dict[str, _Row] = {}
    ambiguous: set[str] = set()
    for path, line, row in found:
        word = _KINETICS_WORDS.get(row["split"].strip().lower())
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
        entry = _Row(row.get("label", "").strip() or None, {1: side} if side else {})
        youtube_id = row["youtube_id"].strip()
        # A file is named by the id alone, or by id and time. An id alone must not mean two different rows.
        if rows.get(youtube_id, entry) != entry:
            ambiguous.add(youtube_id)
        rows[youtube_id] = rows[f"{youtube_id}_{start:06d}"] = entry
    for youtube_id in ambiguous:
        del rows[youtube_id]
    return _Lists("Kinetics", [1], rows, _kinetics_key)


def _kinetics_key(stem: str) -> str:
    match = KINETICS_NAME.fullmatch(stem)
    return stem if match is None or match["start"] is None else f"{match['id']}_{match['start']}"


def _has_kinetics_columns(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            heading = file.readline(1000)
    except OSError:
        return False
    return set(_KINETICS_COLUMNS) <= {name.strip().strip('"') for name in heading.split(",")}


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
