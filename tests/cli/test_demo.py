"""The whole road by one command, with a recipe of a few steps: what a user sees, and that it continues."""

import json
from pathlib import Path

import pytest

import vicc.recipes
from vicc.cli import main
from vicc.training.stage import Recipe


@pytest.mark.slow
def test_the_demo_walks_the_road_shows_its_commands_and_continues(
    tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(vicc.recipes.RECIPES, "demo", lambda: tiny_recipe)
    words = ["demo", "--out", str(tmp_path), "--videos", "30", "--seed", "5", "--json"]
    assert main(words) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    rows = {row["name"]: row["metrics"]["R@1"]["value"] for row in result["retrieve"]["rows"]}
    assert {"chance", "RGB-1", "Flow-1", "RGB-2", "Flow-2", "R+F"} <= set(rows)
    assert rows["chance"] == pytest.approx(0.1)
    for command in ("demo-videos", "prepare", "pretrain", "retrieve", "report"):
        assert f"$ vicc {command} " in said.err
    page = (tmp_path / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    videos = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    assert len(videos) == 40

    assert main(words) == 0
    again = capsys.readouterr()
    assert json.loads(again.out)["retrieve"]["rows"] == result["retrieve"]["rows"]
    assert "rgb-1: finished already" in again.err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")} == videos


def test_a_number_of_videos_that_ten_actions_cannot_share_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--videos", "45"]) == 2
    assert "multiple of 10" in capsys.readouterr().err
