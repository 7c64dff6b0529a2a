"""The videos of a folder, of one file, or of a list of paths in CSV or Parquet, and what is known
of them.
"""

import math
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from vicc.data.csv_rows import has_columns, read_csv
from vicc.data.folder_walk import PassedOver, walk_folder, without_read
from vicc.data.names import ExistingFiles, VideoNames, clean_path, some
from vicc.data.sides import Folders, Kind, Side, find_side_folders, kind_of, resolve_sides
from vicc.errors import ViccError
from vicc.places import require_videos
from vicc.progress import say
from vicc.video.container import VIDEO_SUFFIXES

GROUPS_FILE = "groups.csv"
LIST_SUFFIXES = frozenset((".csv", ".parquet"))
_LIST_COLUMNS = ("path", "label", "group", "split", "start", "end")
_GROUPS_COLUMNS = ("path", "group", "label")

_NO_NAMES = frozenset(("nan", "<na>", "n/a", "#n/a", "null", "none"))

_COMMON_SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".webm")
_SUFFIXES = f"{', '.join(_COMMON_SUFFIXES)} or one of {len(VIDEO_SUFFIXES) - len(_COMMON_SUFFIXES)} others"

_PART = re.compile(r"#\d+\.\d{3}-(?:\d+\.\d{3}|end)$")
_UCF101 = re.compile(r"v_(?P<label>.+)_g(?P<group>\d+)_c\d+", re.IGNORECASE)
# <source>_<class>_<visible part of the body>_<camera moves>_<people>_<side>_<quality>_<number>
_HMDB51 = re.compile(r"(?P<rest>.+)_[fhlu]_(?:cm|nm)_np\d+_(?:ba|fr|le|ri)_(?:bad|goo|med)_\d+")
# As the archives write times, 000010_000020; other downloaders write 10_20, 10.0_20.0 or 10-20.
KINETICS_NAME = re.compile(
    r"(?P<id>[A-Za-z0-9_-]{11})(?:[_-](?P<start>\d{1,6}(?:\.\d+)?)[_-]\d{1,6}(?:\.\d+)?)?", re.ASCII
)
_KINETICS_PADDED = re.compile(r"[A-Za-z0-9_-]{11}_\d{6}_\d{6}")


@dataclass(frozen=True)
class VideoFile:
    """A video file, or a part of one, and what its folder or list says of it.

    Attributes:
        id: path relative to the folder, with forward slashes, and `#START-END` for a part; the
            video's name everywhere in vicc. Sorted by id, the parts of a file are in the order of
            time (in files of up to 27 hours).
        label: class name, or None where nothing names a class.
        group: the recording that it was cut from; videos of one group never fall into both training
            and test. None: a recording of its own.
        split: "train" or "test" where folder or list says so, else None; "val" where it has both
            val and test: then the videos of val are neither trained on nor tested unless asked for.
        start, end: seconds after the file's first frame between which the video lies, `end` itself
            left out. None: from the beginning, to the end.
    """

    id: str
    path: Path
    label: str | None
    group: str | None
    split: Side | None
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Listing:
    """The videos of a folder, file or list, sorted by id, and what was found out on the way.

    Attributes:
        passed_over: files and folders that are no videos of it, by reason.
        single_class: the one class that all labelled videos had, which is no label, so that they
            have none.
        groups_from: how many videos have their group from where.
        split_from: what names the sides: "folders", "list", or nothing.
        notes: sentences that a user should see.
    """

    files: list[VideoFile]
    passed_over: tuple[PassedOver, ...] = ()
    single_class: str | None = None
    groups_from: Mapping[str, int] = field(default_factory=dict)
    split_from: str = ""
    notes: tuple[str, ...] = ()


def discover_videos(place: Path, *, groups: Path | None = None) -> list[VideoFile]:
    """List videos as `list_video_files` does; print what was passed over and what else is worth
    knowing.

    Raises:
        ViccError: no such path, no video in it, or a list or groups file that cannot be used.
    """
    listing = list_video_files(place, groups=groups)
    if listing.passed_over:
        say(f"passed over in {place}: {'; '.join(map(describe_passed, listing.passed_over))}")
    for note in listing.notes:
        say(f"note: {note}")
    return listing.files


def list_video_files(place: Path, *, groups: Path | None = None) -> Listing:
    """List the videos of a folder, a single video file or a list (.csv, .parquet), sorted by id.

    Understood layouts of a folder: `video.mp4` (no labels), `class/video.mp4`, and either of them
    inside `train/` and `test/`, in the spellings that `vicc.data.sides` lists. With `val/` in place
    of `test/` that is tested; beside `test/` it is neither trained on nor tested. A label is the
    name of the folder that holds the file; one single class is no label. Links are followed. A file
    `groups.csv` in the folder, or the one given, with a column `path` and a column `group` (and
    `label`, which then wins over the folder's name), says which clips are of the same recording.

    A list has a column `path` (relative to the list's folder, or absolute) and may have `label`,
    `group`, `split` (train, val or test) and `start` and `end` in seconds, so that several rows may
    be parts of one file.

    Where nothing names a group, the names of UCF101, HMDB51 and Kinetics do. Nothing is said: the
    listing has it all.

    Raises:
        ViccError: no such path, no video in it, or a list or groups file that cannot be used.
    """
    require_videos(place)
    if place.is_dir():
        listing = _from_folder(place, groups)
    elif groups is not None:
        raise ViccError(f"--groups {groups} is for a folder of videos; {place} is a file.")
    elif place.suffix.lower() in LIST_SUFFIXES:
        listing = _from_list(place)
    elif place.suffix.lower() in VIDEO_SUFFIXES:
        listing = Listing([VideoFile(place.name, place, None, None, None)])
    else:
        raise ViccError(
            f"{place} is neither a video (its name does not end in {_SUFFIXES}) nor a list "
            "(.csv, .parquet). Give one of these, or a folder of videos."
        )
    files, single = without_single_class([_composed(file) for file in listing.files])
    files, origins = _with_groups(sorted(files, key=lambda file: file.id))
    return replace(
        listing,
        files=files,
        single_class=single,
        groups_from=Counter(listing.groups_from) + origins,
        notes=(*listing.notes, *_note_on_spelling(files), *_note_on_no_names(files)),
    )


def _composed(file: VideoFile) -> VideoFile:
    """With its label and group in one Unicode form (NFC): file systems and spreadsheets differ in
    it.
    """
    label, group = (name and unicodedata.normalize("NFC", name) for name in (file.label, file.group))
    return replace(file, label=label, group=group)


def _note_on_spelling(files: Sequence[VideoFile]) -> list[str]:
    """Classes, and groups, that are likely to be one, since their names differ in case or blanks
    only.

    The signs in a group's name count: tape-1-12 is not tape-11-2.
    """
    notes = []
    for what, names, ignored in (
        ("classes", {file.label for file in files}, r"[\W_]+"),
        ("groups", {file.group for file in files}, r"\s+"),
    ):
        spellings: dict[str, set[str]] = defaultdict(set)
        for name in names - {None}:
            spellings[re.sub(ignored, "", str(name)).casefold()].add(str(name))
        alike = [" and ".join(sorted(same)) for key, same in sorted(spellings.items()) if key and len(same) > 1]
        if alike:
            notes.append(f"{what} that are told apart though their names hardly differ: {some(alike)}")
    return notes


def _note_on_no_names(files: Sequence[VideoFile]) -> list[str]:
    """Labels and groups that are other programs' words for an empty cell, and are names here all
    the same.
    """
    notes = []
    for what in ("label", "group"):
        names: Counter[str] = Counter(getattr(file, what) or "" for file in files)
        for name, count in sorted(names.items()):
            if name.casefold() in _NO_NAMES:
                notes.append(
                    f"{count} videos have the {what} {name!r}, which is taken as a name like any other. If it means "
                    "none, leave the cell empty"
                )
    return notes


def without_single_class(files: Sequence[VideoFile]) -> tuple[list[VideoFile], str | None]:
    """The videos without their labels and that class, if it is a single one: it tells no video from
    another.
    """
    classes = {file.label for file in files} - {None}
    if len(classes) != 1:
        return list(files), None
    return [replace(file, label=None) for file in files], classes.pop()


def describe_passed(entry: PassedOver) -> str:
    """For instance `other suffix .txt 2 (a.txt, b.txt)`."""
    more = ", ..." * (entry.count > len(entry.examples))
    return f"{entry.reason} {entry.count}" + (f" ({', '.join(entry.examples)}{more})" if entry.examples else "")


def part_id(file_id: str, start: float | None, end: float | None) -> str:
    """The id of a part of a file: `long.mp4#00010.000-00020.000`; of the whole file its own."""
    if start is None and end is None:
        return file_id
    return f"{file_id}#{start or 0.0:09.3f}-{'end' if end is None else f'{end:09.3f}'}"


def file_id(video_id: str) -> str:
    """The id of the file that a part belongs to; of a whole file its own."""
    return _PART.sub("", video_id)


def part_of(file: VideoFile, start: float | None, end: float | None) -> VideoFile:
    """A part of a video. All parts of a file have the same group, so that no division puts them on
    both sides.
    """
    name = file_id(file.id)
    return replace(file, id=part_id(name, start, end), group=file.group or name, start=start, end=end)


def _from_folder(folder: Path, groups: Path | None) -> Listing:
    walked = walk_folder(folder, look_for=GROUPS_FILE)
    if not walked.files:
        passed = "; ".join(map(describe_passed, walked.passed_over))
        raise ViccError(
            f"No videos in {folder}: none of its files ends in {_SUFFIXES}"
            + (f" (passed over: {passed})" if passed else "")
            + ". Check the folder, or convert the files (for instance to .mp4)."
        )
    found = find_side_folders(path.parts[:-1] for path in walked.files)
    places = [found.place_of(path.parts[:-1]) for path in walked.files]
    inner = [_inside(path.parts[:-1], place) for path, place in zip(walked.files, places, strict=True)]
    kinds = [
        None if place is None else found.sides[path.parts[: place + 1]]
        for path, place in zip(walked.files, places, strict=True)
    ]
    ids = [str(path) for path in walked.files]
    if groups is None:
        rows, notes = _read_all_groups(folder, walked.named, ids)
    else:
        rows, notes = _read_groups(groups, ids, folder)
        others = [str(name) for name in walked.named if os.path.realpath(folder / name) != os.path.realpath(groups)]
        notes += [f"not used, since --groups is given: {some(others)}"] if others else []
    files = []
    for path, folders, side in zip(walked.files, inner, resolve_sides(kinds), strict=True):
        row = rows.get(str(path), {})
        label = row.get("label") or (folders[-1] if folders else None)
        files.append(VideoFile(str(path), folder / path, label, row.get("group") or None, side))
    given = sum(file.group is not None for file in files)
    # Under any other name it was counted as a file that is no video.
    others_read = [groups] if groups is not None and groups.name.lower() != GROUPS_FILE else []
    return Listing(
        files,
        without_read(walked.passed_over, folder, others_read),
        groups_from={some([str(name) for name in walked.named]) if groups is None else str(groups): given}
        if given
        else {},
        split_from="folders" if any(kinds) else "",
        notes=(*found.notes, *notes, *_note_on_depth(walked.files, inner)),
    )


def _inside(folders: Folders, side: int | None) -> Folders:
    """A file's folders without the side."""
    return folders if side is None else (*folders[:side], *folders[side + 1 :])


def _note_on_depth(files: Sequence[PurePosixPath], inner: Sequence[Folders]) -> list[str]:
    """Which folder is the label cannot be told where there are several; a single one around all of
    them is no doubt.
    """
    deep = [number for number, folders in enumerate(inner) if len(folders) > 1]
    if not deep or len({folders[:-1] for folders in inner if folders}) < 2:
        return []
    first = deep[0]
    return [
        f"videos in folders within folders, {len(deep)} of {len(files)}: the label is the folder that holds the "
        f"file ({inner[first][-1]} for {files[first]}), not one above it ({inner[first][-2]}). If that is wrong, give "
        "the column label in groups.csv or in a list"
    ]


def _read_all_groups(
    folder: Path, files: Sequence[PurePosixPath], ids: Sequence[str]
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The rows of the groups files in a folder by the ids of the videos that they name, and notes.

    A file is for the videos of the folder that it lies in and of those below it, if there are any,
    else for all.
    """
    found: dict[str, dict[str, str]] = {}
    notes: list[str] = []
    for file in files:
        above = "" if file.parent == PurePosixPath() else f"{file.parent}/"
        if above and not has_columns(folder / file, _GROUPS_COLUMNS[:2]):
            notes.append(f"{folder / file} has no columns path and group: not used")
            continue
        above = above if any(name.startswith(above) for name in ids) else ""
        below = [name.removeprefix(above) for name in ids if name.startswith(above)]
        rows, more = _read_groups(folder / file, below, folder / above)
        for name, row in rows.items():
            if found.setdefault(above + name, row) != row:
                raise ViccError(
                    f"{folder / file} and another {GROUPS_FILE} in {folder} give {above + name} different groups or "
                    "labels. Take the row out of one of them."
                )
        notes += more
    return found, notes


def _read_groups(path: Path, ids: Sequence[str], folder: Path) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The rows of a groups file by the ids of the videos that they name, and notes."""
    if not path.exists():
        raise ViccError(f"No such groups file: {path}. Give a CSV with the columns path and group.")
    rows = list(read_csv(path, required=("path", "group"), what="groups file"))
    names = [row["path"] for _, row in rows]
    matched = VideoNames(ids, folder=folder).match(names)
    for name, fitting in matched.ambiguous.items():
        raise ViccError(f"{path}: {name!r} could be {' or '.join(fitting[:3])}. Write the path as it is in the folder.")
    found: dict[str, dict[str, str]] = {}
    lines: dict[str, int] = {}
    for (line, row), video in zip(rows, matched.ids, strict=True):
        if video is None:
            continue
        facts = {name: row.get(name, "") for name in ("group", "label")}
        if found.setdefault(video, facts) != facts:
            first = found[video]
            what = "group" if first["group"] != facts["group"] else "label"
            raise ViccError(
                f"Lines {lines[video]} and {line} of {path} give {video} the {what}s {first[what]!r} and "
                f"{facts[what]!r}. Take one of them out."
            )
        lines.setdefault(video, line)
    unknown = [name for name, video in zip(names, matched.ids, strict=True) if video is None]
    if not found:
        raise ViccError(
            f"No path in {path} names a video in {folder} (first: {unknown[0] if unknown else 'it has no rows'}). "
            "Paths must be relative to the folder, such as " + min(ids) + "."
        )
    notes = _note_on_columns(path, rows[0][1], _GROUPS_COLUMNS)
    if unknown:
        plural = "s" * (len(unknown) == 1)
        notes.append(f"{len(unknown)} of {len(rows)} rows of {path} name{plural} no video here ({some(unknown)})")
    lacking = sorted(set(ids) - set(found))
    if lacking:
        plural = "is" if len(lacking) == 1 else "are"
        notes.append(f"{len(lacking)} of {len(ids)} videos {plural} in no row of {path} ({some(lacking)})")
    return found, notes


def _note_on_columns(path: Path, row: Mapping[str, str], known: Sequence[str]) -> list[str]:
    others = [name for name in row if name not in known]
    return [f"not used of {path}: {', '.join(others)} (known columns: {', '.join(known)})"] if others else []


def _from_list(path: Path) -> Listing:
    # Names of files need not be valid UTF-8; surrogates carry the bytes that are not.
    rows = list(
        _parquet_rows(path)
        if path.suffix.lower() == ".parquet"
        else read_csv(path, required=("path",), what="list of videos", errors="surrogateescape")
    )
    if not rows:
        raise ViccError(f"The list of videos {path} has no rows. Give one row a video.")
    sides = resolve_sides([_listed_kind(path, line, row) for line, row in rows])
    lines: dict[str, int] = {}
    files = []
    existing = ExistingFiles()
    for (line, row), side in zip(rows, sides, strict=True):
        file = _listed(path, line, row, side, existing)
        if file.id in lines:
            raise ViccError(f"Lines {lines[file.id]} and {line} of {path} both give {file.id!r}. Take one of them out.")
        lines[file.id] = line
        files.append(file)
    missing = [str(file.path) for file in files if not os.path.exists(file.path)]
    if len(missing) == len(files):
        raise ViccError(
            f"None of the {len(files)} paths in {path} exists (first: {files[0].path}). Relative paths are "
            f"relative to the list's folder, {path.absolute().parent}."
        )
    notes = _note_on_columns(path, rows[0][1], _LIST_COLUMNS)
    if missing:
        plural = "s" * (len(missing) == 1)
        notes.append(
            f"{len(missing)} of {len(rows)} rows of {path} name{plural} no file that is there ({some(missing)})"
        )
    notes += _note_on_overlaps(files)
    given = sum(file.group is not None for file in files)
    return Listing(
        files,
        groups_from={"the list": given} if given else {},
        split_from="list" if any(sides) else "",
        notes=tuple(notes),
    )


def _note_on_overlaps(files: Sequence[VideoFile]) -> list[str]:
    """Parts of a file that share frames and have different groups, so that these may be trained on
    and tested.
    """
    by_file: dict[str, list[VideoFile]] = defaultdict(list)
    for file in files:
        by_file[file_id(file.id)].append(file)
    shared: list[str] = []
    for parts in by_file.values():
        reached: VideoFile | None = None  # of the parts so far the one that ends last
        for part in sorted(parts, key=lambda part: part.start or 0.0):
            if reached is not None and (part.start or 0.0) < _end(reached) and part.group != reached.group:
                shared.append(f"{reached.id} and {part.id}")
            if reached is None or _end(part) > _end(reached):
                reached = part
    if not shared:
        return []
    pairs = "pair of parts overlaps" if len(shared) == 1 else "pairs of parts overlap"
    return [
        f"{len(shared)} {pairs} and are of different groups, so the same frames may train and be tested: {some(shared)}"
    ]


def _end(file: VideoFile) -> float:
    return math.inf if file.end is None else file.end


def _listed_kind(place: Path, line: int, row: Mapping[str, str]) -> Kind | None:
    word = row.get("split", "").strip()
    kind = kind_of(word)
    if word and kind is None:
        raise ViccError(f"Line {line} of {place} has split {word!r}; expected train, test, val or nothing.")
    return kind


def _listed(place: Path, line: int, row: Mapping[str, str], side: Side | None, existing: ExistingFiles) -> VideoFile:
    cells = {name: row.get(name, "").strip() for name in _LIST_COLUMNS}
    where = f"Line {line} of {place}"
    if not cells["path"] or "\0" in cells["path"]:
        raise ViccError(f"{where} has no usable path: {cells['path']!r}. Give the path of a video file.")
    start, end = (_seconds(cells[name], f"{where} has {name}") for name in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        raise ViccError(f"{where} ends at {end} s, not after its start at {start or 0.0} s. Give end > start.")
    folder = Path(os.path.normpath(place.absolute().parent))
    path = Path(os.path.normpath(folder / cells["path"]))
    if not os.path.exists(path):
        path = existing.find(Path(os.path.normpath(folder / clean_path(cells["path"]))))
    inside = path.is_relative_to(folder) or not Path(cells["path"]).is_absolute()
    relative = Path(os.path.relpath(path, folder)) if inside else path
    # An id is a name, not a place to go to: no leading slash or ".." in it.
    name = Path(*(part for part in relative.parts if part not in ("..", relative.anchor))).as_posix()
    return VideoFile(part_id(name, start, end), path, cells["label"] or None, cells["group"] or None, side, start, end)


def _seconds(text: str, where: str) -> float | None:
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ViccError(f"{where} {text!r}; expected seconds, 0 or more, such as 12.5, or nothing.")
    return seconds


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError:
        raise ViccError(
            f"Reading {path} needs pyarrow: pip install 'vicc[parquet]'. A list may also be a CSV file."
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            columns = {name: name.strip().lower() for name in file.schema_arrow.names}
            if list(columns.values()).count("path") != 1:
                raise ViccError(f"{path} has the columns {list(columns)}; expected at least path, once.")
            wanted = [name for name, known in columns.items() if known in _LIST_COLUMNS]
            line = 0
            for batch in file.iter_batches(columns=wanted):
                for row in batch.to_pylist():
                    line += 1
                    yield line, {columns[name]: _cell(value) for name, value in row.items()}
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise ViccError(f"The list of videos {path} cannot be read: {' '.join(str(error).split())[:200]}.") from error


def _cell(value: Any) -> str:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if missing else str(value)


def _with_groups(files: list[VideoFile]) -> tuple[list[VideoFile], Counter[str]]:
    """The groups that the data sets' naming gives, where the place gave none, and how many come
    from where.
    """
    stems = [unicodedata.normalize("NFC", Path(file_id(file.id)).stem) for file in files]
    # Any name of eleven letters could be a YouTube id; a set of them is one if all are, and some
    # mix their cases. A name with padded times is one for sure, whatever stands beside it.
    mixed = any(
        stem[:11] not in (stem[:11].lower(), stem[:11].upper()) for stem in stems if KINETICS_NAME.fullmatch(stem)
    )
    all_kinetics = mixed and all(KINETICS_NAME.fullmatch(stem) for stem in stems)
    origins: Counter[str] = Counter()
    grouped = []
    for file, stem in zip(files, stems, strict=True):
        if file.group is None:
            kinetics = all_kinetics or (mixed and _KINETICS_PADDED.fullmatch(stem) is not None)
            named = _group(file, stem, kinetics)
            group = named or _own_file(file)
            if group is not None:
                origins["names of the clips" if named else "the files of the parts"] += 1
            file = replace(file, group=group)
        grouped.append(file)
    return grouped, origins


def _own_file(file: VideoFile) -> str | None:
    return None if file.start is None and file.end is None else file_id(file.id)


def _group(file: VideoFile, stem: str, kinetics: bool) -> str | None:
    if ucf101 := _UCF101.fullmatch(stem):
        # One class of UCF101 is spelled HandstandPushups as a folder and HandStandPushups in its
        # files.
        label = ucf101["label"]
        label = file.label if file.label and file.label.lower() == label.lower() else label
        return f"{label}_g{ucf101['group']}"
    if hmdb51 := _HMDB51.fullmatch(stem):
        # Without a label the class stays in the group's name: which of the words it is cannot be
        # told.
        return hmdb51["rest"].removesuffix(f"_{file.label}")
    return KINETICS_NAME.fullmatch(stem)["id"] if kinetics else None  # type: ignore[index]
