import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest

from vicc.cli import main
from vicc.errors import ViccError
from vicc.files import exclusive_folder
from vicc.results.configs import RunsConfig
from vicc.results.runs import compare_runs
from vicc.training.configs import PretrainConfig
from vicc.training.engine import Stopped
from vicc.training.pretrain import pretrain
from vicc.training.stage import Recipe
from vicc.training.watch.log import read_log


@pytest.fixture(scope="module")
def runs(tiny_recipe: Recipe, store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """deep/one: finished; two: another rate in both of its stages, stopped in the first."""
    place = tmp_path_factory.mktemp("runs")
    recipe = replace(tiny_recipe, stages=tiny_recipe.stages[:2])
    pretrain(recipe, PretrainConfig(store=store_path, run=place / "deep" / "one"))
    other = recipe.with_changes(["all.learning_rate=0.002", "flow-1.size=16"])
    with pytest.raises(Stopped):
        pretrain(other, PretrainConfig(store=store_path, run=place / "two"), should_stop=lambda stage, step: step == 2)
    return place


def test_runs_are_found_at_any_depth_and_say_how_far_they_are(runs: Path) -> None:
    one, two = compare_runs(RunsConfig([runs]))
    assert (one.run, one.state, two.run, two.state) == ("deep/one", "finished", "two", "stopped")
    assert [(stage.name, stage.steps, stage.total_steps, stage.finished) for stage in one.stages] == [
        ("rgb-1", 4, 4, True),
        ("flow-1", 4, 4, True),
    ]
    assert [(stage.steps, stage.finished) for stage in two.stages] == [(2, False), (0, False)]
    assert two.current is not None
    assert two.current.name == "rgb-1"


def test_numbers_are_those_of_the_logs(runs: Path) -> None:
    (one,) = compare_runs(RunsConfig([runs / "deep"]))
    rows = read_log(runs / "deep" / "one" / "rgb-1")
    stage = one.stages[0]
    assert stage.loss == pytest.approx(sum(row["loss"] for row in rows) / 4)
    seconds = sum(row["waited"] + row["seconds"] for row in rows)
    assert stage.hours == pytest.approx(seconds / 3600)
    assert stage.clips_per_second == pytest.approx(4 * 4 * 2 / seconds)  # steps, videos, views
    assert stage.instance_recall is not None
    assert one.differs == {}


def test_only_settings_that_differ_are_named_and_equal_ones_of_stages_together(runs: Path) -> None:
    one, two = compare_runs(RunsConfig([runs]))
    assert two.differs == {"rgb-1+flow-1.learning_rate": "0.002", "flow-1.size": "16"}
    assert one.differs.keys() == {"rgb-1.learning_rate", "flow-1.learning_rate", "flow-1.size"}


def test_a_run_that_is_held_is_running(runs: Path) -> None:
    with exclusive_folder(runs / "two", what="run folder"):
        assert compare_runs(RunsConfig([runs / "two"]))[0].state == "running"
    assert compare_runs(RunsConfig([runs / "two"]))[0].state == "stopped"


@pytest.mark.parametrize(
    ("starts", "told"),
    [
        ([], "unknown"),
        ([("bf16", "rgb-1", 0)], "bf16"),
        ([("bf16", "rgb-1", 0), ("fp32", "flow-1", 7)], "bf16, fp32 from flow-1 step 7"),
        ([("bf16", "rgb-1", 0), ("bf16", "rgb-1", 5), ("fp32", None, 7)], "bf16, fp32 from step 7"),
        ([("bf16", "rgb-1", 0), ("fp32", "rgb-1", 5), ("bf16", "rgb-1", 5)], "bf16"),
        ([("fp32", "rgb-1", 0), ("bf16", "rgb-1", 0)], "bf16"),
        ([("bf16",), ("fp32",), ("bf16",)], "bf16, fp32 from start 2, bf16 from start 3"),
        ([("bf16", "rgb-1", 0), ("fp32", None, None)], "bf16"),
    ],
)
def test_the_precision_is_that_of_every_start_that_made_steps(
    starts: list[tuple[object, ...]], told: str, runs: Path, tmp_path: Path
) -> None:
    """It was that of the last start alone, whatever the weights were trained with."""
    folder = tmp_path / "one"
    shutil.copytree(runs / "deep" / "one", folder)
    lines = [
        {"command": ["vicc", "pretrain"], "threads": 2} | dict(zip(("precision", "stage", "step"), start, strict=False))
        for start in starts
    ]
    (folder / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run,) = compare_runs(RunsConfig([folder]))
    assert run.precision == told
    assert run.threads == ("2" if starts else "unknown")


def test_a_run_names_the_command_that_is_useful_next(runs: Path) -> None:
    one, two = compare_runs(RunsConfig([runs]))
    assert one.following.startswith(f"vicc retrieve --run {runs / 'deep' / 'one'} --store ")
    assert two.following, "the command that goes on"
    with exclusive_folder(runs / "two", what="run folder"):
        assert compare_runs(RunsConfig([runs / "two"]))[0].following == ""


def test_a_run_given_twice_is_shown_once_and_nothing_is_changed(runs: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file() and path.name != ".lock"}
    assert len(compare_runs(RunsConfig([runs, runs / "two"]))) == 2
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_run_of_another_version_is_left_out_and_that_is_said(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "recipe.json").write_text('{"recipe": {"stages": []}}')
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "recipe.json").write_text('{"recipe": {"stages": [{"method": "rotations"}]}}')
    assert len(compare_runs(RunsConfig([runs, tmp_path]))) == 2
    said = capsys.readouterr().err
    assert f"left out {tmp_path / 'old'}: A recipe written by another version" in said
    assert f"left out {tmp_path / 'own'}: The run {tmp_path / 'own'} was trained with the method 'rotations'" in said
    assert "--import MODULE" in said
    with pytest.raises(ViccError, match="None of 2 runs"):
        compare_runs(RunsConfig([tmp_path]))


def test_a_place_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ViccError, match="no run in"):
        compare_runs(RunsConfig([tmp_path]))
    with pytest.raises(ViccError, match="no folder"):
        compare_runs(RunsConfig([tmp_path / "nowhere"]))


def test_a_plot_of_another_kind_is_refused() -> None:
    with pytest.raises(ViccError, match=r"\.png, \.svg or \.pdf"):
        RunsConfig([Path()], out=Path("plot.doc"))


def test_the_command_prints_a_table_a_document_and_a_plot(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["runs", str(runs), "--out", str(tmp_path / "runs.png")]) == 0
    table = capsys.readouterr().out
    assert all(word in table for word in ("deep/one", "stopped, 0 of 2 stages done", "2 of 4", "learning_rate=0.002"))
    picture: Any = cv2.imread(str(tmp_path / "runs.png"))
    assert picture.std() > 5
    assert main(["runs", str(runs), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [run["run"] for run in document] == ["deep/one", "two"]
    assert document[0]["stages"][0]["chance_loss"] == pytest.approx(1.7918, abs=1e-3)
