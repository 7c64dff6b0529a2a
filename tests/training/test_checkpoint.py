import errno
import os
import pickle
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from vicc.errors import ViccError
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.training.checkpoint import (
    CheckpointFolder,
    copy_weights,
    load_checkpoint,
    load_encoder,
    save_checkpoint,
    save_encoder,
)


class RunsCode:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_round_trip_keeps_every_tensor_and_value(tmp_path: Path) -> None:
    state = {"step": 3, "nested": {"a": torch.randn(2, 3), "b": [1, 2.5, "x"]}}
    save_checkpoint(tmp_path / "c.pt", state)
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert torch.equal(loaded["nested"]["a"], state["nested"]["a"])  # type: ignore[index]
    assert (loaded["step"], loaded["nested"]["b"]) == (3, [1, 2.5, "x"])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_checkpoint_cut_short_anywhere_is_refused_in_words(tmp_path: Path, share: float) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"weights": torch.randn(1000)})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ViccError, match="damaged or cut short"):
        load_checkpoint(path)


@pytest.mark.parametrize("as_zip", [False, True])
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path, as_zip: bool) -> None:
    made, path = tmp_path / "made", tmp_path / "c.pt"
    if as_zip:
        torch.save({"version": 1, "model": RunsCode(made)}, path)
        assert zipfile.is_zipfile(path)
    else:
        path.write_bytes(pickle.dumps(RunsCode(made)))
    with pytest.raises(ViccError, match="refused" if as_zip else "no archive"):
        load_checkpoint(path)
    assert not made.exists()


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    torch.save({"version": 99}, tmp_path / "c.pt")
    with pytest.raises(ViccError, match="version 99"):
        load_checkpoint(tmp_path / "c.pt")


def test_a_failing_write_leaves_the_old_checkpoint_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"step": 1})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(path, {"step": lambda: None})  # cannot be pickled
    assert load_checkpoint(path)["step"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.pt"]


@pytest.fixture
def encoder() -> Encoder:
    return Encoder(
        EncoderConfig("flow", backbone="s3d-demo", embedding_dim=8, clip_frames=8, size=32, flow_center=True)
    )


def test_an_encoder_folder_gives_back_the_same_module(tmp_path: Path, encoder: Encoder) -> None:
    save_encoder(tmp_path / "e", encoder)
    loaded = load_encoder(tmp_path / "e")
    clips = torch.randint(0, 256, (2, 2, 8, 32, 32), dtype=torch.uint8)
    assert loaded.config == encoder.config
    assert torch.equal(loaded(clips), encoder.eval()(clips))


def test_an_encoder_whose_weights_do_not_fit_is_refused_whole(tmp_path: Path, encoder: Encoder) -> None:
    save_encoder(tmp_path / "e", encoder)
    weights = safetensors.torch.load_file(tmp_path / "e" / "model.safetensors")
    weights.pop("projection_head.2.bias")
    safetensors.torch.save_file(weights, tmp_path / "e" / "model.safetensors")
    with pytest.raises(ViccError, match=r"projection_head\.2\.bias"):
        load_encoder(tmp_path / "e")


def test_an_encoder_cut_short_or_absent_is_refused_in_words(tmp_path: Path, encoder: Encoder) -> None:
    with pytest.raises(ViccError, match="No encoder"):
        load_encoder(tmp_path / "nothing")
    save_encoder(tmp_path / "e", encoder)
    path = tmp_path / "e" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ViccError, match="cannot be loaded"):
        load_encoder(tmp_path / "e")


def test_weights_of_another_shape_are_copied_not_at_all(encoder: Encoder) -> None:
    other = Encoder(EncoderConfig("rgb", backbone="s3d-demo", embedding_dim=8))
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ViccError, match="do not fit"):
        copy_weights(encoder, other, what="a test")
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())


def write_steps(folder: CheckpointFolder, *steps: int, best: tuple[int, ...] = ()) -> None:
    for step in steps:
        folder.save({"step": step, "weights": torch.full((50,), float(step))}, best=step in best)


def test_the_newest_few_are_kept_and_the_best_beside_them(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    write_steps(folder, 1, 2, 3, 4, best=(1, 2))
    assert [path.name for path in folder.paths()] == ["00000004.pt", "00000003.pt"]
    assert load_checkpoint(tmp_path / "checkpoints" / "best.pt")["step"] == 2
    assert folder.newest_step() == 4
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "00000003.pt",
        "00000004.pt",
        "best.pt",
    ]


@pytest.mark.parametrize("damage", ["cut", "empty", "bit"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = CheckpointFolder(tmp_path)
    write_steps(folder, 5, 6)
    path = folder.path(6)
    content = bytearray(path.read_bytes())
    if damage == "bit":
        content[content.find(torch.full((50,), 6.0).numpy().tobytes()) + 7] ^= 1
    path.write_bytes(content if damage == "bit" else content[: len(content) // 2 if damage == "cut" else 0])
    state = folder.load_newest()
    assert state is not None
    assert state["step"] == 5
    said = " ".join(capsys.readouterr().err.split())
    assert "00000006.pt is damaged" in said
    assert "goes on from the one before" in said
    assert path.with_suffix(".damaged").exists(), "it is put aside, not lost"
    write_steps(folder, 6)
    assert folder.newest_step() == 6


def test_when_all_are_damaged_nothing_is_begun_anew_unasked(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    write_steps(folder, 5, 6)
    for path in folder.paths():
        path.write_bytes(b"")
    with pytest.raises(ViccError, match="no earlier one"):
        folder.load_newest()
    assert folder.path(5).exists()


def test_a_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert CheckpointFolder(tmp_path).load_newest() is None
    assert CheckpointFolder(tmp_path).newest_step() == 0


def test_a_full_disk_costs_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    write_steps(folder, 1, best=(1,))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_steps(folder, 2, best=(2,))
    assert [path.name for path in folder.paths()] == ["00000001.pt"]
    assert load_checkpoint(tmp_path / "checkpoints" / "best.pt")["step"] == 1
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2, "nothing half-written stays"


def test_a_crash_between_best_and_newest_repeats_the_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """best.pt comes first: after a crash before the other name it is ahead, never behind."""
    folder = CheckpointFolder(tmp_path)
    write_steps(folder, 1, best=(1,))

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", crash)
        with pytest.raises(KeyboardInterrupt):
            write_steps(folder, 2, best=(2,))
    assert folder.newest_step() == 1
    assert load_checkpoint(tmp_path / "checkpoints" / "best.pt")["step"] == 2


@pytest.fixture
def small(tmp_path: Path) -> Path:
    save_encoder(tmp_path / "small", Encoder(EncoderConfig("rgb", backbone="s3d-demo", clip_frames=8, size=32)))
    return tmp_path / "small"


def fake_hub(monkeypatch: pytest.MonkeyPatch, download: Callable[..., str]) -> None:
    """Put a hub in place of huggingface_hub, whether that is installed or not."""
    hub, errors = types.ModuleType("huggingface_hub"), types.ModuleType("huggingface_hub.errors")
    hub.snapshot_download = download  # type: ignore[attr-defined]
    errors.HfHubHTTPError = type("HfHubHTTPError", (Exception,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)


def test_an_encoder_is_loaded_from_the_hub(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        return str(small)

    fake_hub(monkeypatch, download)
    assert load_encoder("somebody/vicc-rgb").config.backbone == "s3d-demo"
    load_encoder("somebody/vicc-rgb@v1.0")
    assert asked == [("somebody/vicc-rgb", None), ("somebody/vicc-rgb", "v1.0")]


def test_a_folder_is_meant_before_the_hub_and_a_path_never_means_the_hub(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub(monkeypatch, lambda *arguments, **options: pytest.fail("asked the hub"))
    monkeypatch.chdir(small.parent.parent)
    assert load_encoder(f"{small.parent.name}/small").config.size == 32
    (small.parent / "empty").mkdir()
    for place in (Path("somebody/vicc-rgb"), f"{small.parent.name}/empty", "one/two/three"):
        with pytest.raises(ViccError, match="No encoder"):
            load_encoder(place)


def test_what_the_hub_does_not_give_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: Any, **options: Any) -> str:
        raise FileNotFoundError("Cannot find an appropriate cached snapshot folder")

    fake_hub(monkeypatch, offline)
    with pytest.raises(ViccError, match=r"no such folder.*did not give it.*main"):
        load_encoder("somebody/vicc-rgb")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ViccError, match=r"pip install 'vicc\[hub\]'"):
        load_encoder("somebody/vicc-rgb")


def test_the_hubs_cache_is_enough_without_a_network(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = small.parent / "cache"
    repository = cache / "models--somebody--vicc-rgb"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    small.rename(repository / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_encoder("somebody/vicc-rgb").config.size == 32
    with pytest.raises(ViccError, match="did not give it"):
        load_encoder("somebody/something-else")
