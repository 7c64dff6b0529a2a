"""A run of the contrast alone: nothing that reads prototypes, from training to the page, misses them."""

import json
from pathlib import Path

import pytest

from vicc.cli import main
from vicc.errors import ViccError
from vicc.training.beside_encoder import load_feature_mean, load_prototypes
from vicc.training.checkpoint import CheckpointFolder
from vicc.training.watch.log import EPOCHS_FILE, read_log

SMALL = ("all.clip_frames=8", "all.size=32", "all.num_prototypes=6", "all.batch_size=4", "all.warmup_steps=1")
CONTRAST = ("all.swap_weight=0", "all.contrast_weight=1", "all.contrast_memory=10", "all.queue_length=8")


def pretrain(store: Path, run: Path, *changes: str, stages: tuple[str, ...], steps: int = 4) -> int:
    words = ["pretrain", "--recipe", "demo", "--store", store, "--run", run, "--workers", 0, "--stages", *stages]
    return main([*map(str, words), "--set", *SMALL, f"all.steps={steps}", *changes])


@pytest.fixture(scope="module")
def run(store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flow by itself, then RGB taught by it; with the evaluation while training."""
    folder = tmp_path_factory.mktemp("contrast") / "run"
    changes = (*CONTRAST, "rgb-2.start_from=none")
    assert pretrain(store_path, folder, *changes, stages=("flow-1", "rgb-2")) == 0
    return folder


@pytest.mark.parametrize("stage", ["flow-1", "rgb-2"])
def test_the_contrast_alone_is_trained_and_logged(run: Path, stage: str) -> None:
    rows = read_log(run / stage)
    assert len(rows) == 4
    for row in rows:
        assert row["loss"] == row["contrast_loss"]
        assert 0 <= row["contrast_first"] <= 1
        assert {"effective_rank", "gradient_norm"} <= row.keys()
        assert not {"swapped_loss", "prototypes_used", "queue_filled"} & row.keys()
    assert "instance_recall" in read_log(run / stage, EPOCHS_FILE)[-1]
    state = CheckpointFolder(run / stage).load_newest()
    assert state is not None
    assert not [name for name in state["model"] if "prototypes" in name]
    assert state["ranks"][0]["task"]["contrast"]["put"] == 10
    assert (run / stage / "curves.png").exists()
    assert load_feature_mean(run / stage).videos == 12
    with pytest.raises(ViccError, match="No prototypes beside the encoder"):
        load_prototypes(run / stage)


def test_it_is_measured_shown_and_compared(
    run: Path, store_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["retrieve", "--run", str(run), "--store", str(store_path), "--no-baselines"]) == 0
    assert main(["report", "--run", str(run), "--store", str(store_path), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "ln of the keys compared = 2.83" in page  # flow-1: 2 * 4 views - itself + 10 of the memory
    assert "ln of the keys compared = 2.64" in page  # rgb-2: 4 views of the teacher + 10 of the memory
    assert "An encoder learns by finding, among the clips of many videos, those of the same video." in page
    assert "One that is taught finds them among clips as the other stream&#39;s encoder describes them." in page
    for words in ("sorting every clip", "The share of prototypes used", "Loss, use of the prototypes"):
        assert words not in page
    capsys.readouterr()
    assert main(["runs", str(run.parent), "--out", str(tmp_path / "runs.png"), "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    chances = {stage["name"]: stage["chance_loss"] for stage in found["stages"]}
    assert chances["flow-1"] == pytest.approx(2.8332, abs=1e-4)
    assert chances["rgb-2"] == pytest.approx(2.6391, abs=1e-4)


def test_a_recipe_is_shown_with_the_settings_that_mean_something(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*changes: str) -> set[str]:
        assert main(["recipes", "show", "demo", "--set", *changes]) == 0
        return {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.split()}

    published, contrast, both = shown("all.steps=4"), shown(*CONTRAST), shown(*CONTRAST[1:])
    assert {"num_prototypes", "epsilon", "temperature"} <= published
    assert not {"contrast_temperature", "contrast_memory"} & published
    assert {"contrast_temperature", "contrast_memory"} <= contrast
    assert not {"num_prototypes", "epsilon", "temperature", "queue_length"} & contrast
    assert {"num_prototypes", "contrast_memory"} <= both


@pytest.mark.parametrize(("first", "second"), [("0", "1"), ("1", "0")])
def test_a_stage_with_prototypes_starts_from_one_without_and_the_other_way_round(
    first: str, second: str, store_path: Path, tmp_path: Path
) -> None:
    changes = ("all.contrast_weight=1", f"flow-1.swap_weight={first}", f"flow-2.swap_weight={second}")
    changes += ("rgb-2.start_from=none", "flow-2.teacher=rgb-2")
    stages = ("flow-1", "rgb-2", "flow-2")
    assert pretrain(store_path, tmp_path / "run", *changes, stages=stages, steps=1) == 0
    state = CheckpointFolder(tmp_path / "run" / "flow-2").load_newest()
    assert state is not None
    assert ("prototypes.0.weight" in state["model"]) == (second == "1")
