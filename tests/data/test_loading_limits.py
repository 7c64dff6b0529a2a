"""Processes that load need shared memory and open files; too little of either is a sentence, never a hang."""

import errno
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from tests.data.test_dataset import make_dataset
from vicc.data import loader, loading_limits
from vicc.data.loader import ClipLoader, EpochBatches, load_in_order, worker_deaths_named
from vicc.data.loading_limits import prefetched_batches, shared_memory_free
from vicc.data.store import Store
from vicc.errors import ViccError


@pytest.fixture
def store(store_path: Path) -> Iterator[Store]:
    store = Store(store_path)
    yield store
    store.close()


class Numbers(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """An item is its key and a thousand bytes; one key takes its time."""

    def __init__(self, *, slow: int = -1, seconds: float = 0.0) -> None:
        self.slow, self.seconds = slow, seconds

    def __getitem__(self, key: int) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(self.seconds if key == self.slow else 0.0)
        return torch.tensor(key), torch.zeros(1000, dtype=torch.uint8)


def numbers(dataset: Numbers, **options: Any) -> list[int]:
    options = {"workers": 2, "pin_memory": False, "name_of": "item {}".format, **options}
    return [int(key) for key, _ in load_in_order(dataset, range(8), **options)]


@pytest.mark.parametrize(
    ("free", "workers", "prefetched"),
    [(1000, 0, None), (1 << 40, 2, 4), (None, 2, 4), (1300, 3, 4), (700, 3, 2), (400, 3, 1)],
)
def test_workers_load_as_far_ahead_as_shared_memory_allows(
    free: int | None, workers: int, prefetched: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of 100 bytes: those of the workers, and the one that is computed with."""
    monkeypatch.setattr(loading_limits, "shared_memory_free", lambda: free)
    assert prefetched_batches(workers, 100) == prefetched


@pytest.mark.parametrize(("free", "words"), [(399, "3 workers need"), (0, "/dev/shm is")])
def test_too_little_shared_memory_is_refused_with_its_size_and_what_to_do(
    free: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading_limits, "shared_memory_free", lambda: free)
    with pytest.raises(ViccError, match=words) as caught:
        prefetched_batches(3, 100)
    assert "/dev/shm" in str(caught.value)
    assert "--shm-size" in str(caught.value)
    assert "--workers 0" in str(caught.value)


def test_processes_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading_limits, "shared_memory_free", lambda: 1000)
    assert prefetched_batches(2, 100) == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(ViccError, match="2 workers need"):
        prefetched_batches(2, 100)


def test_a_place_that_is_missing_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading_limits, "_SHARED_MEMORY", tmp_path / "missing")
    assert shared_memory_free() in (0, None)


def test_what_a_sample_takes_is_known_before_it_is_loaded(store: Store) -> None:
    for options in ({}, {"small_views": ((2, 16), (1, 8)), "small_streams": ("flow",)}):
        dataset = make_dataset(store, **options)
        sample = dataset[0, 0]
        groups = (sample.clips, *sample.small_clips)
        assert dataset.sample_bytes == sum(views.nbytes for group in groups for views in group.values())


def no_room(tensor: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: Success (0)")


def test_a_batch_that_cannot_be_handed_over_is_an_error_at_once_and_not_a_hang(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another program fills /dev/shm on the way; the workers are forked, so they see the change."""
    loader = ClipLoader(
        make_dataset(store), EpochBatches(18, 4, first_step=0, last_step=4, seed=1), workers=1, start_method="fork"
    )
    monkeypatch.setattr(torch.Tensor, "share_memory_", no_room)
    for load in (lambda: list(loader), lambda: numbers(Numbers())):
        with pytest.raises(ViccError, match=r"in shared memory, and .*--workers 0"):
            load()


def test_without_workers_no_shared_memory_is_needed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A /dev/shm that is missing or read-only."""
    monkeypatch.setattr(torch.Tensor, "share_memory_", no_room)
    monkeypatch.setattr(loading_limits, "shared_memory_free", lambda: 0)
    loader = ClipLoader(make_dataset(store), EpochBatches(18, 4, first_step=0, last_step=4, seed=1), workers=0)
    assert len(list(loader)) == 4
    assert numbers(Numbers(), workers=0, item_bytes=1000) == list(range(8))


def test_too_few_open_files_are_said_before_workers_start(store: Store) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 30, hard))
    try:
        with pytest.raises(ViccError, match=r"may open .* files, which is too few .*ulimit -n"):
            ClipLoader(make_dataset(store), EpochBatches(18, 2, first_step=0, last_step=4, seed=1), workers=4)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        RuntimeError("unable to open shared memory object </torch_1> in read-write mode: Too many open files (24)"),
        RuntimeError("received 0 items of ancillary data"),
    ],
)
def test_too_few_open_files_are_said_when_they_are_used_up_on_the_way(error: Exception) -> None:
    with pytest.raises(ViccError, match="ulimit -n"), worker_deaths_named():
        raise error
    with pytest.raises(FileNotFoundError), worker_deaths_named():
        raise FileNotFoundError(errno.ENOENT, "another error stays what it is")


def test_a_worker_that_gives_nothing_is_a_sentence_and_a_slow_one_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loader, "_SECONDS_BETWEEN_LOOKS", 0.2)
    monkeypatch.setattr(loader, "_LOOKS_BEFORE_HANG", 4)
    assert numbers(Numbers(slow=3, seconds=0.5)) == list(range(8))
    with pytest.raises(ViccError, match=r"have given nothing for .*; next would be item 3\."):
        numbers(Numbers(slow=3, seconds=3.0))
