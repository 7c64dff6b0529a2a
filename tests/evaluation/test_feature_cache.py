"""Kept features: what is the same is not computed again, what changed is, and nothing broken is believed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vicc.data.records import FileState, Video
from vicc.data.store import Store
from vicc.evaluation import feature_cache
from vicc.evaluation.feature_cache import Describe, FeatureCache
from vicc.progress import Advance


@pytest.fixture
def videos(store_path: Path) -> list[Video]:
    return Store(store_path).videos[:6]


@pytest.fixture
def asked() -> list[str]:
    """The videos that were computed."""
    return []


@pytest.fixture
def describe(asked: list[str]) -> Describe:
    def compute(videos: list[Video], advance: Advance) -> torch.Tensor:
        asked.extend(video.id for video in videos)
        advance(len(videos))
        return torch.tensor([[float(len(video.id)), float(video.num_frames)] for video in videos])

    return compute


Get = Callable[..., torch.Tensor]


@pytest.fixture
def get(store_path: Path, tmp_path: Path, describe: Describe) -> Get:
    def features(videos: list[Video], key: str = "a", folder: Path | None = tmp_path) -> torch.Tensor:
        return FeatureCache(folder, Store(store_path)).features({"key": key}, videos, describe, description="test")

    return features


def test_what_is_kept_is_not_computed_again_in_any_order(get: Get, videos: list[Video], asked: list[str]) -> None:
    first = get(videos[:4])
    assert len(asked) == 4
    again = get(videos[::-1])
    assert asked[4:] == [videos[5].id, videos[4].id]
    assert torch.equal(again[2:], first.flip(0))
    get(videos[2:3])
    assert len(asked) == 6


def test_a_video_of_the_same_name_with_another_content_is_computed(
    get: Get, videos: list[Video], asked: list[str]
) -> None:
    get(videos)
    other = [
        replace(videos[0], source=FileState(1, 2, "other")),
        replace(videos[1], num_frames=videos[1].num_frames + 1),
        *videos[2:],
    ]
    found = get(other)
    assert asked[6:] == [videos[0].id, videos[1].id]
    assert found[1, 1] == videos[1].num_frames + 1


def test_another_key_or_another_store_has_a_file_of_its_own(
    get: Get, videos: list[Video], asked: list[str], store_path: Path, tmp_path: Path
) -> None:
    get(videos)
    get(videos, key="b")
    assert len(asked) == 12
    store = Store(store_path)
    plain = FeatureCache(tmp_path, store).path({"key": "a"})
    store.settings = replace(store.settings, quality=store.settings.quality + 1)  # type: ignore[misc]
    assert FeatureCache(tmp_path, store).path({"key": "a"}) != plain


@pytest.mark.parametrize("damage", [b"", b"\xff" * 100, None])
def test_a_damaged_file_is_computed_again(
    damage: bytes | None, get: Get, videos: list[Video], asked: list[str], tmp_path: Path
) -> None:
    expected = get(videos)
    [path] = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-3] if damage is None else damage)
    assert torch.equal(get(videos), expected)
    assert len(asked) == 12
    get(videos)
    assert len(asked) == 12, "the file is whole again"


def test_a_stop_keeps_what_was_done(
    get: Get,
    videos: list[Video],
    asked: list[str],
    describe: Describe,
    store_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feature_cache, "_FRAMES_A_WRITE", 2 * videos[0].num_frames)

    def stopped(some: list[Video], advance: Advance) -> torch.Tensor:
        if len(asked) >= 4:
            raise KeyboardInterrupt
        return describe(some, advance)

    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path, Store(store_path)).features({"key": "a"}, videos, stopped, description="test")
    get(videos)
    assert asked == [video.id for video in videos]


def test_without_a_folder_nothing_is_kept(get: Get, videos: list[Video], asked: list[str], tmp_path: Path) -> None:
    get(videos, folder=None)
    get(videos, folder=None)
    assert len(asked) == 12
    assert not list(tmp_path.iterdir())
