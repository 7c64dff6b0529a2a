"""torchvision's weights in vicc's backbones: the same features, files that are checked, and no network."""

import os
import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F

from tests.made_weights import save_weights
from vicc.backbones import create_backbone
from vicc.backbones.torchvision_video import get_model, get_model_weights
from vicc.backbones.torchvision_weights import (
    LICENCE,
    NORMALIZATIONS,
    load_torchvision_weights,
    without_colour,
)
from vicc.errors import ViccError
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder

each_name = pytest.mark.parametrize("name", NORMALIZATIONS)


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, *_: Any) -> None:
        raise URLError(f"no network in tests ({url})")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def made_model(name: str) -> torch.nn.Module:
    """torchvision's model with random weights, and the statistics of BatchNorm that go with them.

    Variances are small enough for what BatchNorm adds to them to count, and not so small that rounding counts.
    """
    torch.manual_seed(3)
    model = get_model(name, weights=None)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm3d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            features_of(model.train(), torch.randn(2, 3, 8, 64, 64))
    for norm in norms:
        assert norm.running_var is not None
        norm.running_var.clamp_(0.1, 1.0)
    return model.eval()


def features_of(model: torch.nn.Module, clips: torch.Tensor) -> torch.Tensor:
    """What torchvision's model hands to its classifier; of S3D before its pooling, which is made for 224 pixels."""
    if hasattr(model, "classifier"):
        return model.features(clips).mean(dim=(2, 3, 4))  # type: ignore[operator]
    seen: list[torch.Tensor] = []
    last = model.fc if hasattr(model, "fc") else model.head
    handle = last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))  # type: ignore[union-attr]
    model(clips)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("name", ["s3d", "r2plus1d_18", "swin3d_t"])
def test_features_are_those_of_torchvisions_own_model_on_the_same_frames(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made_model(name)
    save_weights(name, model.state_dict(), tmp_path / "torch", monkeypatch)
    encoder = Encoder(EncoderConfig("rgb", name, embedding_dim=0, rgb_normalization=NORMALIZATIONS[name])).eval()
    encoder.backbone.load_state_dict(load_torchvision_weights(name))
    frames = torch.randint(0, 256, (1, 8, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    prepare = get_model_weights(name)["KINETICS400_V1"].transforms(crop_size=(64, 64), resize_size=(64, 64))
    with torch.no_grad():  # in float64: random layers multiply what rounding adds
        theirs = features_of(model.double(), prepare(frames).double())
        ours = encoder.double().features(frames.transpose(1, 2), any_size=True)
    # Of unit length, as evaluation compares them; without what BatchNorm adds, S3D's are up to 0.1 apart.
    ours, theirs = F.normalize(ours, dim=1), F.normalize(theirs, dim=1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@each_name
def test_rgb_is_normalised_as_torchvision_does_it_for_these_weights(name: str) -> None:
    prepare = get_model_weights(name)["KINETICS400_V1"].transforms()
    encoder = Encoder(EncoderConfig("rgb", "s3d-demo", rgb_normalization=NORMALIZATIONS[name]))
    assert (encoder.mean.flatten() / 255).tolist() == pytest.approx(prepare.mean, abs=1e-6)
    assert (encoder.std.flatten() / 255).tolist() == pytest.approx(prepare.std, abs=1e-6)


@each_name
def test_every_weight_but_the_classifiers_has_its_place(name: str) -> None:
    with torch.device("meta"):
        theirs = {key: value.shape for key, value in get_model(name, weights=None).state_dict().items()}
        ours = {key: value.shape for key, value in create_backbone(name).state_dict().items()}
    left = {key for key in theirs if key not in ours}
    assert {key: theirs[key] for key in theirs if key not in left} == ours
    assert left
    assert all(key.startswith(("classifier.", "fc.", "head.")) for key in left)


@pytest.mark.parametrize("channels", [2, 3])
@each_name
def test_what_is_the_same_in_all_channels_gives_what_a_grey_clip_gave(name: str, channels: int) -> None:
    """A first layer that sees the mean over colours, its sum over channels kept."""
    with torch.device("meta"):
        backbone = create_backbone(name)
    stem = next(key for key, value in backbone.state_dict().items() if value.ndim == 5)
    weight = torch.randn(backbone.state_dict()[stem].shape)
    before = {stem: weight, "bias": torch.ones(2)}
    after = without_colour(before, in_channels=channels)
    assert after["bias"] is before["bias"]
    assert after[stem].shape == (weight.shape[0], channels, *weight.shape[2:])
    torch.testing.assert_close(after[stem].sum(dim=1), weight.sum(dim=1))
    assert all(torch.equal(after[stem][:, 0], after[stem][:, channel]) for channel in range(channels))
    with torch.device("meta"):
        fits = create_backbone(name, in_channels=channels).state_dict()
    assert fits[stem].shape == after[stem].shape, "it is the layer that sees the clip"


def test_without_network_and_file_one_sentence_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(ViccError) as error:
        load_torchvision_weights("s3d")
    place = tmp_path / "torch" / "hub" / "checkpoints" / "s3d-d76dad2f.pth"
    assert f"Fetch https://download.pytorch.org/models/{place.name} where there is a network" in str(error.value)
    assert str(error.value).endswith(f"and put the file at {place}.")
    assert "no network in tests" in str(error.value)


def test_a_file_with_another_checksum_is_refused_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.hub itself takes whatever has the right name."""
    path = save_weights("s3d", {"features": torch.ones(1)}, tmp_path / "torch", monkeypatch)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ViccError, match="is not the file that torchvision published: its SHA-256 begins with "):
        load_torchvision_weights("s3d")


class Harmful:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def test_a_file_that_could_run_code_runs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_weights("s3d", {"features": Harmful()}, tmp_path / "torch", monkeypatch)
    with pytest.raises(ViccError, match="was refused: it holds something other than tensors"):
        load_torchvision_weights("s3d")
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickle.dumps(Harmful()))  # noqa: S301 - shows that the file would have
    assert (tmp_path / "executed").exists()


def test_a_name_without_weights_is_answered_with_those_there_are() -> None:
    with pytest.raises(ViccError, match=r"torchvision has no weights 's3d-g' .* swin3d_t\. Did you mean s3d\?"):
        load_torchvision_weights("s3d-g")


def test_the_licence_note_is_what_torchvision_says() -> None:
    """As far as its description is installed with it."""
    from importlib.metadata import metadata

    said = " ".join((metadata("torchvision").get_payload() or "").split())  # type: ignore[attr-defined]
    if "Pre-trained Model License" not in said:
        pytest.skip("this torchvision comes without its description")
    assert LICENCE.split('"')[1] in said
