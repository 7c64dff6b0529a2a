import numpy as np
import pytest
import torch

from vicc.data.dataset import ClipDataset
from vicc.data.store import Store
from vicc.device import Precision
from vicc.recipes import create_recipe
from vicc.training.build import build_dataset, build_task
from vicc.training.stage import Recipe
from vicc.training.watch.online import MAX_VIDEOS, OnlineEvaluation, evaluation_period

CPU = Precision("fp32", torch.device("cpu"))


@pytest.fixture
def made(tiny_recipe: Recipe, store_path, tmp_path):  # type: ignore[no-untyped-def]
    """An encoder that has seen a few clips, and the training clips of its stage."""
    store = Store(store_path)
    stage = tiny_recipe.stages[0]
    task = build_task(stage, tmp_path, store).train()
    dataset = build_dataset(stage, task, store, store.videos, seed=1)
    return task.encoder, dataset


def test_it_leaves_everything_as_it_was(made) -> None:  # type: ignore[no-untyped-def]
    encoder, dataset = made
    encoder.projection_head.eval()  # a mode of its own
    modes = [module.training for module in encoder.modules()]
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    torch_rng, numpy_rng = torch.get_rng_state(), np.random.get_state()[1].copy()
    about = (dataset.streams, dataset.small_views, dataset.seed)
    OnlineEvaluation(encoder, dataset, CPU)()
    assert [module.training for module in encoder.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    assert torch.equal(torch.get_rng_state(), torch_rng)
    assert np.array_equal(np.random.get_state()[1], numpy_rng)
    assert (dataset.streams, dataset.small_views, dataset.seed) == about


def test_it_finds_the_same_every_time(made) -> None:  # type: ignore[no-untyped-def]
    encoder, dataset = made
    first = OnlineEvaluation(encoder, dataset, CPU)()
    assert OnlineEvaluation(encoder, dataset, CPU)() == first
    assert first.keys() == {"instance_recall", "label_recall"}
    assert all(0 <= share <= 1 for share in first.values())


def test_an_encoder_that_knows_the_videos_finds_them_and_one_that_knows_nothing_does_not(made, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """With features that are given: each video's own axis; the same for all of a label; the same for all."""
    encoder, dataset = made
    evaluation = OnlineEvaluation(encoder, dataset, CPU)
    count = len(dataset)

    def features(table: torch.Tensor) -> torch.Tensor:
        return table[:, None].expand(-1, 2, -1).contiguous()

    monkeypatch.setattr(evaluation, "_features", lambda: features(torch.eye(count)))
    assert evaluation()["instance_recall"] == 1
    labels = torch.eye(len(set(dataset.labels)))[torch.tensor(dataset.labels)]
    monkeypatch.setattr(evaluation, "_features", lambda: features(labels))
    assert evaluation()["label_recall"] == 1
    assert evaluation()["instance_recall"] < 0.5
    monkeypatch.setattr(evaluation, "_features", lambda: features(torch.ones(count, 3)))
    assert evaluation()["instance_recall"] <= 2 / count


def test_without_labels_only_the_own_video_is_looked_for(  # type: ignore[no-untyped-def]
    tiny_recipe: Recipe, unlabelled_store_path, tmp_path
) -> None:
    store = Store(unlabelled_store_path)
    stage = tiny_recipe.stages[1]
    task = build_task(stage, tmp_path, store)
    found = OnlineEvaluation(task.encoder, build_dataset(stage, task, store, store.videos, seed=1), CPU)()
    assert found.keys() == {"instance_recall"}


def test_its_clips_are_others_than_those_that_are_trained_on(made, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    encoder, dataset = made
    seen: list[int] = []
    usual = ClipDataset.__getitem__

    def watched(self: ClipDataset, key: tuple[int, int]):  # type: ignore[no-untyped-def]
        seen.append(self.seed)
        return usual(self, key)

    monkeypatch.setattr(ClipDataset, "__getitem__", watched)
    OnlineEvaluation(encoder, dataset, CPU)()
    assert len(seen) == len(dataset)
    assert dataset.seed not in seen


@pytest.mark.parametrize("videos", [2, 30, 300, 2400, 9537, 240_000])
def test_by_default_a_twelfth_of_what_is_trained_on_is_looked_at(videos: int) -> None:
    period = evaluation_period(videos)
    looked_at = min(MAX_VIDEOS, videos)
    assert looked_at <= period * videos / 12
    assert period == 1 or looked_at > (period - 1) * videos / 12


def test_the_demo_is_evaluated_seldom_and_ucf101_every_epoch() -> None:
    assert evaluation_period(300) == 8
    assert evaluation_period(9537) == 1
    assert create_recipe("demo").stages[0].length.steps == 150
