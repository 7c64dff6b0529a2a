"""The store: what goes in comes out, a video is there as a whole or not at all, and damage has a name."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import moving_frames
from vicc.data.frame_pack import FrameEncoder, StoredStream
from vicc.data.manifest import read_manifest
from vicc.data.records import FileState, Record, SetAside, StoreSettings, Video
from vicc.data.store import Store, StoreWriter
from vicc.errors import ViccError

SETTINGS = StoreSettings(short_side=40, quality=95)


def rgb_frames(seed: int, num_frames: int = 5) -> np.ndarray:
    return moving_frames(num_frames, (40, 48), seed=seed)


def flow_frames(seed: int, num_frames: int = 4) -> np.ndarray:
    """Smooth stored flow whose u and v have nothing in common."""
    texture = moving_frames(num_frames, (40, 48), seed=seed + 1000, velocity=(1, 1))
    return np.ascontiguousarray(texture[..., :2])


def pack(stream: StoredStream, frames: Iterable[np.ndarray]) -> bytes:
    encoder = FrameEncoder(stream, codec="jpeg", quality=95)
    for frame in frames:
        encoder.add(frame)
    return encoder.to_bytes()


def packed(seed: int, num_frames: int = 5) -> dict[StoredStream, bytes]:
    return {"rgb": pack("rgb", rgb_frames(seed, num_frames)), "flow": pack("flow", flow_frames(seed, num_frames - 1))}


def video(name: str, *, num_frames: int = 5, source: FileState | None = None) -> Video:
    return Video(
        name, num_frames, 40, 48, 25.0, source or FileState(1, 1, "x"), label="run", group="tape", split="train"
    )


def write_store(path: Path, names: dict[str, int], *, shard_bytes: int | None = None) -> Path:
    """A store of videos by name and seed."""
    options = {} if shard_bytes is None else {"shard_bytes": shard_bytes}
    writer = StoreWriter(path, SETTINGS, **options)
    for name, seed in names.items():
        writer.add(video(name), packed(seed))
    writer.close()
    return path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(write_store(tmp_path / "store", {"a.mp4": 1, "b/ü.mp4": 2}))
    yield store
    store.close()


def test_what_goes_in_comes_out_within_the_error_of_jpeg(store: Store) -> None:
    rgb, flow = (store.frames("a.mp4", stream, range(4)) for stream in ("rgb", "flow"))
    assert (rgb.shape, rgb.dtype) == ((4, 40, 48, 3), np.uint8)
    assert (flow.shape, flow.dtype) == ((4, 40, 48, 2), np.uint8)
    assert np.abs(rgb.astype(int) - rgb_frames(1)[:4]).mean() < 6
    assert np.abs(rgb[..., ::-1].astype(int) - rgb_frames(1)[:4]).mean() > 20  # RGB, not BGR
    # Grey planes: no colour subsampling, so u and v are far more exact, and do not leak into each other.
    assert np.abs(flow.astype(int) - flow_frames(1)).mean() < 1.5
    assert np.abs(flow[..., ::-1].astype(int) - flow_frames(1)).mean() > 20


def test_frames_come_in_the_order_asked_for_repeats_included(store: Store) -> None:
    everything = store.frames("a.mp4", "rgb", range(5))
    numbers = [4, 0, 0, 2, 4]
    np.testing.assert_array_equal(store.frames("a.mp4", "rgb", numbers), everything[numbers])


def test_what_is_known_of_a_video_comes_back_as_it_was(store: Store) -> None:
    assert store.videos == [video("a.mp4"), video("b/ü.mp4")]
    assert store.settings == SETTINGS


def test_names_longer_than_a_key_and_names_that_are_not_unicode_work(tmp_path: Path) -> None:
    names = {"x" * 3000 + "1": 1, "x" * 3000 + "2": 2, os.fsdecode(b"caf\xe9.mp4"): 3}
    store = Store(write_store(tmp_path / "store", names))
    assert {entry.id for entry in store.videos} == set(names)
    for name, seed in names.items():
        assert np.abs(store.frames(name, "rgb", [0]).astype(int) - rgb_frames(seed)[:1]).mean() < 6


@pytest.mark.parametrize(
    ("name", "stream", "numbers", "message"),
    [
        ("c.mp4", "rgb", [0], r"no video 'c\.mp4'"),
        ("a.mp4", "diff", [0], r"no stream 'diff' of video 'a\.mp4'"),
        ("a.mp4", "rgb", [5], r"Cannot read frames of 'a\.mp4'"),
        ("a.mp4", "flow", [4], r"Cannot read frames of 'a\.mp4'"),
        ("a.mp4", "rgb", [-1], r"Cannot read frames of 'a\.mp4'"),
        ("a.mp4", "rgb", [-2], r"Cannot read frames of 'a\.mp4'"),
    ],
)
def test_what_is_not_there_is_refused_by_name(
    store: Store, name: str, stream: StoredStream, numbers: list[int], message: str
) -> None:
    with pytest.raises(ViccError, match=message):
        store.frames(name, stream, numbers)


def test_a_video_that_could_not_be_written_whole_is_not_there_at_all(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", {"a.mp4": 1})
    writer = StoreWriter(path, SETTINGS)
    broken = {**packed(2), "flow": "not bytes"}
    with pytest.raises(TypeError):
        writer.add(video("b.mp4"), broken)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        writer.add(video("a.mp4", source=FileState(2, 2)), broken)  # type: ignore[arg-type]
    writer.close()
    store = Store(path)
    assert store.videos == [video("a.mp4")]
    assert store.frames("a.mp4", "flow", [0]).shape == (1, 40, 48, 2)


def test_a_changed_video_replaces_the_old_one_in_its_shard(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", {"a.mp4": 1, "b.mp4": 2, "c.mp4": 3}, shard_bytes=1)
    writer = StoreWriter(path, SETTINGS, shard_bytes=1)
    assert writer.has("a.mp4", FileState(1, 1))
    assert not writer.has("a.mp4", FileState(1, 2))
    assert not writer.has("a.mp4", FileState(2, 1))
    writer.add(video("a.mp4", num_frames=7, source=FileState(9, 9)), packed(8, 7))
    assert writer.has("a.mp4", FileState(9, 9))
    writer.close()
    store = Store(path)
    assert [entry.id for entry in store.videos] == ["a.mp4", "b.mp4", "c.mp4"]
    assert np.abs(store.frames("a.mp4", "rgb", range(7)).astype(int) - rgb_frames(8, 7)).mean() < 6
    assert np.abs(store.frames("b.mp4", "rgb", [0]).astype(int) - rgb_frames(2)[:1]).mean() < 6


def test_a_file_is_a_video_or_set_aside_never_both(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", {"a.mp4": 1})
    writer = StoreWriter(path, SETTINGS)
    aside = SetAside("a.mp4", "broken", FileState(5, 5))
    writer.put_aside(aside)
    assert writer.has("a.mp4", FileState(5, 5))
    writer.close()
    store = Store(path)
    assert (store.videos, store.set_aside) == ([], [aside])
    with pytest.raises(ViccError, match="no stream"):
        store.frames("a.mp4", "rgb", [0])
    store.close()
    write_store(path, {"a.mp4": 1})
    store = Store(path)
    assert ([entry.id for entry in store.videos], store.set_aside) == (["a.mp4"], [])


def test_small_shards_make_many_and_all_are_read(tmp_path: Path) -> None:
    names = {f"{number}.mp4": number for number in range(6)}
    path = write_store(tmp_path / "store", names, shard_bytes=1)
    assert sorted(file.name for file in path.glob("*.lmdb")) == [f"shard-{number:05d}.lmdb" for number in range(6)]
    # Continued by another writer, in a new shard.
    write_store(path, {"new.mp4": 9}, shard_bytes=1)
    store = Store(path)
    assert len(store.videos) == 7
    for name, seed in {**names, "new.mp4": 9}.items():
        assert np.abs(store.frames(name, "rgb", [0]).astype(int) - rgb_frames(seed)[:1]).mean() < 6


def test_shards_fill_up_before_a_new_one_is_begun(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", {f"{number}.mp4": number for number in range(6)})
    assert len(list(path.glob("*.lmdb"))) == 1


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", {"a.mp4": 1})
    with pytest.raises(ViccError, match=r"prepared with flow 'dis' \(asked for: 'tvl1'\)") as caught:
        StoreWriter(path, StoreSettings(short_side=40, quality=95, flow="tvl1"))
    assert "quality" not in str(caught.value)


def change_description(path: Path, **changes: object) -> None:
    description = json.loads((path / "store.json").read_text())
    (path / "store.json").write_text(json.dumps({**description, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 3}, r"format version 3; this vicc reads version 2\. Update vicc"),
        ({"version": 1}, r"format version 1.*Prepare the videos again"),
        ({"format": "other"}, r"does not describe a vicc store"),
        ({"settings": {"short_side": 40, "colour": "green"}}, r"settings .* cannot be understood: .*colour"),
        ({"settings": None}, r"settings .* cannot be understood"),
    ],
)
def test_a_store_this_version_cannot_read_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = write_store(tmp_path / "store", {"a.mp4": 1})
    change_description(path, **changes)
    with pytest.raises(ViccError, match=message):
        Store(path)
    with pytest.raises(ViccError, match=message):
        StoreWriter(path, SETTINGS)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xff", b'"vicc-store"'])
def test_a_damaged_description_is_refused(tmp_path: Path, content: bytes) -> None:
    path = write_store(tmp_path / "store", {"a.mp4": 1})
    (path / "store.json").write_bytes(content)
    with pytest.raises(ViccError, match=r"store\.json"):
        Store(path)


def test_folders_that_are_no_store_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ViccError, match=r"No such store: .*missing.*vicc prepare"):
        Store(tmp_path / "missing")
    with pytest.raises(ViccError, match=r"is not a store.*vicc prepare"):
        Store(tmp_path)


def in_another_process(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


OPEN = "import sys; from vicc.data.store import Store; print(len(Store(sys.argv[1]).videos))"


@pytest.mark.parametrize("share", [0.9, 0.5, 0.05])
def test_a_shard_cut_short_is_refused_and_does_not_crash_the_process(tmp_path: Path, share: float) -> None:
    """Reading a memory map beyond the end of its file ends a process with SIGBUS, hence the process of its own."""
    path = write_store(tmp_path / "store", {f"{number}.mp4": number for number in range(4)})
    shard = path / "shard-00000.lmdb"
    os.truncate(shard, int(shard.stat().st_size * share))
    result = in_another_process(OPEN, path)
    assert result.returncode == 1, result.stderr  # by an exception, not by a signal
    assert "ViccError: The shard" in result.stderr
    assert "shard-00000.lmdb" in result.stderr


def test_a_shard_of_something_else_is_refused(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", {"a.mp4": 1})
    shard = path / "shard-00000.lmdb"
    shard.write_bytes(b"something else" * (shard.stat().st_size // 14))
    result = in_another_process(OPEN, path)
    assert result.returncode == 1
    assert "ViccError: The shard" in result.stderr


def test_a_journal_whose_writer_was_killed_as_it_began_does_not_make_the_store_unreadable(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", {"a.mp4": 1}, shard_bytes=1)
    (path / "journal.lmdb").touch()
    assert len(Store(path).videos) == 1
    write_store(path, {"b.mp4": 2}, shard_bytes=1)
    assert len(Store(path).videos) == 2


def changed_header(data: bytes, **entries: Any) -> bytes:
    length = int.from_bytes(data[:4], "little")
    header = json.dumps({**json.loads(data[4 : 4 + length]), **entries}).encode()
    return len(header).to_bytes(4, "little") + header + data[4 + length :]


def without_frame(data: bytes, number: int) -> bytes:
    """Zeros in the place of one encoded frame."""
    length = int.from_bytes(data[:4], "little")
    num = json.loads(data[4 : 4 + length])["num"]
    offsets = np.frombuffer(data, "<u8", num + 1, 4 + length)
    body = 4 + length + offsets.nbytes + 4 * num
    begin, end = (body + int(offset) for offset in offsets[number : number + 2])
    return data[:begin] + bytes(end - begin) + data[end:]


def test_a_damaged_frame_names_video_frame_and_stream_and_leaves_the_others_readable(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", {"a.mp4": 1, "b.mp4": 2})
    damaged = without_frame(packed(1)["rgb"], 3)
    writer = StoreWriter(path, SETTINGS)
    writer.add(video("a.mp4"), {**packed(1), "rgb": damaged})
    writer.close()
    store = Store(path)
    with pytest.raises(ViccError, match=r"'a\.mp4'.*frame 3 of stream rgb is damaged"):
        store.frames("a.mp4", "rgb", range(5))
    assert store.frames("a.mp4", "rgb", [0, 1, 2, 4]).shape[0] == 4
    assert store.frames("b.mp4", "rgb", range(5)).shape[0] == 5


@pytest.mark.parametrize("data", [b"", b"\x02", b"\xff" * 64, b"\x02\x00\x00\x00{}", b"\x02\x00\x00\x00[]" + bytes(64)])
def test_a_damaged_pack_names_the_video(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "store"
    writer = StoreWriter(path, SETTINGS)
    writer.add(video("a.mp4"), {**packed(1), "rgb": data})
    writer.close()
    with pytest.raises(ViccError, match=r"'a\.mp4'"):
        Store(path).frames("a.mp4", "rgb", [0])


def test_an_image_of_another_size_than_the_pack_says_names_the_video(tmp_path: Path) -> None:
    path = tmp_path / "store"
    writer = StoreWriter(path, SETTINGS)
    writer.add(video("a.mp4"), {**packed(1), "rgb": changed_header(packed(1)["rgb"], height=41)})
    writer.close()
    with pytest.raises(ViccError, match=r"'a\.mp4'"):
        Store(path).frames("a.mp4", "rgb", [0])


def test_a_codec_of_a_later_version_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "store"
    writer = StoreWriter(path, SETTINGS)
    writer.add(video("a.mp4"), {**packed(1), "rgb": changed_header(packed(1)["rgb"], codec="h277")})
    writer.close()
    with pytest.raises(ViccError, match=r"'a\.mp4'.*codec 'h277'"):
        Store(path).frames("a.mp4", "rgb", [0])


READ = """
import sys
from vicc.data.store import Store
store = Store(sys.argv[1])
print(len(store.videos), flush=True)
for line in sys.stdin:
    print(store.frames(store.videos[0].id, "rgb", [0]).sum(), len(Store(sys.argv[1]).videos), flush=True)
"""


@pytest.mark.parametrize("shard_bytes", [30_000, 1 << 30])
def test_a_reader_of_another_process_works_while_a_writer_writes(tmp_path: Path, shard_bytes: int) -> None:
    """And folds its journal into shards meanwhile, of which there come to be four in the first case."""
    path = write_store(tmp_path / "store", {"a.mp4": 1})
    writer = StoreWriter(path, SETTINGS, shard_bytes=shard_bytes)
    with subprocess.Popen(
        [sys.executable, "-c", READ, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert int(reader.stdout.readline()) == 1
        expected = int(Store(path).frames("a.mp4", "rgb", [0]).sum())
        for number in range(2, 8):
            writer.add(video(f"{number}.mp4"), packed(number))
            reader.stdin.write("\n")
            reader.stdin.flush()
            total, count = map(int, reader.stdout.readline().split())
            assert total == expected
            assert count == number  # a store opened now sees what has been written by now
        reader.stdin.close()
    writer.close()


def test_many_stores_of_one_process_read_the_same_files(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", {"a.mp4": 1, "b.mp4": 2})
    first, second = Store(path), Store(path)
    copy = pickle.loads(pickle.dumps(first))  # noqa: S301 - our own bytes
    expected = first.frames("a.mp4", "rgb", [0])
    second.close()  # one that lets go does not take the files from the others
    for store in (first, second, copy):
        np.testing.assert_array_equal(store.frames("a.mp4", "rgb", [0]), expected)


def test_a_store_of_this_process_stays_readable_while_it_writes(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", {"a.mp4": 1})
    reader = Store(path)
    expected = reader.frames("a.mp4", "rgb", [0])
    writer = StoreWriter(path, SETTINGS)
    writer.add(video("b.mp4"), packed(2))
    np.testing.assert_array_equal(reader.frames("a.mp4", "rgb", [0]), expected)
    writer.add(video("c.mp4"), packed(3))
    writer.close()
    np.testing.assert_array_equal(reader.frames("a.mp4", "rgb", [0]), expected)
    assert len(Store(path).videos) == 3


def test_a_store_that_was_deleted_and_made_again_is_read_anew(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", {"a.mp4": 1})
    old = Store(path)
    old.frames("a.mp4", "rgb", [0])
    shutil.rmtree(path)
    write_store(path, {"a.mp4": 5})
    assert np.abs(Store(path).frames("a.mp4", "rgb", [0]).astype(int) - rgb_frames(5)[:1]).mean() < 6


def _sum_of_frames(store: Store, results: "multiprocessing.Queue[int]") -> None:
    results.put(int(store.frames("a.mp4", "rgb", range(5)).sum()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_store_can_be_used_in_a_child_process(tmp_path: Path, method: str) -> None:
    path = write_store(tmp_path / "store", {"a.mp4": 1})
    stores = [Store(path), Store(path)]
    expected = [int(store.frames("a.mp4", "rgb", range(5)).sum()) for store in stores]  # files open before the fork
    context = multiprocessing.get_context(method)
    results = context.Queue()
    for store in stores:
        child = context.Process(target=_sum_of_frames, args=(store, results))
        child.start()
        assert results.get(timeout=60) == expected[0]
        child.join()
        assert child.exitcode == 0
    assert [int(store.frames("a.mp4", "rgb", range(5)).sum()) for store in stores] == expected


def test_a_pickled_store_carries_no_open_file(store: Store) -> None:
    store.frames("a.mp4", "rgb", [0])
    assert len(pickle.dumps(store)) < 5000


def test_a_store_without_right_to_write_is_readable(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", {"a.mp4": 1})
    for file in path.iterdir():
        if file.name.endswith("-lock"):
            file.unlink()
        else:
            file.chmod(0o444)
    path.chmod(0o555)
    try:
        assert Store(path).frames("a.mp4", "rgb", [0]).shape == (1, 40, 48, 3)
    finally:
        path.chmod(0o755)


def _raw(path: Path) -> dict[bytes, bytes]:
    environment = lmdb.open(str(path), subdir=False, readonly=True)
    with environment.begin() as transaction:
        content = dict(transaction.cursor())
    environment.close()
    return content


def test_equal_videos_in_equal_order_make_equal_values(tmp_path: Path) -> None:
    first, second = (write_store(tmp_path / name, {"b.mp4": 2, "a.mp4": 1}) for name in ("one", "two"))
    assert _raw(first / "shard-00000.lmdb") == _raw(second / "shard-00000.lmdb")


def files_of(path: Path) -> dict[str, bytes]:
    """Every file of a store but those of locks."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != ".lock" and not file.name.endswith("-lock")
    }


def write_many(path: Path, shard_bytes: int) -> None:
    """Twelve files of different sizes, two of them skipped; then one that has changed, and one that is dropped."""
    writer = StoreWriter(path, SETTINGS, shard_bytes=shard_bytes)
    for number in range(12):
        name, state = f"{number:02d}.mp4", FileState(number, 1)
        if writer.has(name, state) or writer.has(name, FileState(number, 2)):
            continue
        if number in (4, 9):
            writer.put_aside(SetAside(name, "broken", state))
        else:
            writer.add(
                video(name, source=state), {"rgb": bytes([number]) * 900 * (number + 1), "flow": b"f" * 50 * number}
            )
    if not writer.has("03.mp4", FileState(3, 2)):
        writer.add(video("03.mp4", source=FileState(3, 2)), {"rgb": b"changed" * 1000, "flow": b"too"})
    writer.close()


def write_many_and_be_killed(path: Path, shard_bytes: int, at: int) -> None:
    """Ends with SIGKILL at the `at`-th thing that changes a name on the disk or the content of the journal."""
    left = at

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return wrapper

    os.replace = counted(os.replace)
    Path.unlink = counted(Path.unlink)  # type: ignore[method-assign]
    StoreWriter._write = counted(StoreWriter._write)  # type: ignore[method-assign]
    write_many(path, shard_bytes)


@pytest.mark.parametrize("shard_bytes", [10_000, 30_000, 1 << 30])
def test_a_writer_killed_at_any_step_and_started_again_ends_with_the_same_files(
    tmp_path: Path, shard_bytes: int
) -> None:
    write_many(tmp_path / "undisturbed", shard_bytes)
    expected = files_of(tmp_path / "undisturbed")
    assert len(expected) == {10_000: 7, 30_000: 4, 1 << 30: 3}[shard_bytes]
    context = multiprocessing.get_context("fork")
    for at in range(1, 200, 1 if shard_bytes == 30_000 else 5):
        path = tmp_path / "killed"
        child = context.Process(target=write_many_and_be_killed, args=(path, shard_bytes, at))
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        if (path / "store.json").exists():
            assert all(len(store.records) <= 12 for store in [Store(path)])  # what is left can be read
        write_many(path, shard_bytes)
        assert files_of(path) == expected, f"killed at step {at}"
        shutil.rmtree(path)
    assert at > 15


def test_a_reader_open_all_the_time_leaves_no_trace_in_the_files(tmp_path: Path) -> None:
    """LMDB uses pages again that no reader needs, so a reader changes where things stand in the journal."""
    for name in ("alone", "watched"):
        with contextlib.ExitStack() as stack:
            writer = StoreWriter(tmp_path / name, SETTINGS, shard_bytes=40_000)
            for number in range(20):
                writer.add(video(f"{number:02d}.mp4"), {"rgb": bytes([number]) * 3000, "flow": b"f" * 100})
                if name == "watched" and number % 3 == 1:
                    store = Store(tmp_path / name)
                    stack.enter_context(store.file_of("01.mp4").begin())
            writer.close()
    assert files_of(tmp_path / "alone") == files_of(tmp_path / "watched")


def test_a_run_stopped_in_order_goes_on_in_the_same_shards(tmp_path: Path) -> None:
    names = {f"{number}.mp4": number for number in range(6)}
    write_store(tmp_path / "once", names, shard_bytes=40_000)
    for number in range(6):
        write_store(tmp_path / "often", {f"{number}.mp4": number}, shard_bytes=40_000)
    assert len(list((tmp_path / "once").glob("shard-*.lmdb"))) > 1
    assert files_of(tmp_path / "often") == files_of(tmp_path / "once")


def test_videos_that_a_writer_has_moved_since_are_found_again(tmp_path: Path) -> None:
    """Opened while they stood in the journal; read in another process, after the journal was folded away."""
    path = tmp_path / "store"
    writer = StoreWriter(path, SETTINGS)
    writer.add(video("a.mp4"), packed(1))
    store = Store(path)
    assert store.shard_of == {"a.mp4": "journal.lmdb"}
    pickled = pickle.dumps(store)
    writer.close()
    assert not (path / "journal.lmdb").exists()
    for reader in (store, pickle.loads(pickled)):  # noqa: S301 - our own bytes
        assert reader.frames("a.mp4", "rgb", [0]).shape == (1, 40, 48, 3)


def test_a_video_dropped_since_the_store_was_opened_is_named(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", {"a.mp4": 1, "b.mp4": 2})
    store = Store(path)
    store.close()
    writer = StoreWriter(path, SETTINGS)
    writer.drop(["a.mp4"])
    writer.close()
    with pytest.raises(ViccError, match=r"'a\.mp4' has been dropped"):
        store.frames("a.mp4", "rgb", [0])
    assert store.frames("b.mp4", "rgb", [0]).shape[0] == 1


def test_dropped_videos_are_gone_at_once_and_their_space_is_given_back(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", {f"{number}.mp4": number for number in range(6)})
    before = (path / "shard-00000.lmdb").stat().st_size
    writer = StoreWriter(path, SETTINGS)
    with pytest.raises(ViccError, match=r"has no 'x\.mp4'.*Nothing was dropped"):
        writer.drop(["1.mp4", "x.mp4"])
    assert len(Store(path).videos) == 6
    writer.drop(["1.mp4", "2.mp4", "3.mp4", "5.mp4"])
    assert [entry.id for entry in Store(path).videos] == ["0.mp4", "4.mp4"]  # before anything is written anew
    assert not writer.has("1.mp4", FileState(1, 1))
    writer.add(video("5.mp4"), packed(5))
    writer.close()
    assert [entry.id for entry in Store(path).videos] == ["0.mp4", "4.mp4", "5.mp4"]
    assert (path / "shard-00000.lmdb").stat().st_size < 0.7 * before
    write_store(tmp_path / "fresh", {"0.mp4": 0, "4.mp4": 4, "5.mp4": 5})
    assert files_of(path) == files_of(tmp_path / "fresh")


def test_a_store_of_which_all_was_dropped_is_empty_and_can_be_added_to(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", {"a.mp4": 1, "b.mp4": 2}, shard_bytes=1)
    writer = StoreWriter(path, SETTINGS, shard_bytes=1)
    writer.drop(["a.mp4", "b.mp4"])
    writer.close()
    assert Store(path).videos == []
    assert not list(path.glob("*.lmdb"))
    write_store(path, {"c.mp4": 3}, shard_bytes=1)
    assert [entry.id for entry in Store(path).videos] == ["c.mp4"]


def test_the_manifest_names_every_shard_and_record(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", {"a.mp4": 1, "b.mp4": 2, "c.mp4": 3}, shard_bytes=1)
    manifest = read_manifest((path / "manifest.json").read_bytes(), where="here")
    for shard in manifest.shards:
        data = (path / shard.name).read_bytes()
        assert (len(data), hashlib.blake2b(data, digest_size=16).hexdigest()) == (shard.bytes, shard.blake2b)
    store = Store(path)
    records = {name: [Record.from_json(document) for document in of] for name, of in manifest.records.items()}
    assert {name: records[name][0] for name in records} == {store.shard_of[i]: store.records[i] for i in store.records}


@pytest.mark.parametrize(
    "change", [(b"a.mp4", b"x.mp4"), (b'"bytes": ', b'"bytes": 1'), (b"shard-00000", b"../../00000"), (b"{", b"")]
)
def test_a_manifest_that_was_changed_is_refused(tmp_path: Path, change: tuple[bytes, bytes]) -> None:
    path = write_store(tmp_path / "store", {"a.mp4": 1})
    data = (path / "manifest.json").read_bytes()
    with pytest.raises(ViccError, match="is damaged"):
        read_manifest(data.replace(*change), where="here")


def test_a_manifest_cannot_lead_out_of_the_folder() -> None:
    manifest = {"store": {}, "shards": [{"name": "../x.lmdb", "bytes": 1, "content": "", "blake2b": ""}], "records": {}}
    checksum = hashlib.blake2b(json.dumps(manifest).encode(), digest_size=16).hexdigest()
    with pytest.raises(ViccError, match="is no shard"):
        read_manifest(json.dumps({"blake2b": checksum, "manifest": manifest}).encode(), where="here")


def test_a_record_with_one_wrong_bit_is_refused(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", {"a.mp4": 1})
    shard = path / "shard-00000.lmdb"
    data = shard.read_bytes()
    assert data.count(b'"label": "run"') == 1
    shard.write_bytes(data.replace(b'"label": "run"', b'"label": "ruo"'))
    with pytest.raises(ViccError, match=r"shard-00000.*its checksum does not fit"):
        Store(path)


operations = st.lists(
    st.tuples(st.sampled_from(["add", "aside"]), st.integers(0, 12), st.integers(0, 40_000)), min_size=1, max_size=40
)


@settings(max_examples=15, deadline=None)
@given(operations, st.sampled_from([1, 100_000, 2 << 30]))
def test_after_any_additions_and_replacements_the_store_holds_the_last_of_each(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]], shard_bytes: int
) -> None:
    """And opens: the check for shards cut short has no false alarm, however pages were freed and used again."""
    path = tmp_path_factory.mktemp("store") / "store"
    writer = StoreWriter(path, SETTINGS, shard_bytes=shard_bytes)
    expected: dict[str, int | str] = {}
    for kind, number, size in steps:
        name = f"{number}.mp4"
        if kind == "add":
            writer.add(video(name, source=FileState(size, 1)), {"rgb": bytes(size), "flow": bytes(size // 2)})
            expected[name] = size
        else:
            writer.put_aside(SetAside(name, "reason " * (size % 100), FileState(size, 1)))
            expected[name] = "reason " * (size % 100)
    writer.close()
    store = Store(path)
    found: dict[str, int | str] = {entry.id: entry.source.bytes for entry in store.videos}
    found.update({entry.id: entry.reason for entry in store.set_aside})
    assert found == expected
    for entry in store.videos:
        with store.file_of(entry.id).begin() as transaction:
            keys = [key for key, _ in transaction.cursor()]
        assert len(keys) == len(set(keys))
    store.close()


@pytest.fixture
def mutate(tmp_path: Path) -> Callable[[], Path]:
    return lambda: write_store(tmp_path / "store", {"a.mp4": 1})


def test_an_entry_of_another_version_is_refused_in_a_sentence(mutate: Callable[[], Path]) -> None:
    path = mutate()
    environment = lmdb.open(str(path / "shard-00000.lmdb"), subdir=False, map_size=1 << 30)
    with environment.begin(write=True) as transaction:
        transaction.put(b"video:ff", json.dumps({"id": "x", "colour": "green", "source": {}}).encode())
    environment.close()
    with pytest.raises(ViccError, match="shard-00000"):
        Store(path)


def test_a_cache_changes_nothing_but_where_frames_come_from(tmp_path: Path) -> None:
    write_store(tmp_path, {"a": 1, "b": 2})
    plain = Store(tmp_path)
    one_stream = 5 * 40 * 48 * 3  # room for the RGB frames of one video, and for nothing beside it
    cached = Store(tmp_path, cache_bytes=one_stream + 100)
    for _ in range(2):
        for video in plain.videos:
            for stream, numbers in (("rgb", [4, 0, 0, 2]), ("flow", [3, 1])):
                assert np.array_equal(
                    cached.frames(video.id, stream, numbers),  # type: ignore[arg-type]
                    plain.frames(video.id, stream, numbers),  # type: ignore[arg-type]
                )
    assert sum(frames.nbytes for frames in cached._cache.values()) == one_stream
    first = cached.frames(plain.videos[0].id, "rgb", [0])
    first[:] = 0
    assert cached.frames(plain.videos[0].id, "rgb", [0]).any()  # what a caller does to its frames stays there
    for numbers in ([-1], [5]):
        with pytest.raises(ViccError, match="no frame"):
            cached.frames(plain.videos[0].id, "rgb", numbers)
    assert not pickle.loads(pickle.dumps(cached))._cache  # noqa: S301 - ours, made on the line itself
