"""Kept features: what is the same is not computed again, what changed is, and nothing broken is believed."""

import itertools
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vicc.data.records import FileState, Video
from vicc.data.store import Store
from vicc.errors import ViccError
from vicc.evaluation import feature_cache, feature_rows
from vicc.evaluation.feature_cache import Describe, FeatureCache
from vicc.evaluation.feature_rows import FeatureRows
from vicc.evaluation.video_values import VideoValues, read_video_values, write_video_values
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


@pytest.mark.parametrize("name", ["rows.f32", "videos.jsonl", "state.json"])
@pytest.mark.parametrize("damage", [b"", b"\xff" * 3, None])
def test_a_damaged_file_is_computed_again(
    name: str, damage: bytes | None, get: Get, videos: list[Video], asked: list[str], tmp_path: Path
) -> None:
    expected = get(videos).clone()
    [path] = tmp_path.glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[:-3] if damage is None else damage)
    assert torch.equal(get(videos), expected)
    assert len(asked) == 12
    get(videos)
    assert len(asked) == 12, "the files are whole again"


@pytest.mark.parametrize("line", ["5", "null", "[1, 2]", '["a"]', '{"a": 1}'])
def test_a_list_of_videos_that_is_json_of_something_else_is_computed_again(
    line: str, get: Get, videos: list[Video], asked: list[str], tmp_path: Path
) -> None:
    expected = get(videos).clone()
    [path] = tmp_path.glob("*/videos.jsonl")
    path.write_text(f"{line}\n" + path.read_text())
    assert torch.equal(get(videos), expected)
    assert len(asked) == 12


@pytest.mark.parametrize("name", ["rows", "width", "video_bytes"])
@pytest.mark.parametrize("value", [-1, 0, 2.5, "6", None, True])
def test_a_state_with_no_number_where_one_belongs_is_not_used(name: str, value: object, tmp_path: Path) -> None:
    FeatureRows(tmp_path).append([("a", "1"), ("b", "1")], torch.ones(2, 3), {})
    state = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps(state | {name: value}))
    with pytest.raises(ViccError, match="cannot be used"):
        FeatureRows(tmp_path).find([("a", "1")])


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


def test_rows_in_the_order_of_the_file_are_mapped_and_writing_to_them_leaves_the_file(
    get: Get, videos: list[Video], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "_ALIGNMENT_BYTES", 1)  # rows of two values are not aligned
    first = get(videos)
    expected = first.clone()
    assert torch.equal(get(videos[2:5]), expected[2:5])
    first.zero_()
    assert torch.equal(get(videos), expected)
    [path] = tmp_path.glob("*/rows.f32")
    assert np.fromfile(path, "<f4").tolist() == expected.flatten().tolist()


def test_more_rows_than_memory_are_mapped_as_well(tmp_path: Path) -> None:
    """Linux refuses a private mapping that is larger than memory and swap together."""
    kept = FeatureRows(tmp_path)
    kept.append([("a", "1")], torch.ones(1, 1 << 20), {})
    rows = 1 << 18  # 1 TiB, nearly all of it a hole in the file
    state = tmp_path / "state.json"
    os.truncate(tmp_path / "rows.f32", rows << 22)
    state.write_text(state.read_text().replace('"rows": 1,', f'"rows": {rows},'))
    mapped = kept.rows()
    assert mapped.shape == (rows, 1 << 20)
    assert mapped[0].sum() == 1 << 20


def test_each_row_is_written_once(
    get: Get, videos: list[Video], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "_FRAMES_A_WRITE", 1)
    written: dict[str, list[tuple[int, int]]] = {"rows.f32": [], "videos.jsonl": []}
    write_at = feature_rows._write_at

    def noted(path: Path, offset: int, data: memoryview) -> None:
        written[path.name].append((offset, len(data)))
        write_at(path, offset, data)

    monkeypatch.setattr(feature_rows, "_write_at", noted)
    get(videos)
    for parts in written.values():
        assert len(parts) == len(videos)
        assert [offset for offset, _ in parts] == [0, *itertools.accumulate(size for _, size in parts)][:-1]


def killed_at(moment: int, torn: bool, work: Callable[[], object]) -> bool:
    """Do some work in a process of its own that kills itself at its n-th step towards the disk; whether it did.

    Args:
        torn: half of what it then writes has got to the file.
    """

    def child() -> None:
        steps = itertools.count()
        fsync, replace_file, write_at = os.fsync, os.replace, feature_rows._write_at

        def die_in_time() -> None:
            if next(steps) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        def watched_write(path: Path, offset: int, data: memoryview) -> None:
            if torn and next(steps) == moment:
                with path.open("r+b" if path.exists() else "w+b") as file:
                    file.truncate(offset)
                    file.seek(offset)
                    file.write(bytes(data)[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            write_at(path, offset, data)

        def watched_sync(descriptor: int) -> None:
            die_in_time()
            fsync(descriptor)

        def watched_replace(source: str, target: Path) -> None:
            die_in_time()
            replace_file(source, target)
            die_in_time()

        os.fsync, os.replace, feature_rows._write_at = watched_sync, watched_replace, watched_write  # type: ignore[assignment]
        work()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.parametrize("torn", [False, True])
def test_a_kill_at_any_moment_loses_no_part_that_was_finished(
    torn: bool,
    videos: list[Video],
    describe: Describe,
    asked: list[str],
    store_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feature_cache, "_FRAMES_A_WRITE", 2 * videos[0].num_frames)  # three parts
    store = Store(store_path)
    expected = FeatureCache(None, store).features({"key": "a"}, videos, describe, description="test")
    left = []
    for moment in itertools.count():
        cache = FeatureCache(tmp_path / str(moment), store)

        def work(cache: FeatureCache = cache) -> None:
            cache.features({"key": "a"}, videos, describe, description="test")

        killed = killed_at(moment, torn, work)
        asked.clear()
        assert torch.equal(cache.features({"key": "a"}, videos, describe, description="test"), expected)
        assert asked == [video.id for video in videos][len(videos) - len(asked) :], "what is missing, once each"
        left.append(len(asked))
        assert torch.equal(cache.features({"key": "a"}, videos, describe, description="test"), expected)
        assert left[-1] == len(asked), "then nothing is missing"
        if not killed:
            break
    assert left == sorted(left, reverse=True)
    assert set(left) == {6, 4, 2, 0}, "a part is there whole or not at all"


def test_two_processes_that_add_at_the_same_time_and_one_that_reads(
    videos: list[Video],
    describe: Describe,
    asked: list[str],
    store_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feature_cache, "_FRAMES_A_WRITE", 1)
    cache = FeatureCache(tmp_path, Store(store_path))
    expected = FeatureCache(None, Store(store_path)).features({"key": "a"}, videos, describe, description="test")
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(3)

    def features(order: int) -> None:
        barrier.wait(60)
        found = cache.features({"key": "a"}, videos[::order], describe, description="test")
        assert torch.equal(found, expected[::order] if order > 0 else expected.flip(0))

    processes = [fork.Process(target=features, args=(order,)) for order in (1, -1)]
    for process in processes:
        process.start()
    barrier.wait(60)
    path = cache.path({"key": "a"})
    assert path is not None
    while any(process.is_alive() for process in processes):
        if (path / "state.json").exists():
            table = read_video_values(path)
            by_id = dict(zip([video.id for video in videos], expected, strict=True))
            assert all(torch.equal(row, by_id[name]) for name, row in zip(table.ids, table.values, strict=False))
    assert [process.exitcode for process in processes] == [0, 0]
    asked.clear()
    assert torch.equal(cache.features({"key": "a"}, videos, describe, description="test"), expected)
    assert not asked


def test_rows_that_are_deleted_while_they_are_used_are_never_taken_for_others(
    tmp_path: Path,
) -> None:
    kept = FeatureRows(tmp_path)
    kept.append([("a", "1")], torch.zeros(1, 2), {})
    for name in ("state.json", "rows.f32", "videos.jsonl"):
        (tmp_path / name).unlink()
    FeatureRows(tmp_path).append([("b", "1")], torch.ones(1, 2), {})
    with pytest.raises(ViccError, match="deleted while they were used"):
        kept.append([("c", "1")], torch.zeros(1, 2), {})
    with pytest.raises(ViccError, match="deleted while they were used"):
        kept.rows()


def test_a_file_of_an_earlier_version_is_taken_over(
    get: Get, videos: list[Video], asked: list[str], store_path: Path, tmp_path: Path
) -> None:
    """One safetensors file for each key, ids and contents in its header."""
    contents = dict(feature_cache._content(video) for video in videos[:4]) | {videos[1].id: "another"}
    path = FeatureCache(tmp_path, Store(store_path)).path({"key": "a"})
    assert path is not None
    rows = torch.randn(4, 2)
    earlier = path.with_suffix(".safetensors")
    write_video_values(earlier, VideoValues(list(contents), rows, {"key": {}, "contents": list(contents.values())}))
    found = get(videos)
    assert asked == [videos[1].id, videos[4].id, videos[5].id], "those of another content are not believed"
    assert torch.equal(found[[0, 2, 3]], rows[[0, 2, 3]])
    assert torch.equal(read_video_values(earlier).values, rows), "results of that version name it"
    earlier.unlink()
    assert torch.equal(get(videos), found)
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "features/x"), "features/x cannot be written (Permission denied)"),
        (OSError(28, "No space left on device"), "cannot be written (No space left on device)"),
    ],
)
def test_where_nothing_can_be_added_what_is_there_is_used_all_the_same(
    error: OSError,
    said: str,
    get: Get,
    videos: list[Video],
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = get(videos).clone()
    other = [*videos[:2], replace(videos[2], source=FileState(1, 2, "other")), *videos[3:]]

    def refuse(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(feature_rows, "_write_at", refuse)
    found = get(other)
    assert asked[6:] == [videos[2].id]
    assert torch.equal(found, expected)
    told = capsys.readouterr().err
    assert "features are not kept: " in told
    assert said in told


def test_rows_of_another_width_are_refused(tmp_path: Path) -> None:
    kept = FeatureRows(tmp_path)
    kept.append([("a", "1")], torch.zeros(1, 2), {})
    with pytest.raises(ViccError, match="its rows have 2 values, those to be added 3"):
        kept.append([("b", "1")], torch.zeros(1, 3), {})


def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    kept = FeatureRows(tmp_path)
    names = ["a\nb", "\udcff.mp4", "é"]
    kept.append([(name, "1") for name in names], torch.zeros(3, 2), {})
    assert kept.ids() == names
    assert kept.find([(name, "1") for name in names]).tolist() == [0, 1, 2]


def test_of_two_processes_the_first_alone_reads_and_writes_and_both_get_all_rows(
    videos: list[Video],
    describe: Describe,
    asked: list[str],
    store_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feature_cache, "_ROWS_AN_EXCHANGE", 4)
    store = Store(store_path)
    expected = FeatureCache(None, store).features({"key": "a"}, videos, describe, description="test")
    FeatureCache(tmp_path / "0", store).features({"key": "a"}, videos[:3], describe, description="test")

    def process(rank: int) -> None:
        torch.distributed.init_process_group("gloo", f"file://{tmp_path}/meeting", rank=rank, world_size=2)
        asked.clear()
        cache = FeatureCache(tmp_path / str(rank), store)  # the second one's machine need not have the first one's disk
        found = cache.features({"key": "a"}, videos[::-1], describe, description="test")
        assert torch.equal(found, expected.flip(0))
        assert asked == [video.id for video in videos[:2:-1]]
        torch.distributed.destroy_process_group()

    processes = [multiprocessing.get_context("fork").Process(target=process, args=(rank,)) for rank in range(2)]
    for one in processes:
        one.start()
    for one in processes:
        one.join(60)
    assert [one.exitcode for one in processes] == [0, 0]
    assert not (tmp_path / "1").exists()
