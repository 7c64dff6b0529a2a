"""Workers: results in order, and a process that hangs, crashes or is killed costs its own item and no other."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vicc
from tests.conftest import make_video
from vicc.errors import ViccError
from vicc.prepare import workers
from vicc.prepare.engines import run_locally
from vicc.prepare.workers import decoder_guard
from vicc.video.decode import VideoReader


def work(item: str) -> str:
    if item == "hangs":
        with decoder_guard(0.3):
            time.sleep(60)
    if item == "crashes":
        os._exit(1)
    if item == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "raises":
        raise ValueError("a mistake in the program")
    if item == "is slow outside of the decoder":
        with decoder_guard(0.3):
            pass
        time.sleep(0.6)
    return f"{item}, done"


def died(item: str, reason: str) -> str:
    return f"{item}: {reason}"


def test_whatever_happens_to_one_the_others_are_done_in_order() -> None:
    items = ["first", "hangs", "second", "crashes", "is killed", "is slow outside of the decoder", "last"]
    results = list(run_locally(work, items, died=died, size_of=len, workers=2))
    assert [item for item, _ in results] == items
    assert [result for _, result in results] == [
        "first, done",
        "hangs: decoding hung: no new frame for 120 s",
        "second, done",
        "crashes: the decoder crashed on this file",
        "is killed: the decoder was killed on this file, most often because memory was short",
        "is slow outside of the decoder, done",
        "last, done",
    ]


@pytest.mark.parametrize("before", [[], ["crashes"]], ids=["in the pool", "in a process of its own"])
def test_a_mistake_in_the_program_is_raised_and_not_blamed_on_a_file(before: list[str]) -> None:
    with pytest.raises(ValueError, match="a mistake in the program"):
        list(run_locally(work, [*before, "raises"], died=died, size_of=len, workers=2))


def die_while_answering(folder: Path, milliseconds: int) -> bytes:
    """The first time, the process is killed so long after the function has returned."""
    mark = folder / str(milliseconds)
    if not mark.exists():
        mark.touch()
        threading.Timer(milliseconds / 1000, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return bytes(64 << 20)


def test_a_process_that_is_killed_while_it_hands_over_its_result_leaves_nobody_waiting(tmp_path: Path) -> None:
    """Half a message in a pipe that all processes share would be waited for for ever."""
    items = [1, 10, 20, 40, 80, 160]
    began = time.monotonic()
    running = run_locally(partial(die_while_answering, tmp_path), items, died=lambda item, reason: b"", workers=2)
    assert [(item, len(result)) for item, result in running] == [(item, 64 << 20) for item in items]
    assert time.monotonic() - began < 60


def test_the_guard_does_nothing_outside_of_a_worker() -> None:
    with decoder_guard(0.05):
        time.sleep(0.1)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


class SlowReader(VideoReader):
    """Its decoder gives three frames and then nothing for a minute."""

    def __iter__(self) -> Any:
        for number in range(3):
            with self.guard():
                yield np.full((8, 8, 3), number, np.uint8)
        with self.guard():
            time.sleep(60)


def read_slowly(path: Path) -> int:
    return sum(1 for _ in SlowReader(path, guard=lambda: decoder_guard(0.3)))


def test_a_decoder_that_stops_giving_frames_is_ended(tmp_path: Path) -> None:
    began = time.monotonic()
    items = [tmp_path / "a.mp4"]
    died_of: list[str] = []

    def died(item: Path, reason: str) -> int:
        died_of.append(reason)
        return 0

    ((_, frames),) = run_locally(read_slowly, items, died=died, size_of=int, workers=1)
    assert frames == 0
    assert died_of[0].startswith("decoding hung")
    assert time.monotonic() - began < 30


def test_the_reader_asks_for_the_guard_whenever_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening, every frame and the end, but not what is done with a frame in between."""
    monkeypatch.setattr(workers, "_in_worker", True)
    armed = []
    reader = VideoReader(make_video(tmp_path / "a.mp4", num_frames=5), guard=lambda: decoder_guard(50))
    monkeypatch.setattr(signal, "setitimer", lambda which, seconds: armed.append(seconds))
    for _ in reader:
        assert armed[-1] == 0
    assert armed.count(50) == 1 + 5 + 1


SCRIPTS = {
    "check": "vicc.check_videos(vicc.CheckConfig([Path('videos')], workers=2))",
    "scan": "from vicc.prepare.scan import scan_videos; scan_videos(Path('videos'), workers=2)",
    "demo videos": "from vicc.prepare.demo_videos import write_demo_videos as w; "
    "w(Path('d'), num_train=10, num_test=0, seed=0, num_workers=2)",
}


@pytest.mark.parametrize("what", SCRIPTS)
def test_a_script_without_a_main_guard_is_told_so_at_once(tmp_path: Path, what: str) -> None:
    """Each worker imports the script, which there starts again: it must neither hang nor blame a video."""
    make_video(tmp_path / "videos" / "a.mp4", num_frames=4)
    make_video(tmp_path / "videos" / "b.mp4", num_frames=4)
    script = tmp_path / "mine.py"
    script.write_text(f"from pathlib import Path\nimport vicc\n{SCRIPTS[what]}\n")
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "if __name__ == '__main__':" in done.stderr.strip().splitlines()[-1]
    assert "This script started again in a worker process" in done.stderr
    assert "skipped" not in done.stderr


def test_a_worker_that_imports_the_script_refuses_before_anything_heavy_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And a function taken from vicc then, in a script with a guard, is that function later."""
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    pretrain, check = vicc.pretrain, vicc.check_videos
    with pytest.raises(ViccError, match="started again in a worker"):
        pretrain()  # type: ignore[call-arg]
    with pytest.raises(ViccError, match="started again in a worker"):
        workers.Workers(str, lambda item, reason: reason, number=1)
    monkeypatch.delattr(multiprocessing.current_process(), "_inheriting")
    with pytest.raises(ViccError, match="No such file or folder"):
        check(vicc.CheckConfig([Path("not there")]))
