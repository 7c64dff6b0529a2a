"""Batches are where they should be, the same whatever the number of workers and ranks, and what goes wrong is said."""

import dataclasses
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.data.test_dataset import SMALL, make_dataset
from vicc.batch import Batch
from vicc.data.dataset import ClipDataset
from vicc.data.loader import ClipLoader, EpochBatches, collate
from vicc.data.store import Store
from vicc.errors import ViccError
from vicc.transforms.augmentation import PRESETS
from vicc.transforms.flow_form import FlowForm


@pytest.fixture
def store(store_path: Path) -> Iterator[Store]:
    store = Store(store_path)
    yield store
    store.close()


def loaded(store: Store, *, workers: int, first_step: int = 0, **changes: Any) -> list[Batch]:
    dataset = make_dataset(store, **changes)
    batches = EpochBatches(len(dataset), 4, first_step=first_step, last_step=7, seed=1)
    return list(ClipLoader(dataset, batches, workers=workers))


def equal(first: Batch, second: Batch) -> bool:
    return torch.equal(first.index, second.index) and all(
        torch.equal(clips, second.clips[stream]) for stream, clips in first.clips.items()
    )


def test_batches_are_the_same_with_no_and_with_two_workers(store: Store) -> None:
    alone, helped = loaded(store, workers=0), loaded(store, workers=2)
    assert len(alone) == len(helped) == 7
    assert all(equal(first, second) for first, second in zip(alone, helped, strict=True))


@pytest.mark.parametrize(("workers", "start_method"), [(1, "fork"), (2, "fork"), (2, "spawn")])
def test_batches_are_the_same_with_any_number_of_workers_however_they_start(
    store: Store, workers: int, start_method: Any
) -> None:
    """The store has been read before, so that a fork inherits its open files, and a spawned worker gets it pickled."""
    options: dict[str, Any] = {"streams": ("rgb", "flow", "diff")}
    alone = loaded(store, workers=0, **options)
    dataset = make_dataset(store, **options)
    batches = EpochBatches(len(dataset), 4, first_step=0, last_step=7, seed=1)
    helped = list(ClipLoader(dataset, batches, workers=workers, start_method=start_method))
    assert len(alone) == len(helped) == 7
    assert all(equal(first, second) for first, second in zip(alone, helped, strict=True))


def test_the_samples_of_a_step_are_the_same_on_any_number_of_ranks(store: Store) -> None:
    """Every rank loads with workers of its own; together they load what one process loads."""
    dataset = make_dataset(store)
    alone = list(ClipLoader(dataset, EpochBatches(18, 6, first_step=0, last_step=4, seed=1), workers=0))
    ranks = [
        ClipLoader(
            dataset,
            EpochBatches(18, 2, first_step=0, last_step=4, seed=1, rank=rank, world_size=3),
            workers=rank,
        )
        for rank in range(3)
    ]
    for whole, parts in zip(alone, zip(*ranks, strict=True), strict=True):
        assert torch.equal(whole.index, torch.cat([part.index for part in parts]))
        for stream, clips in whole.clips.items():
            assert torch.equal(clips, torch.cat([part.clips[stream] for part in parts]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_video_that_cannot_be_read_in_a_worker_is_named_in_one_sentence(store: Store, workers: int) -> None:
    wrong = [dataclasses.replace(video, num_frames=500) for video in store.videos]
    dataset = make_dataset(store, videos=[*store.videos[:9], wrong[9], *store.videos[10:]], clip_frames=300)
    batches = EpochBatches(18, 3, first_step=0, last_step=6, seed=0)
    with pytest.raises(ViccError) as caught:
        list(ClipLoader(dataset, batches, workers=workers))
    assert wrong[9].id in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


class _Deadly(ClipDataset):
    def __getitem__(self, key: tuple[int, int]) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_what_slurm_sends_to_all_processes_of_a_job_is_the_main_process_s_to_handle(
    store: Store, monkeypatch: pytest.MonkeyPatch, start_method: Any
) -> None:
    """Its warning, and SIGTERM: a worker that died of them would end the run before its checkpoint."""
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    dataset = make_dataset(store)
    batches = EpochBatches(18, 2, first_step=0, last_step=40, seed=1)
    loading = iter(ClipLoader(dataset, batches, workers=1, start_method=start_method))
    next(loading)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    for number in (signal.SIGUSR1, signal.SIGTERM):
        os.kill(worker.pid, number)
    assert len(list(loading)) == 39


def test_a_worker_that_dies_is_said_in_a_sentence(store: Store) -> None:
    """As the kernel ends a process when memory runs out; torch's own words for it are a traceback."""
    dataset = make_dataset(store)
    dataset.__class__ = _Deadly
    with pytest.raises(ViccError, match=r"has died \(DataLoader worker .*--workers"):
        list(ClipLoader(dataset, EpochBatches(18, 4, first_step=0, last_step=4, seed=1), workers=1))


@pytest.mark.parametrize("first_step", [1, 4, 6])
def test_a_loader_that_starts_later_goes_on_with_the_same_batches(store: Store, first_step: int) -> None:
    """Steps 0 to 3 are the first epoch of 18 videos, so 4 is at the start of an epoch and 6 in its middle."""
    straight, resumed = loaded(store, workers=0), loaded(store, workers=0, first_step=first_step)
    assert len(resumed) == 7 - first_step
    assert all(equal(first, second) for first, second in zip(straight[first_step:], resumed, strict=True))


def test_a_batch_is_laid_out_for_the_model(store: Store) -> None:
    batch = loaded(store, workers=0)[0]
    assert batch.index.shape == (4,)
    for stream, channels in (("rgb", 3), ("flow", 2)):
        clips = batch.clips[stream]  # type: ignore[index]
        assert clips.shape == (4, 2, channels, 6, 24, 24)  # (B, V, C, T, H, W)
        assert clips.dtype == torch.uint8
        assert clips.flatten(0, 1).is_contiguous(memory_format=torch.channels_last_3d)
        assert clips.permute(0, 1, 3, 4, 5, 2).is_contiguous()


def test_collating_keeps_every_sample_in_its_row(store: Store) -> None:
    dataset = make_dataset(store)
    samples = [dataset[0, place] for place in (3, 0, 5)]
    batch = collate(samples)
    assert batch.index.tolist() == [3, 0, 5]
    for row, sample in enumerate(samples):
        for stream, clip in sample.clips.items():
            np.testing.assert_array_equal(batch.clips[stream][row].permute(0, 2, 3, 4, 1).numpy(), clip)


def test_published_batches_with_small_views_are_the_same_with_no_and_with_two_workers(store: Store) -> None:
    options: dict[str, Any] = {"augmentation": PRESETS["published"], "flow_form": FlowForm("128vu", 20, 240), **SMALL}
    alone, helped = (loaded(store, workers=workers, **options) for workers in (0, 2))
    for first, second in zip(alone, helped, strict=True):
        assert equal(first, second)
        for ours, theirs in zip(first.small_clips, second.small_clips, strict=True):
            assert torch.equal(ours["rgb"], theirs["rgb"])
        assert torch.equal(first.label, second.label)  # type: ignore[arg-type]


# --- EpochBatches ----------------------------------------------------------------------------------------------------

worlds = st.integers(1, 4)
batch_sizes = st.integers(1, 5)


@st.composite
def samplers(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """Options of a sampler with at least one step an epoch, and the number of ranks."""
    world, batch_size = draw(worlds), draw(batch_sizes)
    num_videos = draw(st.integers(world * batch_size, 60))
    return {"num_videos": num_videos, "batch_size": batch_size, "seed": draw(st.integers(0, 99))}, world


def keys(options: dict[str, Any], first: int, last: int, rank: int = 0, world: int = 1) -> list[list[tuple[int, int]]]:
    return list(EpochBatches(**options, first_step=first, last_step=last, rank=rank, world_size=world))


@given(samplers())
def test_an_epoch_has_no_video_twice_and_leaves_out_less_than_a_global_batch(drawn: tuple[dict[str, Any], int]) -> None:
    options, world = drawn
    steps = EpochBatches(**options, first_step=0, last_step=1, world_size=world).steps_per_epoch
    for epoch in range(3):
        seen = [
            key
            for rank in range(world)
            for batch in keys(options, epoch * steps, (epoch + 1) * steps, rank, world)
            for key in batch
        ]
        assert {number for number, _ in seen} == {epoch}
        places = [place for _, place in seen]
        assert len(set(places)) == len(places)
        assert set(places) <= set(range(options["num_videos"]))
        assert options["num_videos"] - len(places) < options["batch_size"] * world


@given(samplers(), st.integers(0, 20))
def test_ranks_make_equally_many_full_batches_and_share_no_video(drawn: tuple[dict[str, Any], int], step: int) -> None:
    options, world = drawn
    batches = [keys(options, step, step + 3, rank, world) for rank in range(world)]
    for at_once in zip(*batches, strict=True):
        assert all(len(batch) == options["batch_size"] for batch in at_once)
        together = [key for batch in at_once for key in batch]
        assert len(set(together)) == len(together)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(12, 50), st.integers(0, 99))
def test_the_global_batches_do_not_depend_on_the_number_of_ranks(half: int, world: int, num: int, seed: int) -> None:
    """One rank with batches of n makes the steps that `world` ranks make with batches of n / world."""
    total = half * world
    if total > num:
        return
    alone = keys({"num_videos": num, "batch_size": total, "seed": seed}, 0, 6)
    options = {"num_videos": num, "batch_size": half, "seed": seed}
    shared = [keys(options, 0, 6, rank, world) for rank in range(world)]
    assert alone == [[key for batch in step for key in batch] for step in zip(*shared, strict=True)]


@given(samplers(), st.integers(0, 25), st.integers(0, 25))
def test_a_resume_at_any_step_goes_on_with_the_same_sequence(
    drawn: tuple[dict[str, Any], int], first: int, more: int
) -> None:
    options, world = drawn
    straight = keys(options, 0, first + more, world - 1, world)
    assert keys(options, first, first + more, world - 1, world) == straight[first:]
    assert len(EpochBatches(**options, first_step=first, last_step=first + more)) == more


def test_every_epoch_and_every_seed_has_its_own_order() -> None:
    orders = [
        tuple(place for batch in keys({"num_videos": 20, "batch_size": 5, "seed": seed}, 4 * epoch, 4 * epoch + 4)
              for _, place in batch)
        for seed in range(3) for epoch in range(3)
    ]  # fmt: skip
    assert len(set(orders)) == 9


def test_every_video_gets_its_turn_over_the_epochs() -> None:
    seen = {place for batch in keys({"num_videos": 7, "batch_size": 3, "seed": 0}, 0, 40) for _, place in batch}
    assert seen == set(range(7))
