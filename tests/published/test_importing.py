"""Published checkpoints to encoder folders: every tensor finds its place; what is wrong is said in words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.parity.formula import gauss, value
from tests.published.made_files import (
    PARITY,
    State,
    changed,
    encoder_state,
    published_state,
    refused,
    same,
    save,
    without,
)
from vicc.errors import ViccError
from vicc.evaluation.configs import RetrieveConfig
from vicc.evaluation.retrieve import retrieve
from vicc.files import write_json
from vicc.methods.classifier import FineTuned, LinearProbe
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.published import importing
from vicc.published.exporting import export_published
from vicc.published.importing import import_published
from vicc.training.beside_encoder import load_prototypes
from vicc.training.checkpoint import copy_weights, load_encoder
from vicc.training.classifier_folder import load_classifier


@pytest.mark.parity
@pytest.mark.skipif(not PARITY, reason="VICC_PARITY does not name a folder of published numbers")
@pytest.mark.parametrize("case", ["vicc", "vicc_r21d"])
def test_an_imported_backbone_computes_the_published_features(case: str, tmp_path: Path, full_size: None) -> None:
    state = published_state(case)
    # The published numbers belong to weights made from the names of the backbone alone; of two names, the first.
    first: dict[int, str] = {}
    for name, tensor in state.items():
        first.setdefault(id(tensor), name.removeprefix("encoder_q.0."))
    state = {name: value(first[id(tensor)], tensor.shape) for name, tensor in state.items()}
    import_published(save(tmp_path / "a", state), tmp_path / "folder", stream="rgb")
    network = "s3d" if case == "vicc" else "r21d"
    clips = gauss(f"x.{network}.a", (2, 3, 16, 64, 64)).double()
    with torch.no_grad():
        features = load_encoder(tmp_path / "folder").double().backbone(clips)
    theirs = np.load(Path(PARITY or "") / "fixtures" / f"{network}.f64.npz")["eval_a"]
    # The published R(2+1)D pools within the backbone.
    ours = (features if case == "vicc" else features.mean((2, 3, 4), keepdim=True)).numpy()
    assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max()


def test_the_imported_encoder_has_the_weights_of_the_names(imported: Path) -> None:
    encoder = load_encoder(imported)
    backbone: Any = encoder.backbone
    head: Any = encoder.projection_head
    expected = value("encoder_q.0.Mixed_4c.branch2.1.conv2.weight", (4, 4, 3, 1, 1))
    assert torch.equal(backbone.features[9].branch2[1][1][0].weight, expected)
    assert torch.equal(head[2].bias, value("encoder_q.4.bias", (128,)))
    [prototypes] = load_prototypes(imported)
    assert torch.equal(prototypes, value("prototypes.weight", (300, 128)))


def test_flow_encoders_expect_the_published_channels_and_rgb_encoders_do_not(tmp_path: Path, imported: Path) -> None:
    flow = load_encoder(imported).config
    assert (flow.flow_channels, flow.flow_bound, flow.flow_short_side, flow.in_channels) == ("128vu", 20.0, 240, 3)
    found = import_published(save(tmp_path / "a", published_state("vicc2")), tmp_path / "f", stream="rgb")
    assert load_encoder(tmp_path / "f").config == EncoderConfig("rgb")
    assert load_encoder(found.folders["second"]).config == flow


def test_the_older_format_and_the_prefix_of_data_parallel_are_read(
    tmp_path: Path, single: Path, imported: Path
) -> None:
    state = {f"module.{name}": tensor for name, tensor in published_state("vicc").items()}
    import_published(save(tmp_path / "a", state, old_format=True), tmp_path / "f", stream="flow")
    weights = [safetensors.torch.load_file(folder / "model.safetensors") for folder in (tmp_path / "f", imported)]
    assert same(*weights)


def test_the_card_says_what_it_is_and_where_it_came_from(single: Path, imported: Path) -> None:
    card = (imported / "README.md").read_text()
    for words in ("ViCC, single-stream", "s3d", "flow", "299", "vicc.pth.tar", str(single.stat().st_size), "blake2b"):
        assert words in card
    assert "CC BY-NC 4.0" in card
    assert "128, v, u" in card
    assert str(imported.parent) not in card


def test_a_classifiers_head_fits_our_modules(tmp_path: Path) -> None:
    for case, module in (("lincls_last", LinearProbe), ("lincls_ft", FineTuned)):
        import_published(save(tmp_path / case, published_state(case)), tmp_path / f"{case}-folder", stream="rgb")
        encoder = load_encoder(tmp_path / f"{case}-folder")
        assert encoder.config.embedding_dim == 0
        head = safetensors.torch.load_file(tmp_path / f"{case}-folder" / "head.safetensors")
        unfilled = module(encoder, 101).load_state_dict(head, strict=False)
        assert unfilled.unexpected_keys == []
        assert all(name.startswith("encoder.") for name in unfilled.missing_keys)
        loaded = load_classifier(tmp_path / f"{case}-folder")
        assert isinstance(loaded.module, module)
        assert (loaded.num_classes, loaded.classes) == (101, None)


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[5] = float("nan")
    return tensor


WRONG: dict[str, tuple[Callable[[State], Any], str]] = {
    "missing keys": (without("encoder_q.4.bias"), r"1 missing \(encoder_q\.4\.bias\)"),
    "missing backbone keys": (without("encoder_q.0.Mixed_4c", "encoder_q.0.block4.2"), "96 missing"),
    "missing prototypes": (without("prototypes"), "neither prototypes"),
    "extra keys": (lambda state: {**state, "queue_more": torch.zeros(1)}, r"1 unknown \(queue_more\)"),
    "wrong shape": (changed("encoder_q.2.weight", lambda w: w[:5]), r"encoder_q\.2\.weight is \(5, 6"),
    "wrong shape of prototypes": (changed("prototypes.weight", lambda w: w[:, :64]), r"expected \(K, D\)"),
    "wrong dtype": (changed("encoder_q.4.bias", torch.Tensor.long), "of int64"),
    "twins that differ": (changed("encoder_q.0.block1.0.conv1.weight", lambda w: w + 1), "contradicts itself"),
    "nan": (changed("encoder_q.0.Conv_2b.conv.weight", with_nan), "not finite"),
    "infinity": (changed("prototypes.weight", lambda w: w / 0), "not finite"),
    "another network": (
        lambda state: {"encoder_q.0.layer1.0.conv1.weight": torch.ones(1), "prototypes.weight": torch.ones(1, 1)},
        "another network",
    ),
    "another method": (lambda state: {"backbone_net.fc.weight": torch.ones(1)}, "begin with backbone_net"),
    "nothing": (lambda state: {}, "begin with nothing"),
    "no tensors": (lambda state: {"encoder_q.0": [1, 2]}, "no dense tensor"),
    "no state dict": (lambda state: 5, "expected an entry state_dict"),
    "a tensor that claims to be huge": (
        changed("prototypes.weight", lambda w: torch.zeros(1).expand(1 << 40)),
        r"claims the shape \(1099511627776,\)",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_contents_are_refused_whole(what: str, tmp_path: Path) -> None:
    change, match = WRONG[what]
    refused(save(tmp_path / "a.pth.tar", change(published_state("vicc"))), tmp_path / "folder", match)


def test_a_checkpoint_with_numpy_numbers_is_imported_with_its_epoch_and_its_best_value(tmp_path: Path) -> None:
    """`best_loss` is what the published loop keeps; a bool and an array beside it must not be in the way."""
    entries = {"epoch": np.int64(300), "best_loss": np.float64(1.5), "done": np.bool_(True), "seen": np.arange(9)}
    path = save(tmp_path / "a", published_state("vicc"), **entries)
    assert import_published(path, tmp_path / "folder", stream="rgb").epoch == 300
    assert json.loads((tmp_path / "folder" / "published.json").read_text())["best"] == 1.5


def test_the_stream_must_be_given_and_must_fit(tmp_path: Path, single: Path) -> None:
    refused(single, tmp_path / "f", "--stream rgb or --stream flow", stream=None)
    two = {**encoder_state("encoder_q", "s3d", 2), "prototypes.weight": value("prototypes.weight", (300, 128))}
    path = save(tmp_path / "a.pth.tar", two)
    refused(path, tmp_path / "f", "two input channels, which is flow")
    assert import_published(path, tmp_path / "f").stream == "flow"
    assert load_encoder(tmp_path / "f").config == EncoderConfig("flow")


def test_a_partial_import_says_what_it_left_out(tmp_path: Path) -> None:
    state = without("encoder_q.4.bias", "second.0.Conv_2b.bn.bias")(published_state("vicc2"))
    path = save(tmp_path / "a", {**state, "extra.weight": torch.zeros(2)})
    refused(path, tmp_path / "f", "give --allow-partial")
    found = import_published(path, tmp_path / "f", stream="rgb", allow_partial=True)
    assert found.missing == ["encoder_q.4.bias", "second.0.Conv_2b.bn.bias"]
    assert "extra.weight" in found.left_out
    assert {"encoder_q.4.weight", "encoder_q.2.weight", "second.4.bias"} <= set(found.left_out)
    assert list(found.folders) == ["encoder_q"]
    assert load_encoder(tmp_path / "f").config.embedding_dim == 0
    assert "extra.weight" in (tmp_path / "f" / "README.md").read_text()
    assert "second.*" in export_published(tmp_path / "f", tmp_path / "b").lacks


def test_no_partial_import_makes_up_a_backbone(tmp_path: Path) -> None:
    path = save(tmp_path / "a", without("encoder_q.0.Conv_2c")(published_state("vicc")))
    refused(path, tmp_path / "f", "cannot be used", allow_partial=True)


def test_nothing_is_left_of_an_import_that_fails_while_writing(
    tmp_path: Path, single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(importing, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        import_published(single, tmp_path / "f", stream="rgb")
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_exists_is_written_over(tmp_path: Path, single: Path, imported: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "mine").write_text("mine")
    refused(single, tmp_path / "f", "exists already")
    with pytest.raises(ViccError, match="exists already"):
        export_published(imported, tmp_path / "f" / "mine")
    assert (tmp_path / "f" / "mine").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    import_published(single, tmp_path / "empty", stream="rgb")
    assert (tmp_path / "empty" / "config.json").exists()


def test_flow_weights_are_no_start_for_rgb_though_both_have_three_channels(imported: Path) -> None:
    rgb = Encoder(EncoderConfig("rgb"))
    before = {name: tensor.clone() for name, tensor in rgb.state_dict().items()}
    with pytest.raises(ViccError, match="a flow encoder do not fit an rgb encoder"):
        copy_weights(load_encoder(imported), rgb, what="a test")
    assert same(rgb.state_dict(), before)


def test_encoders_of_both_streams_are_measured_without_a_run(tmp_path: Path, store_path: Path) -> None:
    made = []
    for stream in ("rgb", "flow"):
        path = save(tmp_path / f"{stream}.pth.tar", published_state("vicc"))
        import_published(path, tmp_path / stream, stream=stream)  # type: ignore[arg-type]
        # The published clips of 32 frames at 128 pixels would take a minute here.
        config = json.loads((tmp_path / stream / "config.json").read_text())
        write_json(tmp_path / stream / "config.json", {**config, "clip_frames": 8, "size": 32})
        made.append(tmp_path / stream)
    result = retrieve(RetrieveConfig(store=store_path, encoder=made, baselines=False))
    assert [row.name for row in result.rows] == ["chance", "RGB (rgb)", "Flow (flow)", "R+F"]
    assert (tmp_path / "rgb" / "retrieval.json").exists()
    with pytest.raises(ViccError, match="expected at most one encoder of each stream"):
        retrieve(RetrieveConfig(store=store_path, encoder=[made[1], made[1]]))
