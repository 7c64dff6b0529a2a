"""Beside a finished stage's encoder: its prototypes and the mean of its features, which cost nothing that matters."""

import random
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import vicc
from vicc.data.records import Video
from vicc.data.store import Store
from vicc.device import choose_precision
from vicc.errors import ViccError
from vicc.methods.encoder import Encoder, EncoderConfig
from vicc.methods.features import Windows, extract_features
from vicc.methods.infonce import InfoNCE
from vicc.methods.single_stream import SingleStream
from vicc.training import beside_encoder
from vicc.training.beside_encoder import (
    load_feature_mean,
    load_prototypes,
    measure_feature_mean,
    save_stage_result,
)
from vicc.training.checkpoint import CheckpointFolder, load_encoder, save_encoder
from vicc.training.configs import PretrainConfig
from vicc.training.pretrain import pretrain
from vicc.training.stage import Recipe

CPU = choose_precision("fp32", torch.device("cpu"))


def encoder(seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(EncoderConfig("rgb", backbone="s3d-demo", embedding_dim=8, clip_frames=8, size=32))


def save(folder: Path, task: SingleStream | InfoNCE, store_path: Path, videos: list[Video] | None = None) -> Path:
    store = Store(store_path)
    save_stage_result(folder, task, store, videos or store.videos[:3], CPU, workers=0, description="test")
    return folder


@pytest.fixture(scope="module")
def run(tiny_recipe: Recipe, store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose stages are finished."""
    folder = tmp_path_factory.mktemp("run")
    pretrain(tiny_recipe, PretrainConfig(store=store_path, run=folder))
    return folder


@pytest.mark.parametrize("stage", ["rgb-1", "flow-1", "rgb-2", "flow-2"])
def test_a_finished_stage_has_the_prototypes_of_its_last_step(run: Path, stage: str) -> None:
    state = CheckpointFolder(run / stage).load_newest()
    assert state is not None
    [weight] = load_prototypes(run / stage)
    assert torch.equal(weight, state["model"]["prototypes.0.weight"])


@pytest.mark.parametrize("stage", ["rgb-1", "flow-2"])
def test_the_mean_is_that_of_the_training_videos_features(run: Path, store_path: Path, stage: str) -> None:
    store = Store(store_path)
    videos = [video for video in store.videos if video.split == "train"]
    found = load_feature_mean(str(run / stage / "encoder"))
    assert (found.videos, found.training_videos, found.windows) == (12, 12, Windows(one=True))
    features = extract_features(load_encoder(run / stage), store, videos, windows=Windows(one=True))
    assert torch.allclose(found.mean, features.mean(0), atol=1e-6)
    assert features.std(0).max() > 1e-4, "or any video would do"


def test_all_heads_are_kept_in_their_order(store_path: Path, tmp_path: Path) -> None:
    sizes = tuple(range(3, 14))  # more than ten: "10" sorts before "2"
    task = SingleStream(encoder(), num_prototypes=sizes)
    heads = load_prototypes(save(tmp_path, task, store_path))
    assert [tuple(head.shape) for head in heads] == [(size, 8) for size in sizes]
    assert all(torch.equal(head, ours.weight) for head, ours in zip(heads, task.prototypes, strict=True))


def test_one_head_is_written_as_import_writes_it(store_path: Path, tmp_path: Path) -> None:
    task = SingleStream(encoder(), num_prototypes=5)
    written = safetensors.torch.load_file(save(tmp_path, task, store_path) / "prototypes.safetensors")
    assert list(written) == ["weight"]


def test_a_method_without_prototypes_has_a_mean_alone(store_path: Path, tmp_path: Path) -> None:
    folder = save(tmp_path, InfoNCE(encoder(), queue_length=12), store_path)
    assert load_feature_mean(folder).mean.shape == (encoder().num_features,)
    with pytest.raises(ViccError, match=r"No prototypes beside the encoder .*: it has no prototypes.safetensors"):
        load_prototypes(folder)


def test_of_many_videos_some_are_looked_at_from_all_over_the_list(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, seen = Store(store_path), list[str]()
    frames = Store.frames

    def watched(self: Store, video_id: str, stream: object, numbers: object) -> np.ndarray:
        seen.append(video_id)
        return frames(self, video_id, stream, numbers)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "frames", watched)
    monkeypatch.setattr(beside_encoder, "MAX_VIDEOS", 4)
    found = measure_feature_mean(encoder(), store, store.videos, CPU)
    assert (found.videos, found.training_videos) == (4, 18)
    assert seen == [store.videos[place].id for place in (0, 4, 9, 13)]


def test_nothing_that_training_goes_on_with_is_changed(store_path: Path, tmp_path: Path) -> None:
    task = SingleStream(encoder(), num_prototypes=5).train()
    weights = {name: value.clone() for name, value in task.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    save(tmp_path, task, store_path)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    assert all(torch.equal(value, weights[name]) for name, value in task.state_dict().items())
    assert all(module.training for module in task.modules())
    assert all(weight.requires_grad for weight in task.parameters())


@pytest.mark.parametrize("killed_in", ["extract_features", "save_encoder"])
def test_a_stage_that_was_killed_before_its_encoder_was_there_is_finished_by_the_same_call(
    killed_in: str, tiny_recipe: Recipe, store_path: Path, tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PretrainConfig(store=store_path, run=tmp_path, stages=["rgb-1"])

    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(beside_encoder, killed_in, killed)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tiny_recipe, config)
    assert not (tmp_path / "rgb-1" / "encoder" / "config.json").exists()
    steps = (tmp_path / "rgb-1" / "log.jsonl").read_bytes()
    assert pretrain(tiny_recipe, config)[0].finished
    assert (tmp_path / "rgb-1" / "log.jsonl").read_bytes() == steps, "no step was done again"
    for name in ("model.safetensors", "prototypes.safetensors", "mean.safetensors", "config.json"):
        one, other = (folder / "rgb-1" / "encoder" / name for folder in (tmp_path, run))
        assert one.read_bytes() == other.read_bytes(), name


def test_what_is_missing_or_damaged_is_said(tmp_path: Path) -> None:
    with pytest.raises(ViccError, match=r"No encoder at .*: there is no such folder"):
        vicc.load_prototypes(tmp_path / "nothing")
    save_encoder(tmp_path, encoder())
    with pytest.raises(ViccError, match=r"No feature mean beside the encoder .*: it has no mean.safetensors"):
        vicc.load_feature_mean(tmp_path)
    for name in ("prototypes.safetensors", "mean.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ViccError, match=r"The prototypes .* cannot be read"):
        vicc.load_prototypes(tmp_path)
    with pytest.raises(ViccError, match=r"The feature mean .* cannot be read"):
        vicc.load_feature_mean(tmp_path)
    for name in ("prototypes.safetensors", "mean.safetensors"):
        safetensors.torch.save_file({"other": torch.zeros(2, 2)}, tmp_path / name)
    with pytest.raises(ViccError, match="are damaged: they hold other"):
        vicc.load_prototypes(tmp_path)
    with pytest.raises(ViccError, match=r"cannot be read .*vicc_feature_mean"):
        vicc.load_feature_mean(tmp_path)
