"""Every step, end to end, by one command, with a recipe of a few steps: what a user sees, and that it continues."""

import json
import shlex
from pathlib import Path

import pytest

import vicc.recipes
from vicc.cli import main
from vicc.cli.commands import Command
from vicc.cli.flags import parse
from vicc.cli.outcome import Outcome
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


def test_the_demo_calls_the_very_words_that_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[list[str]] = []

    def note(name: str, command: Command, words: list[str]) -> Outcome:
        parse(command.config_type, words, command=name)
        called.append([name, *words])
        return Outcome({}, lambda: None)

    monkeypatch.setattr("vicc.cli.demo.call", note)
    assert main(["demo", "--out", str(tmp_path / "my demo"), "--videos", "90"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [shlex.split(line)[2:] for line in lines if line.startswith("$ vicc ")] == called
    assert len(called) == 5


def test_a_number_of_videos_that_ten_actions_cannot_share_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--videos", "45"]) == 2
    assert "multiple of 10" in capsys.readouterr().err
