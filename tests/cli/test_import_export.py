"""`vicc import`, `vicc retrieve --encoder` and `vicc export` as a user gives them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from vicc.backbones import S3D, registry
from vicc.cli import main
from vicc.files import write_json
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.published.exporting import export_published
from vicc.training.checkpoint import save_encoder


@pytest.fixture(scope="module", autouse=True)
def thin() -> Iterator[None]:
    """A thin S3D under S3D's name, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._FACTORIES, "s3d", lambda in_channels: S3D(in_channels, width=1 / 16))
        yield


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the layout of a single-stream ViCC checkpoint that does not say its stream."""
    folder = tmp_path_factory.mktemp("published")
    save_encoder(folder / "encoder", Encoder(EncoderConfig("rgb")))
    export_published(folder / "encoder", folder / "alone")
    content = torch.load(folder / "alone", weights_only=True)
    del content["vicc_encoders"]
    content["state_dict"]["prototypes.weight"] = torch.randn(300, 128)
    torch.save({**content, "epoch": 299, "iteration": 7}, folder / "vicc.pth.tar")
    return folder / "vicc.pth.tar"


def call(*words: object) -> int:
    return main([str(word) for word in words])


def test_an_imported_checkpoint_is_measured_and_written_again(
    published: Path, store_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "rgb"
    assert call("import", published, "--out", folder, "--stream", "rgb") == 0
    said = capsys.readouterr().out
    for words in ("ViCC, single-stream", "s3d", "299", "929", "300", "optimiser's state"):
        assert words in said
    # The published clips of 32 frames at 128 pixels would take a minute here.
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "clip_frames": 8, "size": 32})
    out = tmp_path / "result.json"
    assert call("retrieve", "--encoder", folder, "--store", store_path, "--no-baselines", "--out", out) == 0
    assert "RGB (rgb)" in capsys.readouterr().out
    assert [row["name"] for row in json.loads(out.read_text())["rows"]] == ["chance", "RGB (rgb)"]
    assert call("export", folder, "--format", "published", "--out", tmp_path / "again.pth.tar") == 0
    assert "929 tensors" in capsys.readouterr().out
    before, after = (torch.load(path, weights_only=True) for path in (published, tmp_path / "again.pth.tar"))
    assert before["state_dict"].keys() == after["state_dict"].keys()
    assert all(torch.equal(before["state_dict"][name], after["state_dict"][name]) for name in before["state_dict"])


def test_import_and_export_print_one_json_document(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def document(*words: object) -> Any:
        assert call(*words, "--json") == 0
        return json.loads(capsys.readouterr().out)

    found = document("import", published, "--out", tmp_path / "f", "--stream", "flow")
    assert (found["method"], found["stream"], found["tensors"], found["prototypes"]) == (
        "single_stream",
        "flow",
        929,
        300,
    )
    assert document("export", tmp_path / "f", "--out", tmp_path / "a")["lacks"] == []


def test_a_partial_import_names_what_it_left_out(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(published, weights_only=True)
    del content["state_dict"]["encoder_q.4.bias"]
    torch.save({**content, "state_dict": {**content["state_dict"], "more": torch.ones(1)}}, tmp_path / "a")
    words = ("import", tmp_path / "a", "--out", tmp_path / "f", "--stream", "rgb")
    assert call(*words) == 2
    assert "1 missing (encoder_q.4.bias); 1 unknown (more)" in capsys.readouterr().err
    assert not (tmp_path / "f").exists()
    assert call(*words, "--allow-partial") == 0
    said = capsys.readouterr().out
    assert "missing in the file, 1 tensors: encoder_q.4.bias" in said
    assert "more" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("import", "nothing.pth.tar", "--out", "f"), "No checkpoint at nothing.pth.tar"),
        (("export", "nothing", "--out", "a"), "No encoder at nothing"),
        (("retrieve", "--store", "store"), "Neither --run nor --encoder"),
        (("retrieve", "--store", "store", "--run", "a", "--encoder", "b"), "Both --run and --encoder"),
    ],
)
def test_mistakes_end_in_one_sentence(
    words: tuple[str, ...],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"vicc: {sentence}")
    assert list(tmp_path.iterdir()) == []
