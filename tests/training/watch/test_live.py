import mmap

import pytest

from vicc.progress import duration
from vicc.recipes import create_recipe
from vicc.training.watch import live
from vicc.training.watch.live import Pace, PaceMeter, SlownessMeter, live_note, resident_bytes, step_cost


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (99, "99 s"),
        (120, "2 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (18720, "5 h 12 min"),
        (187200, "2 d 4 h"),
    ],
)
def test_a_duration_is_said_in_the_units_that_fit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_pace_is_that_of_the_last_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    meter = PaceMeter(clips_per_step=8)
    for _ in range(200):  # slow: a step in two seconds, half of it waiting
        clock[0] += 2
        pace = meter.steps([{"waited": 1.0}])
    assert pace.steps_per_second == pytest.approx(0.5)
    assert pace.clips_per_second == pytest.approx(4)
    assert pace.waited == pytest.approx(0.5)
    for _ in range(1000):  # then ten times as fast, without waiting
        clock[0] += 0.2
        pace = meter.steps([{"waited": 0.0}])
    assert pace.clips_per_second == pytest.approx(40)
    assert pace.waited == 0


def test_the_line_says_all_there_is_to_watch() -> None:
    note = live_note(
        {"epoch": 3, "loss": 3.41234}, Pace(2.0, 83.21, 0.12), "1.2 GiB", steps_left=1000, later_steps=6200
    )
    assert note == "epoch 3 loss 3.412, 83.2 clips/s, 12 % waiting, 1.2 GiB, recipe ETA 1 h"
    assert "recipe" not in live_note({"epoch": 3, "loss": 3.4}, Pace(2.0, 83, 0), "1 GiB", steps_left=9, later_steps=0)


def test_memory_grows_with_what_this_process_holds() -> None:
    before = resident_bytes()
    with mmap.mmap(-1, 64 << 20) as held:  # from the kernel: memory that was freed before would not show
        held.write(b"x" * (64 << 20))
        assert resident_bytes() - before > 48 << 20


def test_a_step_across_streams_costs_more_than_one_of_a_single_stream() -> None:
    rgb_1, _, rgb_2, _ = create_recipe("default").stages
    assert step_cost(rgb_2, 16) > step_cost(rgb_1, 16)
    assert step_cost(rgb_1, 32) == 2 * step_cost(rgb_1, 16)


def rows(seconds: float, count: int) -> list[list[dict[str, float]]]:
    return [[{"seconds": 0.9 * seconds, "waited": 0.1 * seconds}]] * count


@pytest.mark.parametrize("planned", [0.5, None])
def test_steps_several_times_slower_than_planned_or_before_are_told_of_with_the_reason(
    planned: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live.os, "getloadavg", lambda: (6.1, 5.0, 4.0))
    monkeypatch.setattr(live, "_cores", lambda: 2)
    meter = SlownessMeter(planned)
    found = [meter.steps(step) for step in [*rows(0.5, 20), *rows(900.0, 1), *rows(0.5, 20)]]
    assert found == [None] * 41, "one long step is a program that was stopped, say"
    slowness = [meter.steps(step) for step in rows(4.0, 20)][-1]
    assert slowness is not None
    assert slowness.note == f"8 x slower than {'planned' if planned else 'before'} (load 6.1 on 2 cores)"
    message = slowness.message(threads=2)
    assert "a step takes 4 s, 8 times what" in message
    assert "load average is 6.1 on 2 cores: other programs compute here" in message
    assert "--threads 1 --allow-elastic" in message
    assert "--threads" not in slowness.message(threads=1), "one thread is the least there is"
    assert meter.steps(rows(0.5, 1)[0]) is not None
    assert [meter.steps(step) for step in rows(0.5, 9)][-1] is None, "it is over"


def test_slow_steps_without_other_programs_are_not_blamed_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.os, "getloadavg", lambda: (1.0, 1.0, 1.0))
    monkeypatch.setattr(live, "_cores", lambda: 2)
    meter = SlownessMeter(0.5)
    slowness = [meter.steps(step) for step in rows(4.0, 20)][-1]
    assert slowness is not None
    assert "other programs are not the reason" in slowness.message(threads=2)


def test_fast_steps_are_never_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few milliseconds are noise, and nobody waits for them."""
    meter = SlownessMeter(0.001)
    assert [meter.steps(step) for step in rows(0.02, 50)] == [None] * 50
