"""The cache of remote stores: what is removed when it is full, and what never is."""

import os
from pathlib import Path

import pytest

from tests.data.test_store import write_store
from vicc.data import cache
from vicc.data.cache import cache_bound, cache_folder, hold, make_room
from vicc.data.maintenance import copy_store
from vicc.data.store import Store
from vicc.errors import ViccError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VICC_CACHE", str(tmp_path / "cache"))


def shard(store: str, name: str, *, used: int, size: int = 1000) -> Path:
    """A shard in the cache, used last so many seconds after the beginning."""
    path = cache_folder() / "shards" / store / f"{name}.lmdb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, ns=(0, used * 10**9))
    return path


def cached() -> list[str]:
    return sorted(path.stem for path in cache_folder().rglob("*.lmdb"))


def test_the_longest_unused_shards_are_removed_and_no_more_than_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for used, (store, name) in enumerate([("a", "1"), ("b", "2"), ("a", "3"), ("b", "4")], start=1):
        shard(store, name, used=used)
    monkeypatch.setenv("VICC_CACHE_GB", "0.000004")
    make_room(0)
    assert cached() == ["1", "2", "3", "4"]
    assert capsys.readouterr().err == ""
    make_room(1001)
    assert cached() == ["3", "4"]
    assert "removed 2 shards" in capsys.readouterr().err


def test_no_shard_of_a_store_that_a_process_reads_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    read = shard("a", "read", used=1)
    shard("b", "other", used=2)
    hold(read.parent)
    monkeypatch.setenv("VICC_CACHE_GB", "0")
    make_room(10)
    assert cached() == ["read"]
    os.close(cache._held.pop((os.getpid(), read.parent)))
    make_room(10)
    assert cached() == []


def test_stores_that_are_being_prepared_are_never_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    staged = cache_folder() / "staging" / "mine" / "shard-00000.lmdb"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(bytes(1000))
    monkeypatch.setenv("VICC_CACHE_GB", "0")
    make_room(10)
    assert staged.exists()


def test_a_store_that_is_read_again_counts_as_used_and_what_was_removed_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = (tmp_path / "remote").as_uri()
    copy_store(write_store(tmp_path / "store", {"a.mp4": 8}), url)
    Store(url).frames("a.mp4", "rgb", [0])
    (path,) = (cache_folder() / "shards").rglob("*.lmdb")
    shard("other", "younger", used=2)
    for when, kept in ((1, ["younger"]), (3, [path.stem])):
        os.utime(path, ns=(0, when * 10**9))
        if when == 3:
            cache._marked.clear()  # as in another process
            Store(url).frames("a.mp4", "rgb", [0])
        os.close(cache._held.pop((os.getpid(), path.parent)))
        monkeypatch.setenv("VICC_CACHE_GB", str(path.stat().st_size / 1e9))
        make_room(0)
        assert cached() == kept
        monkeypatch.delenv("VICC_CACHE_GB")
        if when == 1:
            Store(url).frames("a.mp4", "rgb", [0])


def test_by_default_a_fifth_of_the_room_stays_free(tmp_path: Path) -> None:
    cache_folder().mkdir()
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    assert cache_bound(10**9) == pytest.approx(0.8 * (free + 10**9), rel=0.05)


@pytest.mark.parametrize("given", ["plenty", "-1", "nan"])
def test_a_bound_that_is_no_number_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VICC_CACHE_GB", given)
    with pytest.raises(ViccError, match=f"VICC_CACHE_GB is '{given}'; expected the gigabytes"):
        make_room(1)


def test_a_shard_that_another_process_removes_meanwhile_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    shard("a", "old", used=1)
    (cache_folder() / "shards" / "a" / "gone.lmdb").symlink_to("nowhere")  # listed, and then not there
    monkeypatch.setenv("VICC_CACHE_GB", "0")
    make_room(0)
    assert cached() == ["gone"]


@pytest.mark.parametrize("may_read", [True, False])
def test_the_cache_of_another_user_is_read(may_read: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be written there; where the sign of use can be opened, the shards are kept all the same."""
    folder = shard("a", "read", used=1).parent
    (folder / ".used").touch()
    opened = os.open

    def refuse(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY) or not may_read:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, mode)

    monkeypatch.setattr(cache.os, "open", refuse)
    hold(folder)
    assert ((os.getpid(), folder) in cache._held) is may_read
