"""Encoders, classifiers and stages to the published layout and back: every tensor comes back as it was."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.published.made_files import METHODS, PARITY, published_state, refused, same, save
from vicc.errors import ViccError
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.published.exporting import export_published
from vicc.published.importing import import_published
from vicc.training.checkpoint import load_encoder, save_encoder
from vicc.training.classifier_folder import load_classifier, save_classifier
from vicc.training.configs import PretrainConfig
from vicc.training.pretrain import pretrain
from vicc.training.stage import Recipe


@pytest.mark.parametrize("case", METHODS)
def test_every_tensor_of_every_method_comes_back_as_it_was(case: str, tmp_path: Path) -> None:
    state = published_state(case)
    method, prefixes, beside = METHODS[case]
    found = import_published(save(tmp_path / "a.pth.tar", state), tmp_path / "folder", stream="rgb")
    assert (found.method, found.epoch, found.iteration, found.tensors) == (method, 299, 12001, len(state))
    assert (found.left_out, found.missing) == ([], [])
    assert tuple(found.folders) == prefixes
    assert found.prototypes == (300 if "prototypes.weight" in beside else None)
    assert found.queue == (2048 if "queue" in beside else None)
    assert found.classes == (101 if case.startswith("lincls") else None)
    written = export_published(tmp_path / "folder", tmp_path / "b.pth.tar")
    assert written.lacks == []
    back = torch.load(tmp_path / "b.pth.tar", weights_only=True)
    assert same(back["state_dict"], state)
    score = "best_loss" if case.startswith("vicc") else "best_acc"
    assert set(back) == {"epoch", "state_dict", score, "optimizer", "iteration", "vicc_encoders"}
    assert (back["epoch"], back["iteration"], back["optimizer"]) == (299, 12001, {})
    assert back[score] == (0.0 if score == "best_loss" else 0.5)
    streams = {prefix: config["stream"] for prefix, config in back["vicc_encoders"].items()}
    assert all((stream == "flow") == (prefix in ("second", "sampler")) for prefix, stream in streams.items())


@pytest.mark.parity
@pytest.mark.skipif(not PARITY, reason="VICC_PARITY does not name a folder of published numbers")
@pytest.mark.parametrize("case", METHODS)
def test_the_published_checkpoints_come_back_under_their_names_and_shapes(
    case: str, tmp_path: Path, full_size: None
) -> None:
    expected = json.loads((Path(PARITY or "") / "fixtures" / "checkpoint_keys.json").read_text())[case]["state_dict"]
    state = published_state(case)
    assert {name: list(tensor.shape) for name, tensor in state.items()} == expected
    import_published(save(tmp_path / "a", state), tmp_path / "folder", stream="rgb")
    export_published(tmp_path / "folder", tmp_path / "b")
    assert same(torch.load(tmp_path / "b", weights_only=True)["state_dict"], state)


@pytest.mark.parametrize("case", ["lincls_last", "lincls_ft"])
def test_a_classifier_of_our_own_is_exported_as_published(case: str, tmp_path: Path) -> None:
    """Import, save as ours, export, import again: every tensor is where it was."""
    first, ours, back = tmp_path / "first", tmp_path / "ours", tmp_path / "back"
    import_published(save(tmp_path / case, published_state(case)), first, stream="rgb")
    module = load_classifier(first).module
    save_classifier(ours, module, classes=[f"class {number}" for number in range(101)], label_share=1, facts={})
    assert export_published(ours, tmp_path / "out.pth.tar").lacks == []
    import_published(tmp_path / "out.pth.tar", back, stream="rgb")
    again = load_classifier(back).module.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in module.state_dict().items())


def test_a_file_that_vicc_wrote_says_its_stream_and_its_input(tmp_path: Path, imported: Path) -> None:
    export_published(imported, tmp_path / "a.pth.tar")
    refused(tmp_path / "a.pth.tar", tmp_path / "f", "sees flow, not rgb")
    import_published(tmp_path / "a.pth.tar", tmp_path / "f")
    assert load_encoder(tmp_path / "f").config == load_encoder(imported).config


def test_an_imported_folder_that_has_been_damaged_is_not_exported(tmp_path: Path, single: Path) -> None:
    import_published(single, tmp_path / "f", stream="rgb")
    path = tmp_path / "f" / "prototypes.safetensors"
    whole = path.read_bytes()
    for content, match in ((whole[:-9], "cannot be read"), (safetensors.torch.save({}), "expected weight")):
        path.write_bytes(content)
        with pytest.raises(ViccError, match=match):
            export_published(tmp_path / "f", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_backbone_that_was_never_published_is_not_exported(tmp_path: Path) -> None:
    save_encoder(tmp_path / "e", Encoder(EncoderConfig("rgb", backbone="s3d-demo")))
    with pytest.raises(ViccError, match=r"s3d-demo has no published layout"):
        export_published(tmp_path / "e", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_an_encoder_of_a_stream_that_was_never_published_is_not_exported(tmp_path: Path) -> None:
    save_encoder(tmp_path / "e", Encoder(EncoderConfig("diff", backbone="s3d")))
    with pytest.raises(ViccError, match=r"stream diff, which the published code lacks"):
        export_published(tmp_path / "e", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_stages_of_a_run_go_to_the_published_layout_and_back(
    tiny_recipe: Recipe, store_path: Path, tmp_path: Path
) -> None:
    rgb, flow, cross = (
        stage.replace(backbone="s3d", steps=1, batch_size=2, warmup_steps=0) for stage in tiny_recipe.stages[:3]
    )
    contrast = {"queue_length": 8, "temperature": 0.07}
    stages = (rgb, flow.replace(method="infonce", **contrast), cross.replace(method="coclr", **contrast))
    run = tmp_path / "run"
    pretrain(replace(tiny_recipe, stages=stages), PretrainConfig(store=store_path, run=run, workers=0))
    expected = {
        "rgb-1": {"prototypes.weight": (6, rgb.encoder.embedding_dim)},
        "flow-1": {"queue": (flow.encoder.embedding_dim, 8), "queue_ptr": (1,)},
        "rgb-2": {"queue_second": (cross.encoder.embedding_dim, 8), "queue_vname": (8,), "queue_label": (8,)},
    }
    for name, shapes in expected.items():
        export_published(run / name, tmp_path / name)
        content = torch.load(tmp_path / name, weights_only=True)
        assert (content["epoch"], content["iteration"]) == (0, 2)
        for tensor, shape in shapes.items():
            assert tuple(content["state_dict"][tensor].shape) == shape
        found = import_published(tmp_path / name, tmp_path / f"{name}-back")
        assert found.method == next(stage.method for stage in stages if stage.name == name)
        ours, back = load_encoder(run / name), load_encoder(tmp_path / f"{name}-back")
        assert ours.config == back.config
        assert same(ours.state_dict(), back.state_dict())
    teacher = load_encoder(tmp_path / "rgb-2-back" / "teacher")
    assert same(teacher.state_dict(), load_encoder(run / "flow-1").state_dict())


def test_a_stage_of_the_contrast_alone_is_written_without_prototypes(
    tiny_recipe: Recipe, store_path: Path, tmp_path: Path
) -> None:
    stage = tiny_recipe.stages[0].replace(
        backbone="s3d", steps=1, batch_size=2, warmup_steps=0, swap_weight=0.0, contrast_weight=1.0
    )
    pretrain(replace(tiny_recipe, stages=(stage,)), PretrainConfig(store=store_path, run=tmp_path / "run", workers=0))
    assert export_published(tmp_path / "run" / "rgb-1", tmp_path / "a").lacks == ["prototypes.weight"]


def test_an_encoder_alone_is_written_without_what_it_does_not_have(tmp_path: Path) -> None:
    encoder = Encoder(EncoderConfig("rgb"))
    save_encoder(tmp_path / "e", encoder)
    assert export_published(tmp_path / "e", tmp_path / "a").tensors == 928
    refused(tmp_path / "a", tmp_path / "f", "neither prototypes")
    import_published(tmp_path / "a", tmp_path / "f", allow_partial=True)
    assert same(load_encoder(tmp_path / "f").state_dict(), encoder.state_dict())
