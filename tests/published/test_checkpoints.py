"""Published checkpoints: every tensor finds its place and its way back; what is wrong with a file is said in words.

A thin S3D stands for S3D, under the same names, but for the tests that are marked parity.
"""

import json
import os
import pickle
import re
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.parity.formula import gauss, value
from vicc.backbones import S3D, create_backbone, registry
from vicc.data.dataset import load_view
from vicc.data.store import Store
from vicc.errors import ViccError
from vicc.evaluation.configs import RetrieveConfig
from vicc.evaluation.retrieve import retrieve
from vicc.files import write_json
from vicc.methods.classifier import FineTuned, LinearProbe
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.published import published
from vicc.published.published import export_published, import_published, published_names
from vicc.training.checkpoint import copy_weights, load_encoder, save_encoder
from vicc.training.classifier_folder import load_classifier, save_classifier
from vicc.training.configs import PretrainConfig
from vicc.training.pretrain import pretrain
from vicc.training.stage import Recipe
from vicc.transforms.augmentation import center_view
from vicc.video.flow import dequantize_flow

State = dict[str, torch.Tensor]
PARITY = os.environ.get("VICC_PARITY")

# By the names of the fixture checkpoint_keys.json: our method, its encoders, what lies beside them.
# "F" is the backbone's number of features.
METHODS: dict[str, tuple[str, tuple[str, ...], dict[str, tuple[Any, ...]]]] = {
    "vicc": ("single_stream", ("encoder_q",), {"prototypes.weight": (300, 128)}),
    "vicc2": ("cross_stream", ("encoder_q", "second"), {"prototypes.weight": (300, 128)}),
    "infonce": ("infonce", ("encoder_q", "encoder_k"), {"queue": (128, 2048), "queue_ptr": (1,)}),
    "ubernce": (
        "ubernce",
        ("encoder_q", "encoder_k"),
        {"queue": (128, 2048), "queue_ptr": (1,), "queue_label": (2048,)},
    ),
    "coclr": (
        "coclr",
        ("encoder_q", "encoder_k", "sampler"),
        {
            "queue": (128, 2048),
            "queue_ptr": (1,),
            "queue_second": (128, 2048),
            "queue_vname": (2048,),
            "queue_label": (2048,),
        },
    ),
    "lincls_last": (
        "linear_probe",
        ("backbone",),
        {
            **{f"final_bn.{name}": ("F",) for name in ("weight", "bias", "running_mean", "running_var")},
            "final_bn.num_batches_tracked": (),
            "final_fc.0.weight": (101, "F"),
            "final_fc.0.bias": (101,),
        },
    ),
    "lincls_ft": ("fine_tuned", ("backbone",), {"final_fc.1.weight": (101, "F"), "final_fc.1.bias": (101,)}),
    "vicc_r21d": ("single_stream", ("encoder_q",), {"prototypes.weight": (300, 128)}),
}


FULL = registry._FACTORIES["s3d"]


@pytest.fixture(scope="module", autouse=True)
def thin() -> Iterator[None]:
    """A sixteenth of S3D's width: 0.03 M parameters in place of 7.9 M, the same names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._FACTORIES, "s3d", lambda in_channels: S3D(in_channels, width=1 / 16))
        yield


@pytest.fixture
def full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._FACTORIES, "s3d", FULL)


def num_features(backbone: str = "s3d") -> int:
    with torch.device("meta"):
        return int(create_backbone(backbone).num_features)  # type: ignore[arg-type]


def encoder_state(prefix: str, backbone: str = "s3d", channels: int = 3) -> State:
    """An encoder's tensors under published names; two names of one tensor share it."""
    return _encoder_state(prefix, backbone, channels, num_features(backbone))


@cache
def _encoder_state(prefix: str, backbone: str, channels: int, features: int) -> State:
    stream = "rgb" if channels == 3 else "flow"
    with torch.device("meta"):
        shapes = Encoder(EncoderConfig(stream, backbone=backbone)).state_dict()  # type: ignore[arg-type]
    state: State = {}
    for ours, like in shapes.items():
        names = published_names(ours, backbone)
        if prefix == "backbone":
            if not names[0].startswith("0."):
                continue
            names = tuple(name.removeprefix("0.") for name in names)
        state |= dict.fromkeys((f"{prefix}.{name}" for name in names), value(f"{prefix}.{names[0]}", like.shape))
    return state


def published_state(case: str) -> State:
    """A whole state dict of a method, as its published checkpoints name it."""
    _, prefixes, beside = METHODS[case]
    backbone = "r2plus1d-10" if case == "vicc_r21d" else "s3d"
    sizes = {"F": num_features(backbone)}
    state: State = {name: value(name, [sizes.get(size, size) for size in shape]) for name, shape in beside.items()}
    for prefix in prefixes:
        state |= encoder_state(prefix, backbone)
    return state


def save(path: Path, state: Any, *, old_format: bool = False, **entries: Any) -> Path:
    content = {
        "epoch": 299,
        "state_dict": state,
        "best_loss": 0.0,
        "best_acc": 0.5,
        "optimizer": {},
        "iteration": 12001,
    }
    torch.save(content | entries, path, _use_new_zipfile_serialization=not old_format)
    return path


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A single-stream ViCC file. Read it only."""
    return save(tmp_path_factory.mktemp("published") / "vicc.pth.tar", published_state("vicc"))


@pytest.fixture(scope="module")
def imported(single: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`single`, imported as flow. Read it only."""
    folder = tmp_path_factory.mktemp("imported") / "vicc-flow"
    import_published(single, folder, stream="flow")
    return folder


# --- there and back --------------------------------------------------------------------------------------------------


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


@pytest.mark.parity
@pytest.mark.skipif(not PARITY, reason="VICC_PARITY does not name a folder of published numbers")
def test_s3d_names_agree_with_the_published_table() -> None:
    table = json.loads((Path(PARITY or "") / "fixtures" / "s3d_torchvision_to_reference_keys.json").read_text())
    with torch.device("meta"):
        ours = Encoder(EncoderConfig("rgb")).backbone.state_dict()
    assert {name.removeprefix("features.") for name in ours} == set(table)
    for name, theirs in table.items():
        assert published_names(f"backbone.features.{name}", "s3d")[0] == f"0.{theirs}"


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
    prototypes = safetensors.torch.load_file(imported / "prototypes.safetensors")
    assert torch.equal(prototypes["weight"], value("prototypes.weight", (300, 128)))


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


# --- what is wrong with a file ---------------------------------------------------------------------------------------


def refused(path: Path, folder: Path, match: str, **options: Any) -> str:
    """Import has to be refused in one sentence or two, and to leave nothing behind."""
    before = sorted(folder.parent.iterdir())
    with pytest.raises(ViccError, match=match) as error:
        import_published(path, folder, **{"stream": "rgb", **options})
    assert sorted(folder.parent.iterdir()) == before
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    return str(error.value)


def without(*starts: str) -> Callable[[State], State]:
    return lambda state: {name: tensor for name, tensor in state.items() if not name.startswith(starts)}


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], State]:
    return lambda state: {**state, name: change(state[name])}


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


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.99, 0.99999])
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, share: float, old_format: bool) -> None:
    path = save(tmp_path / "a", {"encoder_q.0": torch.randn(100_000)}, old_format=old_format)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(path, tmp_path / "folder", "cut short" if share else "an empty file")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"not an archive, nor anything else\n" * 100)
    refused(tmp_path / "a", tmp_path / "folder", "not written by torch.save")
    with zipfile.ZipFile(tmp_path / "b", "w") as archive:
        archive.writestr("hello.txt", "hello")
    refused(tmp_path / "b", tmp_path / "folder", "damaged")
    refused(tmp_path / "nothing", tmp_path / "folder", "no such file")


def test_a_file_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a", {"encoder_q.0": torch.zeros(100_000)})
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "b", "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    refused(tmp_path / "b", tmp_path / "folder", "unpack to more")


class RunsCode:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["zip", "old format", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path, kind: str) -> None:
    made, path = tmp_path / "made", tmp_path / "a"
    content = {"state_dict": {"encoder_q.0": torch.zeros(3)}, "optimizer": RunsCode(made)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(RunsCode(made)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    said = refused(path, tmp_path / "folder", "run code when loaded")
    assert "executed" in said
    assert not made.exists()


class Call:
    """A pickle that calls something, with any arguments."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize(
    ("value", "epoch"),
    [
        (np.int64(300), 300),
        (np.uint8(7), 7),
        (np.float32(12.0), 12),
        (np.float64(1.5), None),
        (np.array(300), 300),
        (np.array([[5]], ">i4"), 5),
        (torch.tensor(9), 9),
        (np.arange(3), None),
        (np.str_("300"), None),
        (np.array([1, None]), None),
        (np.datetime64("2020-01-01"), None),
    ],
    ids=repr,
)
@pytest.mark.parametrize("old_format", [False, True])
def test_numpy_numbers_are_read_as_what_they_are_and_the_weights_with_them(
    tmp_path: Path, value: object, epoch: int | None, old_format: bool
) -> None:
    path = save(tmp_path / "a", {"encoder_q.0": torch.ones(2)}, epoch=value, lr=np.float64(0.1), old_format=old_format)
    checkpoint = published._load(path)
    assert published._whole_number(checkpoint, "epoch") == epoch
    assert published._number(checkpoint["lr"]) == 0.1
    assert torch.equal(checkpoint["state_dict"]["encoder_q.0"], torch.ones(2))


def test_a_checkpoint_with_numpy_numbers_is_imported_with_its_epoch_and_its_best_value(tmp_path: Path) -> None:
    """`best_loss` is what the published loop keeps; a bool and an array beside it must not be in the way."""
    entries = {"epoch": np.int64(300), "best_loss": np.float64(1.5), "done": np.bool_(True), "seen": np.arange(9)}
    path = save(tmp_path / "a", published_state("vicc"), **entries)
    assert import_published(path, tmp_path / "folder", stream="rgb").epoch == 300
    assert json.loads((tmp_path / "folder" / "published.json").read_text())["best"] == 1.5


@pytest.mark.parametrize("core", ["core", "_core"])
def test_numbers_of_numpy_1_and_of_numpy_2_are_read(tmp_path: Path, core: str) -> None:
    """Each has another name for the module, and a file does not say which NumPy wrote it."""
    path, written = tmp_path / "a", tmp_path / "written"
    save(written, {"encoder_q.0": torch.zeros(1)}, epoch=np.int64(300))
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith("data.pkl"):
                found = re.sub(rb"numpy\._?core", f"numpy.{core}".encode(), data)
                assert f"numpy.{core}.multiarray".encode() in found
                data = found
            target.writestr(entry.filename, data)
    assert published._load(path)["epoch"] == 300


@pytest.mark.parametrize("at", ["instead of it", "in an array", "as a kind of array", "as an argument"])
def test_what_would_run_code_is_named_also_within_numpys_values(tmp_path: Path, at: str) -> None:
    made = tmp_path / "made"
    bad = RunsCode(made)
    reconstruct = np.array(1).__reduce__()[0]
    values = {
        "instead of it": bad,
        "in an array": np.array([bad, None], dtype=object),
        "as a kind of array": Call(reconstruct, bad, (0,), b"b"),
        "as an argument": Call(reconstruct, np.ndarray, (0,), bad),
    }
    path = save(tmp_path / "a", {"encoder_q.0": torch.zeros(1)}, epoch=values[at])
    assert "posix.mkdir" in refused(path, tmp_path / "folder", "run code when loaded")
    assert not made.exists()


def test_what_is_refused_is_named_by_its_own_name(tmp_path: Path) -> None:
    for args, name in ((types.SimpleNamespace(lr=0.1), "types.SimpleNamespace"), (Path("x"), "pathlib.P")):
        said = refused(save(tmp_path / "a", {}, args=args), tmp_path / "folder", "run code when loaded")
        assert f"it holds {name}" in said


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_of_a_newer_pickle_protocol_is_not_called_damaged(tmp_path: Path) -> None:
    torch.save({"state_dict": {"encoder_q.0": torch.zeros(3)}}, tmp_path / "a", pickle_protocol=4)
    refused(tmp_path / "a", tmp_path / "folder", "pickle_protocol above 2")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_bytes_changed_at_random_never_end_in_anything_but_a_sentence(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for old_format in (False, True):
        path = save(tmp_path / "a", {"encoder_q.0": torch.arange(64.0)}, best=np.float64(1), old_format=old_format)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for trial in range(150):
            data = whole.copy()
            places = rng.integers(0, len(data), 1 + trial % 4)
            data[places] = rng.integers(0, 256, len(places))
            path.write_bytes(data.tobytes())
            with pytest.raises(ViccError):
                import_published(path, tmp_path / "folder", stream="rgb")


# --- streams ---------------------------------------------------------------------------------------------------------


def test_the_stream_must_be_given_and_must_fit(tmp_path: Path, single: Path) -> None:
    refused(single, tmp_path / "f", "--stream rgb or --stream flow", stream=None)
    two = {**encoder_state("encoder_q", "s3d", 2), "prototypes.weight": value("prototypes.weight", (300, 128))}
    path = save(tmp_path / "a.pth.tar", two)
    refused(path, tmp_path / "f", "two input channels, which is flow")
    assert import_published(path, tmp_path / "f").stream == "flow"
    assert load_encoder(tmp_path / "f").config == EncoderConfig("flow")


def test_a_file_that_vicc_wrote_says_its_stream_and_its_input(tmp_path: Path, imported: Path) -> None:
    export_published(imported, tmp_path / "a.pth.tar")
    refused(tmp_path / "a.pth.tar", tmp_path / "f", "sees flow, not rgb")
    import_published(tmp_path / "a.pth.tar", tmp_path / "f")
    assert load_encoder(tmp_path / "f").config == load_encoder(imported).config


# --- partial imports -------------------------------------------------------------------------------------------------


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


# --- writing ---------------------------------------------------------------------------------------------------------


def test_nothing_is_left_of_an_import_that_fails_while_writing(
    tmp_path: Path, single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(published, "write_json", full)
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
        replace(stage, backbone="s3d", steps=1, batch_size=2, warmup_steps=0) for stage in tiny_recipe.stages[:3]
    )
    contrast = {"queue_length": 8, "temperature": 0.07}
    stages = (rgb, replace(flow, method="infonce", **contrast), replace(cross, method="coclr", **contrast))
    run = tmp_path / "run"
    pretrain(replace(tiny_recipe, stages=stages), PretrainConfig(store=store_path, run=run, workers=0))
    expected = {
        "rgb-1": {"prototypes.weight": (6, rgb.embedding_dim)},
        "flow-1": {"queue": (flow.embedding_dim, 8), "queue_ptr": (1,)},
        "rgb-2": {"queue_second": (cross.embedding_dim, 8), "queue_vname": (8,), "queue_label": (8,)},
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


def test_an_encoder_alone_is_written_without_what_it_does_not_have(tmp_path: Path) -> None:
    encoder = Encoder(EncoderConfig("rgb"))
    save_encoder(tmp_path / "e", encoder)
    assert export_published(tmp_path / "e", tmp_path / "a").tensors == 928
    refused(tmp_path / "a", tmp_path / "f", "neither prototypes")
    import_published(tmp_path / "a", tmp_path / "f", allow_partial=True)
    assert same(load_encoder(tmp_path / "f").state_dict(), encoder.state_dict())


# --- loading ---------------------------------------------------------------------------------------------------------


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


# --- preprocessing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rgb", "uv", "128vu"])
def test_preprocess_gives_what_retrieval_looks_at(kind: str, store_path: Path) -> None:
    store = Store(store_path)
    video, bound = store.videos[0], store.settings.flow_bound
    config = EncoderConfig("rgb", backbone="s3d-demo", clip_frames=6, size=24, stride=2)
    if kind != "rgb":
        config = replace(config, stream="flow", flow_channels=kind, flow_bound=bound, flow_center=kind == "uv")  # type: ignore[arg-type]
    frames = store.frames(video.id, config.stream, range(video.num_frames - 1))
    clip = Encoder(config).preprocess(frames if kind == "rgb" else dequantize_flow(frames, bound=bound))
    assert clip.shape == (1, config.in_channels, 6, 24, 24)
    assert clip.dtype == torch.uint8
    first = (video.num_frames - 1 - 11) // 2
    expected = load_view(
        store,
        video,
        config.stream,
        np.arange(first, first + 12, 2),
        center_view(height=video.height, width=video.width),
        size=24,
        flow_center=config.flow_center,
        flow_form=config.flow_form if kind != "rgb" else None,
    )
    np.testing.assert_array_equal(clip[0].permute(1, 2, 3, 0).numpy(), expected)


def test_flow_is_scaled_to_the_frames_the_published_encoders_know() -> None:
    config = EncoderConfig(
        "flow", backbone="s3d-demo", clip_frames=2, size=8, flow_channels="128vu", flow_short_side=240
    )
    flow = np.zeros((2, 120, 160, 2), np.float32)
    flow[..., 0] = 5.0  # 10 pixels of frames 240 high: half of the bound
    clip = Encoder(config).preprocess(flow)[0, :, 0, 0, 0].tolist()
    assert clip == [128, 128, 192]  # 127.5 + 127.5 / 2, in steps of the stored form


def test_a_short_video_is_padded_and_frames_of_another_kind_are_refused() -> None:
    encoder = Encoder(EncoderConfig("rgb", backbone="s3d-demo", clip_frames=4, size=8))
    frames = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), dtype=np.uint8)
    clip = encoder.preprocess(frames)
    assert torch.equal(clip[:, :, 0], clip[:, :, 2])
    assert not torch.equal(clip[:, :, 0], clip[:, :, 3])
    for wrong in (frames / 255.0, frames[..., :2], frames[0]):
        with pytest.raises(ViccError, match=r"expected frames, uint8 \(T, H, W, 3\)"):
            encoder.preprocess(wrong)
    with pytest.raises(ViccError, match="nothing to encode"):
        encoder.preprocess(frames[:0])


# --- retrieval -------------------------------------------------------------------------------------------------------


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


def test_a_run_or_encoders_must_be_given_and_not_both(tmp_path: Path) -> None:
    with pytest.raises(ViccError, match="Neither --run nor --encoder"):
        RetrieveConfig(store=tmp_path)
    with pytest.raises(ViccError, match="Both --run and --encoder"):
        RetrieveConfig(store=tmp_path, run=tmp_path, encoder=[tmp_path])


def test_flow_weights_are_no_start_for_rgb_though_both_have_three_channels(imported: Path) -> None:
    rgb = Encoder(EncoderConfig("rgb"))
    before = {name: tensor.clone() for name, tensor in rgb.state_dict().items()}
    with pytest.raises(ViccError, match="a flow encoder do not fit an rgb encoder"):
        copy_weights(load_encoder(imported), rgb, what="a test")
    assert same(rgb.state_dict(), before)
