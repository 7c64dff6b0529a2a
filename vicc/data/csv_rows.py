"""CSV files as spreadsheets and people write them, to rows by column."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vicc.errors import ViccError

if TYPE_CHECKING:
    import _csv

_DELIMITERS = (",", ";", "\t")
_AS_THEY_STAND = frozenset(("path", "id"))  # a name of a file may begin or end with a blank; see `vicc.data.names`
_IN_ONE_LINE = frozenset(("label", "group", "split"))  # other columns are not vicc's, and may hold whole texts
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_csv(
    path: Path, *, required: Iterable[str], what: str, errors: str = "strict"
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file by column, each with the number of its line in the file; `what` names
    the file in errors.

    Commas, semicolons or tabs stand between the cells, whichever gives the columns required. Names
    of columns are in small letters; blanks and quotes around a cell are taken away, but for the
    columns `path` and `id`. Empty rows are left out.

    Raises:
        ViccError: on iteration, for a file that cannot be read, a column that is missing or there
            twice, or a row of another length than the heading.
    """
    required = tuple(required)
    try:
        with path.open(newline="", encoding=_encoding(path), errors=errors) as file:
            reader, columns = _reader(file, required)
            if not set(required) <= set(columns):
                raise ViccError(f"{path} has the columns {columns}; expected at least {' and '.join(required)}.")
            if len(set(columns)) < len(columns):
                raise ViccError(f"{path} has two columns of the same name: {columns}. Take one of them out.")
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(columns):
                    raise ViccError(
                        f"Line {reader.line_num} of {path} has {len(cells)} cells; expected {len(columns)}, as in its "
                        'heading. A comma inside a cell needs double quotes around the cell: "a,b.mp4".'
                    )
                row = list(zip(columns, cells, strict=True))
                if broken := [name for name, cell in row if name in _IN_ONE_LINE and len(cell.splitlines()) > 1]:
                    raise ViccError(
                        f"The {broken[0]} that ends in line {reader.line_num} of {path} goes over several lines, so "
                        "rows are lost in it: a double quote is opened and not closed. Close it or take it out."
                    )
                yield (
                    reader.line_num,
                    {name: cell if name in _AS_THEY_STAND else unquoted(cell) for name, cell in row},
                )
    except (OSError, UnicodeError, csv.Error) as error:
        raise ViccError(f"The {what} {path} cannot be read: {error}.") from error


def has_columns(path: Path, required: Iterable[str]) -> bool:
    """Whether a CSV file can be read and has these columns."""
    required = tuple(required)
    try:
        with path.open(newline="", encoding=_encoding(path), errors="replace") as file:
            return set(required) <= set(_reader(file, required)[1])
    except (OSError, UnicodeError, csv.Error):
        return False


def unquoted(cell: str) -> str:
    """A cell without the blanks and the quotes around it."""
    text = cell.strip()
    for quote in "\"'":
        if len(text) > 1 and text[0] == text[-1] == quote:
            return text[1:-1].strip()
    return text


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in _UTF_16 else "utf-8-sig"  # UTF-16: "Unicode text" of spreadsheets


def _reader(file: IO[str], required: tuple[str, ...]) -> "tuple[_csv.Reader, list[str]]":
    """A reader that stands after the heading, and the columns."""
    heading = file.readline()

    def columns(delimiter: str) -> list[str]:
        return [unquoted(name).lower() for name in next(csv.reader([heading], delimiter=delimiter), [])]

    fitting = [delimiter for delimiter in _DELIMITERS if set(required) <= set(columns(delimiter))]
    delimiter = fitting[0] if fitting else _DELIMITERS[0]
    file.seek(0)
    # A blank after the delimiter belongs to no cell where the heading has one too; else it may
    # begin a file's name.
    reader = csv.reader(file, delimiter=delimiter, skipinitialspace=f"{delimiter} " in heading)
    next(reader, None)
    return reader, columns(delimiter)
