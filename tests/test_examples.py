"""The files of examples/ run as a reader would run them: copied elsewhere, from outside the package."""

import shutil
from pathlib import Path

import pytest

from tests import forking

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_fits_one_screen(example: Path) -> None:
    assert len(example.read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_run_below(example: Path) -> None:
    assert example.stem in Path(__file__).read_text(encoding="utf-8").replace("EXAMPLES", "")


def run(*words: object, folder: Path) -> str:
    """A Python program in a folder; what it printed."""
    result = forking.run(words, cwd=folder)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a user keeps files of their own."""
    for example in EXAMPLES:
        shutil.copy(example, tmp_path)
    return tmp_path


TINY = ["all.size=32", "all.clip_frames=8", "all.batch_size=4", "all.steps=4"]


def test_own_method_is_trained_resumed_and_measured_by_the_command_line(folder: Path, store_path: Path) -> None:
    vicc = ["-m", "vicc", "--import", "own_method"]
    place = ["--store", store_path, "--run", "run"]
    changes = ["--set", *TINY, "flow-1.method=simsiam", "flow-1.hidden_dim=16", "flow-1.learning_rate=1e-3"]
    train = [*vicc, "pretrain", "--recipe", "demo", *place, "--stages", "flow-1", "--workers", 0, *changes]
    assert "flow-1" in run(*train, "--dry-run", folder=folder)
    run(*train, folder=folder)
    assert "flow-1" in run(*train, folder=folder), "a run of a method of one's own goes on like any other"
    assert "simsiam Flow-1" in run(*vicc, "retrieve", *place, folder=folder)
    unknown = forking.run(["-m", "vicc", "retrieve", *place], cwd=folder)
    assert unknown.returncode == 2
    assert "was trained with the method 'simsiam', which is not known here" in unknown.stderr
    assert "--import MODULE" in unknown.stderr


def test_own_backbone_is_trained_by_the_command_line(folder: Path, store_path: Path) -> None:
    words = ["--recipe", "demo", "--store", store_path, "--run", "run", "--stages", "flow-1", "--workers", 0]
    changes = ["--set", *TINY, "all.backbone=frames-then-time"]
    run("-m", "vicc", "pretrain", "--import", "own_backbone", *words, *changes, folder=folder)
    config = (folder / "run" / "flow-1" / "encoder" / "config.json").read_text(encoding="utf-8")
    assert '"frames-then-time"' in config


def test_own_loop_trains_with_the_loss_of_vicc(folder: Path, store_path: Path) -> None:
    assert "step 2: loss 3." in run("own_loop.py", store_path, 2, folder=folder), "ln 30 is 3.4"
