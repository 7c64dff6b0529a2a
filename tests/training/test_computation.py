"""A run keeps what decides its bits; what would change it is refused, or allowed and said. Refusals write nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.test_resume import results, same
from vicc import device as devices
from vicc.data import loading_limits
from vicc.errors import ViccError
from vicc.evaluation.configs import FinetuneConfig
from vicc.evaluation.train_classifier import train_classifier
from vicc.training import run_folder
from vicc.training.configs import PretrainConfig
from vicc.training.engine import Stopped
from vicc.training.pretrain import pretrain
from vicc.training.stage import Recipe


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Recipe) -> Recipe:
    return replace(tiny_recipe, stages=tiny_recipe.stages[:1])


@pytest.fixture(scope="module")
def stopped(recipe: Recipe, store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in fp64 that was stopped after two of four steps. Copy it."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    config = PretrainConfig(run=run, store=store_path, precision="fp64", log_to=(), evaluate_epochs=0)
    with pytest.raises(Stopped):
        pretrain(recipe, config, should_stop=lambda stage, step: step == 2)
    return run


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def config_of(run: Path, store: Path, **options: Any) -> PretrainConfig:
    return PretrainConfig(run=run, store=store, **{"log_to": (), "evaluate_epochs": 0, **options})


def contents(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def starts(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "runs.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "fp32"}, "precision was fp64, now fp32.* Give --precision fp64"),
        ({"threads": 2}, "threads was 1, now 2.* Give --threads 1"),
        ({"accumulate": 2}, "accumulate was 1, now 2.* Give --accumulate 1"),
        ({"compile": True}, "compile was False, now True.* Give no --compile"),
        ({"precision": "fp32", "accumulate": 2}, "precision was fp64, now fp32; accumulate was 1, now 2"),
        ({"seed": 7}, "seed was 31, now 7"),
        ({"split": "grouped"}, "split was"),
        ({"batch_size": 2}, "batch_size was 4, now 2"),
        ({"workers": 2}, r"/dev/shm .* 2 workers need"),
        ({"fit_to_data": True, "set": ["all.steps=9"]}, "steps was 4, now 9"),
    ],
)
def test_a_refused_resume_says_what_differs_and_leaves_every_file_as_it_is(
    options: dict[str, Any], words: str, run: Path, recipe: Recipe, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading_limits, "shared_memory_free", lambda: 4096)
    before = contents(run)
    changed = recipe.with_changes(options.get("set", []))
    with pytest.raises(ViccError, match=words):
        pretrain(changed, config_of(run, store_path, **{"workers": 0, **options}))
    assert contents(run) == before


@pytest.mark.parametrize(("processes", "allowed"), [(2, False), (7, True)])
def test_so_does_another_number_of_processes(
    processes: int, allowed: bool, run: Path, recipe: Recipe, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was once written down before the refusal. 12 videos in batches of 4 are no batches of 7 processes."""
    before = contents(run)
    monkeypatch.setattr(run_folder, "world_size", lambda: processes)
    with pytest.raises(ViccError, match=r"1 processes and now has 2|7 processes cannot share"):
        pretrain(recipe, config_of(run, store_path, allow_elastic=allowed))
    assert contents(run) == before


def test_so_do_damaged_checkpoints_where_none_is_whole(run: Path, recipe: Recipe, store_path: Path) -> None:
    for path in (run / "rgb-1" / "checkpoints").glob("0*.pt"):
        path.write_bytes(b"cut short")
    (run / "rgb-1" / "checkpoints" / "00000001.pt").write_bytes(b"cut short too")
    before = contents(run)
    with pytest.raises(ViccError, match="There is no earlier one"):
        pretrain(recipe, config_of(run, store_path))
    assert contents(run) == before


def test_a_flag_left_to_itself_takes_the_runs_own_value(
    run: Path, recipe: Recipe, store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    computation = (run / "computation.json").read_bytes()
    pretrain(recipe, config_of(run, store_path))
    assert "goes on in fp64, as the run has begun" in capsys.readouterr().err
    assert (run / "computation.json").read_bytes() == computation
    assert [(row["stage"], row["step"], row["precision"]) for row in starts(run)] == [
        ("rgb-1", 0, "fp64"),
        ("rgb-1", 2, "fp64"),
    ]
    before = contents(run)
    pretrain(recipe, config_of(run, store_path))
    assert contents(run) == before, "a command that is finished says nothing of how the run was computed"


def test_what_is_allowed_to_change_is_said_and_recorded_with_its_step(
    run: Path, recipe: Recipe, store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(recipe, config_of(run, store_path, precision="fp32", allow_elastic=True))
    said = capsys.readouterr().err
    assert "precision was fp64, now fp32: not bit-equal" in said
    assert [(row["step"], row["precision"]) for row in starts(run)] == [(0, "fp64"), (2, "fp32")]
    assert json.loads((run / "computation.json").read_text())["precision"] == "fp32"


def test_a_run_from_before_this_was_recorded_goes_on(run: Path, recipe: Recipe, store_path: Path) -> None:
    for name in ("computation.json", "videos.json"):
        (run / name).unlink()
    (summary,) = pretrain(recipe, config_of(run, store_path, precision="fp64"))
    assert summary.finished
    assert json.loads((run / "computation.json").read_text())["precision"] == "fp64"
    assert len(json.loads((run / "videos.json").read_text())["videos"]) == 12


def test_a_run_of_another_kind_of_device_is_refused_with_a_way_on(run: Path, recipe: Recipe, store_path: Path) -> None:
    change(run / "computation.json", device="cuda", threads=None, precision="fp32")
    if torch.cuda.is_available():
        pytest.skip("there is one here")
    before = contents(run)
    with pytest.raises(ViccError, match=r"has computed on cuda, and there is none here.* --device cpu --allow-elastic"):
        pretrain(recipe, config_of(run, store_path))
    with pytest.raises(ViccError, match="device was cuda, now cpu"):
        pretrain(recipe, config_of(run, store_path, device="cpu"))
    assert contents(run) == before


def test_a_precision_that_cannot_be_had_is_refused_with_a_way_on(
    run: Path, recipe: Recipe, store_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change(run / "computation.json", precision="bf16")
    monkeypatch.setattr(devices, "has_native_bf16", lambda device: False)
    with pytest.raises(ViccError, match=r"in bf16, which cpu does not compute.* --precision fp32 --allow-elastic"):
        pretrain(recipe, config_of(run, store_path))
    pretrain(recipe, config_of(run, store_path, allow_elastic=True))
    assert "precision was bf16, now fp32: not bit-equal" in capsys.readouterr().err


def test_another_torch_or_processor_is_said_and_not_refused(
    run: Path, recipe: Recipe, store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(run / "computation.json", torch="1.0", processor="DEFAULT")
    pretrain(recipe, config_of(run, store_path))
    said = " ".join(capsys.readouterr().err.split())
    assert f"torch was 1.0, now {torch.__version__}; processor was DEFAULT, now" in said


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"left/0": [99, "abc"]},
            "train/left/0.mp4 had 99 frames, checksum abc, now 24 frames",
        ),
        ({"gone/1": [24, "def"]}, "train/gone/1.mp4 is there no more"),
    ],
)
def test_a_video_that_changed_is_named(
    changed: dict[str, Any], words: str, run: Path, recipe: Recipe, store_path: Path
) -> None:
    """As if the run had begun with other videos."""
    seen = json.loads((run / "videos.json").read_text())
    seen["videos"] |= {f"train/{name}.mp4": facts for name, facts in changed.items()}
    (run / "videos.json").write_text(json.dumps(seen))
    change(run / "recipe.json", content="another")
    with pytest.raises(ViccError, match=words):
        pretrain(recipe, config_of(run, store_path))


def test_videos_that_came_and_another_way_to_prepare_them_are_named(
    run: Path, recipe: Recipe, store_path: Path
) -> None:
    change(run / "recipe.json", content="another")
    seen = json.loads((run / "videos.json").read_text())
    for name in list(seen["videos"])[:5]:
        del seen["videos"][name]
    (run / "videos.json").write_text(json.dumps(seen))
    with pytest.raises(ViccError, match=r"train/\S+ is new; train/\S+ is new; train/\S+ is new; and 2 more"):
        pretrain(recipe, config_of(run, store_path))
    seen["prepared"]["short_side"] = 240
    (run / "videos.json").write_text(json.dumps(seen))
    with pytest.raises(ViccError, match="prepared otherwise: short_side was 240, now 128"):
        pretrain(recipe, config_of(run, store_path))


def test_a_resume_computes_in_the_threads_that_the_run_began_with_bit_for_bit(
    recipe: Recipe, store_path: Path, tmp_path: Path
) -> None:
    """Whatever --threads auto would choose now, and whatever the library was set to before."""
    recipe = recipe.with_changes(["all.steps=2"])
    threads: list[int] = []

    def stop_at(last: int) -> Any:
        def stop(stage: str, step: int) -> bool:
            threads.append(torch.get_num_threads())
            return step == last

        return stop

    pretrain(recipe, config_of(tmp_path / "straight", store_path, threads=2), should_stop=stop_at(99))
    with pytest.raises(Stopped):
        pretrain(recipe, config_of(tmp_path / "run", store_path, threads=2), should_stop=stop_at(1))
    pretrain(recipe, config_of(tmp_path / "run", store_path), should_stop=stop_at(99))
    assert set(threads) == {2}
    assert torch.get_num_threads() == 1, "as it was before"
    assert same(results(tmp_path / "run", ["rgb-1"]), results(tmp_path / "straight", ["rgb-1"]))


def test_a_first_start_that_is_refused_leaves_no_run_behind(
    recipe: Recipe, store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the mended command would be refused for its other settings."""
    run = tmp_path / "run"
    with monkeypatch.context() as little:
        little.setattr(loading_limits, "shared_memory_free", lambda: 4096)
        with pytest.raises(ViccError, match="/dev/shm"):
            pretrain(recipe, config_of(run, store_path, workers=2))
    assert not contents(run)
    (summary,) = pretrain(recipe, config_of(run, store_path, seed=7))
    assert summary.finished


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_a_run_folder_that_cannot_be_is_found_before_anything_else(command: str, tmp_path: Path) -> None:
    """Before the store and the encoder, which are not there either."""
    (tmp_path / "file").write_text("mine")
    run, nowhere = tmp_path / "file" / "run", tmp_path / "nowhere"
    start = {
        "pretrain": lambda: pretrain(Recipe("none", "", ()), PretrainConfig(run=run, store=nowhere)),
        "finetune": lambda: train_classifier(FinetuneConfig(run=run, store=nowhere, encoder=nowhere)),
    }
    with pytest.raises(ViccError, match=r"recipe.json cannot be written, since .*file is a file.*another --run"):
        start[command]()
