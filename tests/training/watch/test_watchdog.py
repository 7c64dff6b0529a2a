"""A process in which nothing moves says so, says who and what it is, and ends."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from vicc.training.watch import watchdog
from vicc.training.watch.watchdog import EXIT_HUNG, Watchdog


def hang(folder: Path, *, seconds: float = 0.4, doing: str = "loads") -> list[int]:
    """Exit statuses of a watchdog whose loop has stopped moving."""
    statuses: list[int] = []
    with Watchdog(folder, minutes=seconds / 60, videos=lambda step: ["jump/7.mp4"], end=statuses.append) as watch:
        watch.at(doing, 12)
        end = time.monotonic() + 20
        while not statuses and time.monotonic() < end:
            time.sleep(0.02)
    return statuses


def test_a_hang_names_step_and_video_and_ends_the_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hang(tmp_path) == [EXIT_HUNG]
    said = capsys.readouterr().err
    assert "Process 0" in said
    assert "hangs in step 12: it loads jump/7.mp4" in said
    assert "--hang-minutes" in said
    assert "test_watchdog.py" in (tmp_path / "processes" / "0.stacks.txt").read_text(), "the main thread's place"


def test_a_hang_ends_the_process_also_where_nothing_can_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "processes" / "0.stacks.txt").mkdir(parents=True)  # as unwritable as on a full disk
    assert hang(tmp_path) == [EXIT_HUNG]
    assert "0.stacks.txt, where all threads are, cannot be written (Is a directory)" in capsys.readouterr().err


def test_while_steps_are_made_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    statuses: list[int] = []
    with Watchdog(tmp_path, minutes=0.4 / 60, end=statuses.append) as watch:
        for step in range(12):
            watch.at("computes", step)
            time.sleep(0.1)
        beat = json.loads((tmp_path / "processes" / "0.json").read_text())
    assert statuses == []
    assert capsys.readouterr().err == ""
    assert beat["doing"] == "computes"
    assert beat["step"] > 0


def test_a_closed_watchdog_no_longer_watches(tmp_path: Path) -> None:
    statuses: list[int] = []
    with Watchdog(tmp_path, minutes=0.2 / 60, end=statuses.append) as watch:
        watch.at("loads", 1)
    time.sleep(0.5)
    assert statuses == []


def _step_of_0_8_seconds(folder: Path) -> None:
    with Watchdog(folder, minutes=1.2 / 60) as watch:
        watch.at("loads", 1)
        for _ in range(8):
            time.sleep(0.1)
        watch.at("computes", 1)


def test_time_in_which_the_program_was_stopped_is_no_hang(tmp_path: Path) -> None:
    """Ctrl-Z and fg, or a machine that sleeps: longer than the watchdog's patience, in the middle of a step."""
    process = multiprocessing.get_context("fork").Process(target=_step_of_0_8_seconds, args=(tmp_path,))
    process.start()
    end = time.monotonic() + 120
    while not (tmp_path / "processes" / "0.json").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(1.8)
    os.kill(process.pid, signal.SIGCONT)
    process.join(20)
    assert process.exitcode == 0


def write_beat(folder: Path, number: int, **values: object) -> None:
    state = {"process": number, "host": "node7", "pid": 99, "step": 5, "doing": "computes", "videos": [], "beats": 1}
    (folder / "processes").mkdir(exist_ok=True)
    (folder / "processes" / f"{number}.json").write_text(json.dumps(state | values))


@pytest.mark.parametrize(
    ("beat", "expected"),
    [
        ({"doing": "computes"}, "Process 1 (pid 99 on node7) is no longer heard of; it was in step 5 (computes)"),
        (None, "Process 1 has never been heard of"),
    ],
)
def test_a_process_that_waits_accuses_the_one_it_waits_for(
    beat: dict[str, object] | None,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(watchdog, "world_size", lambda: 2)
    monkeypatch.setattr(watchdog.Waiting, "exchanges", 1)
    if beat is not None:
        write_beat(tmp_path, 1, **beat)
    assert hang(tmp_path, doing="computes") == [EXIT_HUNG]
    said = capsys.readouterr().err
    assert expected in said
    assert "Process 0 (pid" not in said, "the one that waits is not to blame"
