"""Which videos a place holds, and what is known of them: a folder, one file, or a list of paths in CSV or Parquet."""

import csv
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vicc.errors import ViccError
from vicc.places import require_videos
from vicc.video.decode import VIDEO_SUFFIXES

Split = Literal["train", "test"]
SPLIT_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "val", "validate", "validation"), "test"),
}
GROUPS_FILE = "groups.csv"
LIST_SUFFIXES = frozenset((".csv", ".parquet"))
_LIST_COLUMNS = ("path", "label", "group", "split", "start", "end")

_PART = re.compile(r"#\d+\.\d{3}-(?:\d+\.\d{3}|end)$")
_UCF101 = re.compile(r"v_(?P<label>.+)_g(?P<group>\d+)_c\d+", re.IGNORECASE)
# <source>_<class>_<visible part of the body>_<camera moves>_<people>_<side>_<quality>_<number>
_HMDB51 = re.compile(r"(?P<rest>.+)_[fhlu]_(?:cm|nm)_np\d+_(?:ba|fr|le|ri)_(?:bad|goo|med)_\d+")
KINETICS_NAME = re.compile(r"(?P<id>[A-Za-z0-9_-]{11})(?:_(?P<start>\d{6})_\d{6})?")


@dataclass(frozen=True)
class VideoSource:
    """A video file, or a part of one, and what its place says of it.

    Attributes:
        id: path relative to the folder, with forward slashes, and `#START-END` for a part; the video's name everywhere
            in vicc. Sorted by id, the parts of a file are in the order of time (in files of up to 27 hours).
        label: class name, or None where nothing names a class.
        group: source of the clip; clips of one group never fall into both training and test. None: its own source.
        split: "train" or "test" where the place says so, else None.
        start, end: seconds after the file's first frame between which the video lies, `end` itself left out. None:
            from the beginning, to the end.
    """

    id: str
    path: Path
    label: str | None
    group: str | None
    split: Split | None
    start: float | None = None
    end: float | None = None


def discover_videos(place: Path, *, groups: Path | None = None) -> list[VideoSource]:
    """List the videos of a folder, a single video file or a list (.csv, .parquet), sorted by id.

    Understood layouts of a folder: `video.mp4` (no labels), `class/video.mp4`, and either of them inside `train/` and
    `test/` (or `val/`, which is tested too). A label is the name of the folder that holds the file; one single class
    is no label. A file `groups.csv` in the folder, or the one given, with a column `path` and a column `group` (and
    `label`, which then wins over the folder's name), says which clips come from the same source.

    A list has a column `path` (relative to the list's folder, or absolute) and may have `label`, `group`, `split`
    (train or test) and `start` and `end` in seconds, so that several rows may be parts of one file.

    Where nothing names a group, the names of UCF101, HMDB51 and Kinetics do.

    Raises:
        ViccError: no such place, no video in it, or a list or groups file that cannot be used.
    """
    require_videos(place)
    if place.is_dir():
        sources = _from_folder(place, groups)
    elif groups is not None:
        raise ViccError(f"--groups {groups} is for a folder of videos; {place} is a file.")
    elif place.suffix.lower() in LIST_SUFFIXES:
        sources = _from_list(place)
    elif place.suffix.lower() in VIDEO_SUFFIXES:
        sources = [VideoSource(place.name, place, None, None, None)]
    else:
        raise ViccError(
            f"{place} is neither a video (its name ends in none of {', '.join(sorted(VIDEO_SUFFIXES))}) nor a list "
            "(.csv, .parquet). Give one of these, or a folder of videos."
        )
    if len({source.label for source in sources}) == 1:
        sources = [replace(source, label=None) for source in sources]
    return _with_groups(sorted(sources, key=lambda source: source.id))


def part_id(file_id: str, start: float | None, end: float | None) -> str:
    """The id of a part of a file: `long.mp4#00010.000-00020.000`; of the whole file its own."""
    if start is None and end is None:
        return file_id
    return f"{file_id}#{start or 0.0:09.3f}-{'end' if end is None else f'{end:09.3f}'}"


def file_id(video_id: str) -> str:
    """The id of the file that a part belongs to; of a whole file its own."""
    return _PART.sub("", video_id)


def part_of(source: VideoSource, start: float | None, end: float | None) -> VideoSource:
    """A part of a video. All parts of a file have the same group, so that no division puts them on both sides."""
    name = file_id(source.id)
    return replace(source, id=part_id(name, start, end), group=source.group or name, start=start, end=end)


def _from_folder(folder: Path, groups: Path | None) -> list[VideoSource]:
    files = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    if not files:
        raise ViccError(
            f"No videos in {folder}: none of its files ends in one of {', '.join(sorted(VIDEO_SUFFIXES))}. "
            "Check the folder, or convert the files (for instance to .mp4)."
        )
    rows = _read_groups(groups or folder / GROUPS_FILE, required=groups is not None)
    sources = [_source(folder, path, rows) for path in files]
    unknown = sorted(set(rows) - {source.id for source in sources})
    if groups is not None and len(unknown) == len(rows):
        raise ViccError(
            f"No path in {groups} names a video in {folder} (first: {unknown[0] if unknown else 'it has no rows'}). "
            "Paths must be relative to the folder."
        )
    return sources


def _source(folder: Path, path: Path, rows: Mapping[str, Mapping[str, str]]) -> VideoSource:
    relative = path.relative_to(folder)
    parts = relative.parts
    split = SPLIT_WORDS.get(parts[0].lower()) if len(parts) > 1 else None
    inner = parts[1:] if split else parts
    row = rows.get(relative.as_posix(), {})
    return VideoSource(
        id=relative.as_posix(),
        path=path,
        label=row.get("label") or (inner[-2] if len(inner) > 1 else None),
        group=row.get("group") or None,
        split=split,
    )


def _read_groups(path: Path, *, required: bool) -> dict[str, dict[str, str]]:
    if not path.exists():
        if required:
            raise ViccError(f"No such groups file: {path}. Give a CSV with the columns path and group.")
        return {}
    return {row["path"]: row for _, row in read_csv(path, required=("path", "group"), what="groups file")}


def read_csv(
    path: Path, *, required: Iterable[str], what: str, errors: str = "strict"
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file by column, each with the number of its line in the file; `what` names the file in errors.

    Raises:
        ViccError: on iteration, for a file that cannot be read, a column that is missing or there twice, or a row of
            another length than the heading.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors=errors) as file:
            reader = csv.reader(file)
            columns = [name.strip() for name in next(reader, [])]
            if not set(required) <= set(columns):
                raise ViccError(f"{path} has the columns {columns}; expected at least {' and '.join(required)}.")
            if len(set(columns)) < len(columns):
                raise ViccError(f"{path} has two columns of the same name: {columns}. Take one of them out.")
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(columns):
                    raise ViccError(
                        f"Line {reader.line_num} of {path} has {len(cells)} cells; expected {len(columns)}, as in its "
                        'heading. A comma inside a cell needs double quotes around the cell: "a,b.mp4".'
                    )
                yield reader.line_num, dict(zip(columns, cells, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ViccError(f"The {what} {path} cannot be read: {error}.") from error


def _from_list(path: Path) -> list[VideoSource]:
    # Names of files need not be valid UTF-8; surrogates carry the bytes that are not.
    rows = (
        _parquet_rows(path)
        if path.suffix.lower() == ".parquet"
        else read_csv(path, required=("path",), what="list of videos", errors="surrogateescape")
    )
    lines: dict[str, int] = {}
    sources = []
    for line, row in rows:
        source = _listed(path, line, row)
        if source.id in lines:
            raise ViccError(
                f"Lines {lines[source.id]} and {line} of {path} both give {source.id!r}. Take one of them out."
            )
        lines[source.id] = line
        sources.append(source)
    if not sources:
        raise ViccError(f"The list of videos {path} has no rows. Give one row a video.")
    if not any(source.path.exists() for source in sources):
        raise ViccError(
            f"None of the {len(sources)} paths in {path} exists (first: {sources[0].path}). Relative paths are "
            f"relative to the list's folder, {path.absolute().parent}."
        )
    return sources


def _listed(place: Path, line: int, row: Mapping[str, str]) -> VideoSource:
    cells = {name: row.get(name, "").strip() for name in _LIST_COLUMNS}
    where = f"Line {line} of {place}"
    if not cells["path"] or "\0" in cells["path"]:
        raise ViccError(f"{where} has no usable path: {cells['path']!r}. Give the path of a video file.")
    split = SPLIT_WORDS.get(cells["split"].lower())
    if cells["split"] and split is None:
        raise ViccError(f"{where} has split {cells['split']!r}; expected train, test or nothing.")
    start, end = (_seconds(cells[name], f"{where} has {name}") for name in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        raise ViccError(f"{where} ends at {end} s, not after its start at {start or 0.0} s. Give end > start.")
    folder = Path(os.path.normpath(place.absolute().parent))
    path = Path(os.path.normpath(folder / cells["path"]))
    inside = path.is_relative_to(folder) or not Path(cells["path"]).is_absolute()
    relative = Path(os.path.relpath(path, folder)) if inside else path
    # An id is a name, not a place to go to: no leading slash or ".." in it.
    name = Path(*(part for part in relative.parts if part not in ("..", relative.anchor))).as_posix()
    return VideoSource(
        part_id(name, start, end), path, cells["label"] or None, cells["group"] or None, split, start, end
    )


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
            columns = file.schema_arrow.names
            if "path" not in columns:
                raise ViccError(f"{path} has the columns {columns}; expected at least path.")
            wanted = [name for name in _LIST_COLUMNS if name in columns]
            line = 0
            for batch in file.iter_batches(columns=wanted):
                for row in batch.to_pylist():
                    line += 1
                    yield line, {name: _cell(value) for name, value in row.items()}
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise ViccError(f"The list of videos {path} cannot be read: {' '.join(str(error).split())[:200]}.") from error


def _cell(value: Any) -> str:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if missing else str(value)


def _with_groups(sources: list[VideoSource]) -> list[VideoSource]:
    """The groups that the data sets' naming gives, where the place gave none."""
    stems = [Path(file_id(source.id)).stem for source in sources]
    # Any name of eleven letters could be a YouTube id; a set of them is one if all are, and some mix their cases.
    kinetics = all(KINETICS_NAME.fullmatch(stem) for stem in stems) and any(
        stem[:11] not in (stem[:11].lower(), stem[:11].upper()) for stem in stems
    )
    return [
        source if source.group else replace(source, group=_group(source, stem, kinetics) or _own_file(source))
        for source, stem in zip(sources, stems, strict=True)
    ]


def _own_file(source: VideoSource) -> str | None:
    return None if source.start is None and source.end is None else file_id(source.id)


def _group(source: VideoSource, stem: str, kinetics: bool) -> str | None:
    if ucf101 := _UCF101.fullmatch(stem):
        # One class of UCF101 is spelled HandstandPushups as a folder and HandStandPushups in its files.
        label = ucf101["label"]
        label = source.label if source.label and source.label.lower() == label.lower() else label
        return f"{label}_g{ucf101['group']}"
    if hmdb51 := _HMDB51.fullmatch(stem):
        # Without a label the class stays in the group's name: which of the words it is cannot be told.
        return hmdb51["rest"].removesuffix(f"_{source.label}")
    return KINETICS_NAME.fullmatch(stem)["id"] if kinetics else None  # type: ignore[index]
