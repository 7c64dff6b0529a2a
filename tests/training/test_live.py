import mmap

import pytest

from vicc.progress import duration
from vicc.recipes import create_recipe
from vicc.training import live
from vicc.training.live import Pace, PaceMeter, live_note, resident_bytes, step_cost


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
