"""Tables for a terminal, a pipe or a log of any width: nothing is left out, and no word or number
is broken.

A table that is too wide is cut into groups of columns, the first column repeated in each; where not
even two columns fit, or there is a single row, it is turned: each value on a line of its own.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vicc.progress import new_console

if TYPE_CHECKING:  # rich takes a third of a second, and help is answered without it
    from rich.console import Console

_GAP = 2  # blanks between columns
_LONGEST_WORD = 20  # in cells of a terminal; what is longer, such as an id or a path, may be folded
_FOLDED_AFTER = ("/\\", "_-.,:=")  # best, second best


@dataclass(frozen=True)
class TextTable:
    """A header, groups of rows, a title above and a caption below.

    Attributes:
        header: a title for each column; all empty for a table without one.
        sections: groups of rows of cells. The first cell names its row. A row that is shorter than
            the header has nothing in the other columns. A line break in a cell stays one.
        numbers: all columns but the first hold numbers: they stand to the right, and a cell is kept
            in one line.
        alarming: words that are red on a terminal.
    """

    header: Sequence[str]
    sections: Sequence[Sequence[Sequence[str]]]
    title: str = ""
    caption: str = ""
    numbers: bool = False
    alarming: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True)
class Line:
    """A line as it is printed; `style` is one of rich's."""

    text: str
    style: str = ""


@functools.cache
def _console_type() -> "type[Console]":
    """rich's, but for a pipe that nobody reads any more: rich would end the program with the status
    of an error.
    """
    from rich.console import Console

    class PipeConsole(Console):
        def on_broken_pipe(self) -> None:
            raise

    return PipeConsole


def print_table(table: TextTable) -> None:
    """Print a table on standard output, as wide as that is: 80 columns where it is no terminal."""
    from rich.text import Text

    console = new_console(_console_type())
    for line in layout(table, console.width):
        text = Text(line.text, line.style)
        text.highlight_words(table.alarming, "bold red")
        console.print(text, soft_wrap=True)


def print_line(line: str) -> None:
    """Print a line on standard output as it is, however long."""
    new_console(_console_type()).print(line, markup=False, highlight=False, soft_wrap=True)


def layout(table: TextTable, width: int) -> list[Line]:
    """The lines of a table, none wider than `width` but for a word that is wider by itself (20
    signs at most).

    Every word of the title, the header, the cells and the caption stands in one line, but for words
    of more than 20 signs, which are folded where they must be.
    """
    columns = _columns(table)
    groups = _groups(columns, width, numbers=table.numbers)
    turned = groups is None or (len(groups) > 1 and sum(map(len, table.sections)) == 1)
    lines = [Line(line, "italic") for line in _wrapped(table.title, width)]
    if turned or groups is None:
        lines += _turned(table, width)
    else:
        for number, group in enumerate(groups):
            lines += [Line("")] * (number > 0)
            lines += _side_by_side(table, columns, group, width)
    return lines + [Line(line, "dim") for line in _wrapped(table.caption, width)]


@dataclass(frozen=True)
class _Column:
    """Widths of a column: `least` keeps every word whole, `whole_cells` every line of a cell,
    `natural` all of it.
    """

    least: int
    whole_cells: int
    natural: int


def _columns(table: TextTable) -> list[_Column]:
    columns = []
    for place, title in enumerate(table.header):
        cells = [row[place] for rows in table.sections for row in rows if place < len(row)]
        words = max(map(_longest_word, (title, *cells)))
        in_cells = max(map(_longest_line, cells), default=0)
        columns.append(_Column(words, max(words, in_cells), max(words, in_cells, _longest_line(title))))
    return columns


def _groups(columns: Sequence[_Column], width: int, *, numbers: bool) -> list[dict[int, int]] | None:
    """Columns that stand side by side, with their widths; the first one in every group. None where
    two do not fit.
    """
    name, *values = columns
    choices = [[column.whole_cells for column in values]] * numbers + [[column.least for column in values]]
    needed = next((needs for needs in choices if name.least + _GAP + max(needs, default=0) <= width), None)
    if needed is None:
        return None
    groups: list[dict[int, int]] = [{0: name.least}]
    for place, need in enumerate(needed, 1):
        group = groups[-1]
        if len(group) > 1 and sum(group.values()) + _GAP * len(group) + need > width:
            groups.append({0: name.least})
        groups[-1][place] = need
    return [_widened(group, columns, width) for group in groups]


def _widened(group: dict[int, int], columns: Sequence[_Column], width: int) -> dict[int, int]:
    """The columns of a group, the narrow ones first, as wide as their cells want to be and as there
    is room.
    """
    widths = dict(group)
    room = width - sum(widths.values()) - _GAP * (len(widths) - 1)
    while room > 0:
        wanting = [place for place in widths if widths[place] < columns[place].natural]
        if not wanting:
            break
        widths[min(wanting, key=lambda place: widths[place])] += 1
        room -= 1
    return widths


def _side_by_side(table: TextTable, columns: Sequence[_Column], widths: dict[int, int], width: int) -> Iterator[Line]:
    def lines(cells: Sequence[str]) -> Iterator[str]:
        folded = [_wrapped(cells[place] if place < len(cells) else "", widths[place]) for place in widths]
        for number in range(max(1, *map(len, folded))):
            parts = []
            for (place, size), cell in zip(widths.items(), folded, strict=True):
                text = cell[number] if number < len(cell) else ""
                blanks = " " * (size - _num_cells(text))
                parts.append(blanks + text if table.numbers and place else text + blanks)
            yield (" " * _GAP).join(parts).rstrip()

    if any(table.header):
        yield from (Line(line, "bold") for line in lines(table.header))
        yield Line("-" * min(width, sum(widths.values()) + _GAP * (len(widths) - 1)))
    shown = [rows for rows in table.sections if rows]
    for number, rows in enumerate(shown):
        if number:
            yield Line("")
        for row in rows:
            yield from map(Line, lines(row))


def _turned(table: TextTable, width: int) -> Iterator[Line]:
    """A row as its name and, indented below, a line for each of its values, behind the title of its
    column.
    """
    name, *titles = (" ".join(title.split()) for title in table.header)
    if len(titles) == 1 and (name or titles[0]):
        # Two columns need no title at each value.
        yield from (Line(line, "bold") for line in _wrapped(f"{name}: {titles[0]}", width))
        name, titles = "", [""]
    for rows in table.sections:
        for first, *cells in rows:
            if first:
                yield from map(Line, _wrapped(f"{name}: {first}" if name else first, width))
            for title, cell in zip(titles, cells, strict=False):
                text = " ".join(cell.split())
                if text:
                    yield from map(Line, _wrapped(f"  {title}: {text}" if title else f"  {text}", width))


def _wrapped(text: str, width: int) -> list[str]:
    """A text in lines, broken between words; each line begins with the blanks that its own first
    line begins with.
    """
    lines = []
    for line in _printable(text).split("\n") if text else ():
        indent = " " * (len(line) - len(line.lstrip(" ")))
        room = max(1, width - len(indent))
        current = ""
        for word in line.split():
            joined = f"{current} {word}" if current else word
            if _num_cells(joined) <= room:
                current = joined
                continue
            if current:
                lines.append(indent + current)
            *before, current = _folded(word, room)
            lines += [indent + piece for piece in before]
        lines.append(indent + current)
    return lines


def _folded(word: str, room: int) -> list[str]:
    """A word in pieces where it is too long to stay whole, if possible behind the signs that divide
    a path or an id.
    """
    from rich.cells import chop_cells

    pieces = []
    while _num_cells(word) > max(room, _LONGEST_WORD):
        piece = chop_cells(word, max(room, 2))[0]
        ends = (max(map(piece.rfind, signs)) + 1 for signs in _FOLDED_AFTER)
        piece = piece[: next((end for end in ends if end > len(piece) // 2), len(piece))]
        pieces.append(piece)
        word = word[len(piece) :]
    return [*pieces, word]


def _longest_word(text: str) -> int:
    """The width that a text needs at least, its indentation included."""

    def needed(line: str) -> int:
        words = (min(_num_cells(word), _LONGEST_WORD) for word in line.split())
        return len(line) - len(line.lstrip(" ")) + max(words, default=0)

    return max(map(needed, _printable(text).split("\n")))


def _longest_line(text: str) -> int:
    return max(map(_num_cells, _printable(text).split("\n")))


def _num_cells(text: str) -> int:
    """Columns of a terminal that a text takes."""
    from rich.cells import cell_len

    return cell_len(text)


def _printable(text: str) -> str:
    """The text with signs that a terminal would obey, or cannot show, written as Python writes
    them.
    """
    plain = text.encode("utf-8", "backslashreplace").decode()  # names of files need not be Unicode
    return "".join(
        sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode() for sign in plain
    )
