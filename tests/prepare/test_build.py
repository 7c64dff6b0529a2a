"""Preparing: parallel, resumable, nothing half-written, and no file lost without a reason."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmdb
import pytest

from tests.data.test_store import files_of
from vicc.data.maintenance import merge_stores, store_info
from vicc.data.store import Store, StoreWriter
from vicc.errors import ViccError
from vicc.files import exclusive_folder
from vicc.prepare.build import PrepareReport, prepare_videos
from vicc.prepare.configs import PrepareConfig
from vicc.prepare.scan import open_frames

Write = Callable[..., Path]


def run(videos: Path, store: Path, **options: Any) -> PrepareReport:
    return prepare_videos(PrepareConfig(videos, store, **{"workers": 1, "short_side": 32, **options}))


def content(store: Path) -> dict[bytes, bytes]:
    """Every key and value of every shard."""
    values: dict[bytes, bytes] = {}
    for shard in sorted(store.glob("shard-*.lmdb")):
        with lmdb.open(str(shard), subdir=False, readonly=True) as environment, environment.begin() as transaction:
            values.update(transaction.cursor())
    return values


@pytest.fixture(scope="module")
def four_videos(tmp_path_factory: pytest.TempPathFactory, write_video: Write) -> Path:
    folder = tmp_path_factory.mktemp("four")
    for number in range(4):
        write_video(folder / "ab"[number % 2] / f"{number}.mp4", num_frames=6, seed=number)
    return folder


@pytest.fixture
def videos(tmp_path: Path, four_videos: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(four_videos, tmp_path / "videos"))


def test_all_videos_are_prepared_with_what_is_known_of_them(videos: Path, tmp_path: Path) -> None:
    (videos / "groups.csv").write_text("path,group\na/0.mp4,tape\n")
    report = run(videos, tmp_path / "store")
    assert (report.found, report.prepared, report.already_there, report.frames) == (4, 4, 0, 24)
    assert report.labels == ["a", "b"]
    store = Store(tmp_path / "store")
    assert [video.id for video in store.videos] == ["a/0.mp4", "a/2.mp4", "b/1.mp4", "b/3.mp4"]
    first = store.videos[0]
    assert (first.label, first.group, first.num_frames, first.height, first.width) == ("a", "tape", 6, 32, 38)
    assert first.frames_per_second == 25
    assert first.source.bytes == (videos / "a/0.mp4").stat().st_size
    assert len(first.source.blake2b) == 32
    assert store.frames("a/0.mp4", "flow", range(5)).shape == (5, 32, 38, 2)


def test_a_second_run_does_only_what_is_missing_or_has_changed(
    videos: Path, tmp_path: Path, write_video: Write
) -> None:
    store = tmp_path / "store"
    run(videos, store)
    before = content(store)
    assert (run(videos, store).prepared, content(store)) == (0, before)

    write_video(videos / "a" / "new.mp4", num_frames=6, seed=9)
    report = run(videos, store)
    assert (report.prepared, report.already_there) == (1, 4)
    assert before.items() <= content(store).items()

    write_video(videos / "a" / "0.mp4", num_frames=8, seed=10)
    report = run(videos, store)
    assert (report.prepared, report.already_there) == (1, 4)
    assert {video.id: video.num_frames for video in Store(store).videos}["a/0.mp4"] == 8


def spoil(folder: Path, write_video: Write) -> dict[str, str]:
    """Add files that cannot be used; returns the reason expected for each."""
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("I am not a video.\n" * 40)
    write_video(folder / "one.mp4", num_frames=1)
    write_video(folder / "two.mp4", num_frames=2)
    cut = write_video(folder / "cut.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(cut[: len(cut) // 2])
    return {
        "empty.mp4": "the file is empty",
        "text.mp4": "cannot be decoded",
        "one.mp4": "1 frame, fewer than 3",
        "two.mp4": "2 frames, fewer than 3",
        "cut.mp4": "cannot be decoded",
    }


def test_files_that_cannot_be_used_are_set_aside_with_their_reasons_and_the_rest_goes_on(
    videos: Path, tmp_path: Path, write_video: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = spoil(videos, write_video)
    report = run(videos, tmp_path / "store")
    reasons = {entry.id: entry.reason for entry in report.set_aside}
    assert reasons.keys() == expected.keys()
    assert all(reasons[name].startswith(text) for name, text in expected.items()), reasons
    assert len(Store(tmp_path / "store").videos) == 4
    said = capsys.readouterr()
    assert all(f"skipped {name}" in said.err for name in expected)
    assert said.out == ""
    # They are remembered, and looked at again only when they change.
    assert run(videos, tmp_path / "store").prepared == 0
    write_video(videos / "empty.mp4", num_frames=6)
    report = run(videos, tmp_path / "store")
    assert report.prepared == 1
    assert "empty.mp4" not in {entry.id for entry in report.set_aside}


def test_frames_fewer_than_asked_for_can_be_allowed(tmp_path: Path, write_video: Write) -> None:
    write_video(tmp_path / "videos" / "two.mp4", num_frames=2)
    assert run(tmp_path / "videos", tmp_path / "store", min_frames=2).set_aside == []
    assert Store(tmp_path / "store").frames("two.mp4", "flow", [0]).shape[0] == 1


def test_a_folder_of_nothing_usable_is_refused_with_the_reasons(tmp_path: Path, write_video: Write) -> None:
    (tmp_path / "videos").mkdir()
    spoil(tmp_path / "videos", write_video)
    with pytest.raises(ViccError, match=r"None of the 5 files could be prepared \(cut\.mp4: cannot be decoded"):
        run(tmp_path / "videos", tmp_path / "store")


def test_a_dry_run_writes_nothing(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(videos, tmp_path / "deep" / "store", dry_run=True)
    assert (report.found, report.prepared) == (4, 0)
    assert not (tmp_path / "deep").exists()
    assert "would prepare 4 of 4 videos" in capsys.readouterr().err


def test_a_dry_run_says_what_the_run_then_does(
    videos: Path, tmp_path: Path, write_video: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """Skipped files stay skipped, a changed file is done again."""
    (videos / "empty.mp4").touch()
    run(videos, tmp_path / "store")
    write_video(videos / "a" / "0.mp4", num_frames=8, seed=10)
    capsys.readouterr()
    before = content(tmp_path / "store")
    run(videos, tmp_path / "store", dry_run=True)
    assert "would prepare 1 of 5 videos" in capsys.readouterr().err
    assert content(tmp_path / "store") == before
    assert run(videos, tmp_path / "store").prepared == 1


def test_one_worker_and_two_write_the_same_bytes(videos: Path, tmp_path: Path, write_video: Write) -> None:
    spoil(videos, write_video)
    for workers in (1, 2):
        run(videos, tmp_path / f"store{workers}", workers=workers)
    assert content(tmp_path / "store1") == content(tmp_path / "store2")


@pytest.mark.parametrize("change", [{"short_side": 24}, {"flow_bound": 10.0}, {"quality": 30}, {"flow": "tvl1"}])
def test_other_settings_are_refused_and_the_store_stays_as_it_was(
    four_videos: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    run(four_videos, tmp_path / "store")
    before = content(tmp_path / "store")
    with pytest.raises(ViccError, match=f"prepared with {next(iter(change))}"):
        run(four_videos, tmp_path / "store", **change)
    assert content(tmp_path / "store") == before


def test_a_store_from_before_there_was_fps_is_read_and_continued(four_videos: Path, tmp_path: Path) -> None:
    run(four_videos, tmp_path / "store")
    description = json.loads((tmp_path / "store" / "store.json").read_text())
    del description["settings"]["frames_per_second"]
    (tmp_path / "store" / "store.json").write_text(json.dumps(description))
    assert Store(tmp_path / "store").settings.frames_per_second is None
    assert run(four_videos, tmp_path / "store").prepared == 0


def test_a_store_in_use_is_refused_at_once(four_videos: Path, tmp_path: Path) -> None:
    with (
        exclusive_folder(tmp_path / "store", what="store"),
        pytest.raises(ViccError, match="in use by another process"),
    ):
        run(four_videos, tmp_path / "store")
    assert run(four_videos, tmp_path / "store").prepared == 4


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_path_that_is_something_else_is_refused_and_left_alone(four_videos: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thesis"
    file = path / "chapter.txt" if kind == "folder" else path
    file.parent.mkdir(exist_ok=True)
    file.write_text("precious")
    with pytest.raises(ViccError, match="exists and is not a store"):
        run(four_videos, path)
    assert file.read_text() == "precious"
    assert [entry.name for entry in path.parent.iterdir()] == ["thesis"]


# --- interruptions ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many_videos(tmp_path_factory: pytest.TempPathFactory, write_video: Write) -> Path:
    """Enough work that a run can be met in its middle."""
    folder = tmp_path_factory.mktemp("many")
    one = write_video(folder / "00.mp4", num_frames=40, size=(96, 128))
    for number in range(1, 16):
        shutil.copy2(one, folder / f"{number:02d}.mp4")
    return folder


@pytest.fixture(scope="module")
def undisturbed(many_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    run(many_videos, store, short_side=96)
    return files_of(store)


def start(videos: Path, store: Path) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "vicc", "prepare", str(videos), "--store", str(store), "--short-side", "96"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*words, "--workers", "1"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip


def count_in_another_process(store: Path) -> int:
    """This process must not keep the store open."""
    code = "import sys; from vicc.data.store import Store; print(len(Store(sys.argv[1]).videos))"
    result = subprocess.run([sys.executable, "-c", code, str(store)], capture_output=True, text=True)
    return int(result.stdout or 0)


def wait_until(happened: Callable[[], bool], process: "subprocess.Popen[str]", seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def has_begun(store: Path) -> bool:
    """Some videos are in the store. A file grows before its transaction is committed, so it is several videos long."""
    journal = store / "journal.lmdb"
    return journal.exists() and journal.stat().st_size > 300_000


def test_a_run_killed_in_the_middle_and_given_again_ends_with_the_same_files(
    many_videos: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    store = tmp_path / "store"
    with start(many_videos, store) as process:
        wait_until(lambda: has_begun(store), process)
        os.killpg(process.pid, signal.SIGKILL)
    done = count_in_another_process(store)
    assert 0 < done < 16
    report = run(many_videos, store, short_side=96)
    assert report.prepared == 16 - done
    assert files_of(store) == undisturbed


@pytest.mark.parametrize(
    "number", [signal.SIGINT, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGTERM, signal.SIGUSR1))]
)
def test_a_run_that_is_stopped_says_so_in_a_sentence_and_goes_on_when_given_again(
    many_videos: Path, tmp_path: Path, undisturbed: dict[str, bytes], number: signal.Signals
) -> None:
    """Ctrl-C reaches the workers too, for the whole group gets it."""
    store = tmp_path / "store"
    with start(many_videos, store) as process:
        wait_until(lambda: has_begun(store), process)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "the same command continues" in said
    assert "Traceback" not in said
    assert run(many_videos, store, short_side=96).prepared > 0
    assert files_of(store) == undisturbed


def test_ctrl_c_while_the_workers_start_prints_no_traceback(many_videos: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with start(many_videos, store) as process:
        wait_until((store / "store.json").exists, process)
        time.sleep(0.15)  # the workers are importing by now
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "Traceback" not in said


@pytest.mark.data
def test_odd_real_files_are_prepared_or_set_aside_with_a_reason(test_data: Path, tmp_path: Path) -> None:
    report = run(test_data / "edge-cases", tmp_path / "store", short_side=64, workers=2)
    store = Store(tmp_path / "store")
    reasons = {entry.id: entry.reason for entry in store.set_aside}
    assert {"derived_zero_length.avi", "derived_text_named.mp4", "derived_one_frame.mp4"} <= set(reasons)
    assert "decord_corrupted.mp4" in report.notes
    assert "28 frames" in report.notes["decord_corrupted.mp4"]
    for video in store.videos:
        assert min(video.height, video.width) <= 64
        assert len(store.frames(video.id, "rgb", [0, video.num_frames - 1])) == 2
        assert len(store.frames(video.id, "flow", [0, video.num_frames - 2])) == 2
    assert len(store.videos) + len(reasons) == report.found


def test_a_script_without_a_main_guard_blames_itself_and_sets_no_video_aside(
    tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    """Each spawned worker imports the script and fails; that must not pass for a crash of the decoder."""
    write_video(tmp_path / "videos" / "a.mp4")
    script = tmp_path / "mine.py"
    paths = ", ".join(f"Path({str(tmp_path / name)!r})" for name in ("videos", "store"))
    script.write_text(f"from pathlib import Path\nimport vicc\nvicc.prepare_videos(vicc.PrepareConfig({paths}))\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "if __name__ == '__main__':" in done.stderr.strip().splitlines()[-1]
    assert Store(tmp_path / "store").set_aside == []
    prepare_videos(PrepareConfig(tmp_path / "videos", tmp_path / "store", workers=1))
    assert [video.id for video in Store(tmp_path / "store").videos] == ["a.mp4"]


def test_a_store_whose_prepare_was_stopped_is_not_taken_for_a_whole_one(
    write_video: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(3):
        write_video(tmp_path / "videos" / f"{'ab'[number % 2]}/{number}.mp4", num_frames=4, size=(24, 32), seed=number)
    config = PrepareConfig(tmp_path / "videos", tmp_path / "store", flow="none", workers=1)
    add = StoreWriter.add

    def stop_after_one(self: StoreWriter, *args: Any) -> None:
        add(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(StoreWriter, "add", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        prepare_videos(config)
    monkeypatch.undo()
    told = f"the store {config.store} is not complete: its `vicc prepare` is at work or was stopped, with 1 videos"
    open_frames(config.store, None).close()
    assert told in capsys.readouterr().err
    assert any("give the same `vicc prepare` again" in problem for problem in store_info(tmp_path / "store").problems)
    with pytest.raises(ViccError, match="give that command again, to its end, before merging"):
        merge_stores([tmp_path / "store", tmp_path / "store"][:1], tmp_path / "merged")
    with pytest.raises(ViccError, match="prepared with"):
        prepare_videos(replace(config, flow="dis"))
    prepare_videos(config)
    with pytest.raises(ViccError, match="prepared with"):
        prepare_videos(replace(config, flow="dis"))
    capsys.readouterr()
    open_frames(config.store, None).close()
    assert "not complete" not in capsys.readouterr().err
    assert not store_info(tmp_path / "store").problems
