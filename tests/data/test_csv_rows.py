"""A CSV file reads alike however the program that wrote it separates, quotes and encodes."""

from pathlib import Path

import pytest

from vicc.data.csv_rows import has_columns, read_csv
from vicc.errors import ViccError


def rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    return list(read_csv(path, required=("path", "group"), what="groups file"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters_line_ends_and_encodings(tmp_path: Path, delimiter: str, end: str, encoding: str) -> None:
    lines = ["path,group", "\u00fc.mp4,x", "", "b.mp4,y"]
    text = end.join(lines).replace(",", delimiter)
    (tmp_path / "g.csv").write_bytes(text.encode(encoding))
    assert [row for _, row in rows(tmp_path / "g.csv")] == [
        {"path": "\u00fc.mp4", "group": "x"},
        {"path": "b.mp4", "group": "y"},
    ]


def test_blanks_quotes_and_capitals_are_no_part_of_a_cell(tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text('Group, "Path"\n x , "a, b.mp4"\n"y","c.mp4"\n , \n')
    found = rows(tmp_path / "g.csv")
    assert [(row["group"], row["path"].strip()) for _, row in found] == [("x", "a, b.mp4"), ("y", "c.mp4")]


def test_a_name_that_begins_with_a_blank_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text("group,path\nx, a.mp4\n")
    assert rows(tmp_path / "g.csv") == [(2, {"group": "x", "path": " a.mp4"})]


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text("path,group\n\na.mp4,x\n\nb.mp4\n")
    with pytest.raises(ViccError, match=r"Line 5 of .* has 1 cells; expected 2"):
        rows(tmp_path / "g.csv")


def test_whether_a_file_has_columns(tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text("Path;Group\n")
    assert has_columns(tmp_path / "g.csv", ("path", "group"))
    assert not has_columns(tmp_path / "g.csv", ("path", "label"))
    assert not has_columns(tmp_path / "missing.csv", ("path",))


def test_a_quote_that_is_not_closed_loses_no_row_in_silence(tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text('path,group\na.mp4,"x\nb.mp4,y\nc.mp4,"z"\n')
    with pytest.raises(ViccError, match=r"group that ends in line 4 .* rows are lost in it: a double quote is opened"):
        rows(tmp_path / "g.csv")
    (tmp_path / "g.csv").write_text('path,group,caption\na.mp4,x,"two\nlines"\nb.mp4,y,one\n')
    assert [row["path"] for _, row in rows(tmp_path / "g.csv")] == ["a.mp4", "b.mp4"]
