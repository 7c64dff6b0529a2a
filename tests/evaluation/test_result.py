"""A result in the place of another one, and results of earlier versions."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluation.made_results import made_file, made_queries, made_result, made_row
from vicc.evaluation.result import ROW_NAMES_BEFORE, read_result, write_result


def test_a_result_of_other_videos_is_not_replaced_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made_file(tmp_path / "retrieval.json")
    result = read_result(path)
    capsys.readouterr()
    write_result(path, replace(result, made_with={"command": "once more"}))
    assert not capsys.readouterr().err, "the same measurement again"
    other = replace(result, data=replace(result.data, place="other-store", content="other"))
    write_result(path, other)
    said = capsys.readouterr().err
    assert "held the result on store, split f:1" in said
    assert "--out" in said
    assert read_result(path).data == other.data


def test_what_is_no_result_is_replaced(tmp_path: Path) -> None:
    path = made_file(tmp_path / "made.json")
    (tmp_path / "broken.json").write_text("{")
    write_result(tmp_path / "broken.json", read_result(path))
    assert read_result(tmp_path / "broken.json") == read_result(path)


def test_a_result_of_something_else_measured_is_not_replaced_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made_file(tmp_path / "out.json")
    result = read_result(path)
    write_result(path, replace(result, protocol=replace(result.protocol, name="knn")))
    assert f"held a result of {result.protocol.name}, and is replaced" in capsys.readouterr().err


@pytest.mark.parametrize(("before", "now"), ROW_NAMES_BEFORE.items())
def test_rows_of_an_earlier_version_have_the_names_of_today(tmp_path: Path, before: str, now: str) -> None:
    """So that `vicc compare` and `vicc table` put them beside those of new results."""
    queries = made_queries()
    write_result(tmp_path / "new.json", made_result([made_row(now, queries, right=0.4, kind="baseline")], queries))
    content = json.loads((tmp_path / "new.json").read_text())
    content["rows"][1]["name"] = before
    (tmp_path / "old.json").write_text(json.dumps(content))
    old, new = read_result(tmp_path / "old.json"), read_result(tmp_path / "new.json")
    assert old == new
    assert old.row(before) == new.row(now), "a command that names the old row finds it"
