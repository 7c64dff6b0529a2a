"""Tables of any width: every word of every cell is printed whole, and nothing is left out."""

import ast
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len

import vicc
from vicc.text_table import TextTable, layout, print_table

WIDTHS = [*range(30, 60, 2), 63, 79, 80, 81, 120, 200]
LONGEST = 20


def lost(table: TextTable, width: int) -> list[str]:
    """Words of a table that its lines do not hold, as often as its cells do; long ones may go on in the next line."""
    lines = [line.text.split() for line in layout(table, width)]
    printed = Counter(word for line in lines for word in line)
    rows = [row for rows in table.sections for row in rows]
    filled = [place for place in range(len(table.header)) if any(row[place:] and row[place].strip() for row in rows)]
    texts = [table.title, table.caption, *(cell for row in rows for cell in row)]
    wanted = Counter(word for text in texts for word in text.split())
    wanted |= Counter({word for place in filled for word in table.header[place].split()})
    return [
        word
        for word, count in wanted.items()
        # A header that is turned has a colon behind it.
        if (printed[word] + printed[f"{word}:"] < count if cell_len(word) <= LONGEST else not folded(word, lines))
    ]


def folded(word: str, lines: list[list[str]]) -> bool:
    """Whether a word stands in one line, or in pieces in lines that follow one another."""

    def rest(word: str, number: int) -> bool:
        if word in ("", ":") or number == len(lines):
            return word in ("", ":")
        pieces = [piece for piece in lines[number] if word.startswith(piece) or piece == f"{word}:"]
        return any(rest(word[len(piece) :], number + 1) for piece in pieces)

    return any(rest(word, number) for number in range(len(lines)))


def made_table(seed: int) -> TextTable:
    rng = np.random.default_rng(seed)

    def word() -> str:
        kind = rng.integers(4)
        if kind == 0:
            return f"{rng.random() * 10 ** rng.integers(6):,.1f}"
        if kind == 1:
            return "".join(rng.choice(list("abcdefgh"), rng.integers(1, 12)))
        if kind == 2:
            return "/".join("".join(rng.choice(list("xyzuvw_-."), rng.integers(3, 15))) for _ in range(4))
        return "(34.0–56.0)" if rng.random() < 0.5 else "数字"

    def cell() -> str:
        return ("\n" if rng.random() < 0.2 else " ").join(word() for _ in range(rng.integers(0, 5)))

    columns = int(rng.integers(1, 12))
    sections = [[[cell() for _ in range(columns)] for _ in range(rng.integers(0, 4))] for _ in range(3)]
    return TextTable([cell() for _ in range(columns)], sections, cell(), cell(), numbers=bool(rng.integers(2)))


@pytest.mark.parametrize("seed", range(15))
def test_no_word_is_lost_or_broken_at_any_width(seed: int) -> None:
    table = made_table(seed)
    for width in WIDTHS:
        assert lost(table, width) == [], width


@pytest.mark.parametrize("seed", range(15))
def test_no_line_is_wider_than_asked_for(seed: int) -> None:
    table = made_table(seed)
    for width in WIDTHS:
        assert max((cell_len(line.text) for line in layout(table, width)), default=0) <= width


def test_what_fits_stands_side_by_side_as_it_is() -> None:
    table = TextTable(["", "R@1", "mAP"], [[["chance", "10.0", "9.9"]], [["RGB-1", "45.0", "30.1"]]], numbers=True)
    assert [line.text for line in layout(table, 80)] == [
        "         R@1   mAP",
        "-" * 18,
        "chance  10.0   9.9",
        "",
        "RGB-1   45.0  30.1",
    ]


def test_a_wide_table_is_cut_into_groups_of_columns_with_the_names_in_each() -> None:
    names = [f"R@{k}" for k in range(10)]
    table = TextTable(["", *names], [[[row, *["45.0 (34.0–56.0)"] * 10] for row in ("a", "b")]], numbers=True)
    lines = [line.text for line in layout(table, 80)]
    assert sum(line.split()[:1] == ["a"] for line in lines) == 3, "four columns of 16 signs fit 80"
    assert "\n".join(lines).count("45.0 (34.0–56.0)") == 20, "a number keeps its interval beside it"


def test_a_single_row_and_columns_that_do_not_fit_are_turned() -> None:
    wide = TextTable(["store", "videos", "size"], [[["a" * 20, "b" * 20, "c" * 20]]])
    assert [line.text for line in layout(wide, 40)] == [
        f"store: {'a' * 20}",
        f"  videos: {'b' * 20}",
        f"  size: {'c' * 20}",
    ]
    two = TextTable(["video", "reason"], [[["x" * 18, "y" * 18], ["z", "no video"]]])
    assert [line.text for line in layout(two, 30)] == [
        "video: reason",
        "x" * 18,
        f"  {'y' * 18}",
        "z",
        "  no video",
    ]


def test_ids_are_folded_where_their_parts_end_and_shown_with_signs_that_a_terminal_would_obey() -> None:
    table = TextTable(["video"], [[["train/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi"], ["a\x1b[31m\udcff"]]])
    assert [line.text for line in layout(table, 30)][2:] == [
        "train/ApplyEyeMakeup/",
        "v_ApplyEyeMakeup_g01_c01.avi",
        "a\\x1b[31m\\udcff",
    ]


def test_every_table_goes_through_this_module() -> None:
    """rich's own tables drop columns and break words where there is little room."""
    root = Path(vicc.__file__).parent
    users = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "") == "rich.table":
                users |= {(path.relative_to(root).as_posix(), alias.name) for alias in node.names}
    assert users == {("progress.py", "Column")}, "a column of a progress bar, which is no table"


def test_a_terminal_without_columns_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    print_table(TextTable(["name", "value"], [[["first", "1"], ["second", "22"]]]))
    told = capsys.readouterr().out.split()
    assert {"name", "value", "first", "1", "second", "22"} <= set(told)
