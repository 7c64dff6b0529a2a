"""Each alarm is raised by what it is about, and none by stages that learn."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vicc.recipes import create_recipe
from vicc.training.schedule import StageLength, stage_length
from vicc.training.stage import Stage
from vicc.training.watch import alarms
from vicc.training.watch.alarms import Alarms, Facts, why_not_finite

DEMO_LOGS = Path(__file__).parent / "fixtures" / "demo_logs.json"
"""Columns of the logs of demo runs: RGB-1 stays at ln K, the others learn, one of them only after half of its steps."""


def demo(name: str) -> Stage:
    return next(stage for stage in create_recipe("demo").stages if stage.name == name)


def facts(stage: Stage, *, videos: int = 300, processes: int = 1, workers: int = 0, **values: Any) -> Facts:
    return Facts(stage, stage_length(stage, videos, processes), processes, workers, **values)


def rows(steps: int, row: Callable[[int], dict[str, float]]) -> list[dict[str, float]]:
    usual = {"loss": 3.5, "prototypes_used": 11.0, "effective_rank": 1.6, "waited": 0.02, "seconds": 0.1}
    return [{"step": step, "epoch": step // 18, **usual, **row(step)} for step in range(steps)]


def raised(stage: Stage, log: list[dict[str, float]], **about: Any) -> list[str]:
    judge = Alarms(facts(stage, **about))
    found = judge.start()
    for row in log:
        found += judge.steps([row])
    assert found == judge.said
    return [alarm.name for alarm in found]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("rgb-1", ["loss_at_chance"]), ("flow-1", []), ("flow-1-late", []), ("rgb-2", []), ("flow-2", [])],
)
def test_of_the_demo_only_the_stage_that_does_not_learn_raises_an_alarm(name: str, expected: list[str]) -> None:
    columns = json.loads(DEMO_LOGS.read_text())[name]
    table = zip(*columns.values(), strict=True)
    log = [{"step": step, **dict(zip(columns, row, strict=True))} for step, row in enumerate(table)]
    assert raised(demo(name.removesuffix("-late")), log) == expected


@pytest.mark.parametrize("group", [1, 7, 16, 300])
def test_it_does_not_matter_in_which_portions_rows_come(group: int) -> None:
    log = rows(300, lambda step: {"loss": 3.92, "prototypes_used": 1.0})
    judge = Alarms(facts(demo("flow-1")))
    for start in range(0, 300, group):
        judge.steps(log[start : start + group])
    assert [(alarm.name, alarm.step) for alarm in judge.said] == [("few_prototypes", 50), ("loss_at_chance", 225)]


def test_an_alarm_is_said_once_and_names_its_stage_and_a_flag() -> None:
    judge = Alarms(facts(demo("flow-1")))
    judge.steps(rows(300, lambda step: {"prototypes_used": 1.2}))
    (alarm,) = judge.said
    assert alarm.message.startswith("flow-1: only 1.2 prototypes")
    assert "--set flow-1.learning_rate=0.0015" in alarm.message


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, []),
        ({"loss": 3.911}, ["loss_at_chance"]),
        ({"loss": 4.4}, ["loss_at_chance"]),
        ({"prototypes_used": 2.0}, ["few_prototypes"]),
        ({"prototypes_used": 3.0}, []),
        ({"waited": 0.2}, ["data_starvation"]),
        ({"waited": 0.08}, []),
    ],
)
def test_each_rule_looks_at_its_own_number(row: dict[str, float], expected: list[str]) -> None:
    assert raised(demo("flow-1"), rows(300, lambda step: row)) == expected


def test_a_rank_that_falls_while_the_loss_does_not_is_a_collapse() -> None:
    def falling(step: int) -> dict[str, float]:
        return {"effective_rank": max(1.02, 3 - step / 50), "loss": 3.85}

    assert raised(demo("flow-1"), rows(300, falling)) == ["rank_falls"]
    assert raised(demo("flow-1"), rows(300, lambda step: {**falling(step), "loss": 3.3})) == []


def test_one_long_wait_is_no_starvation_nor_is_a_first_epoch() -> None:
    log = rows(300, lambda step: {"waited": 30.0 if step == 120 else 0.02})
    assert raised(demo("flow-1"), log) == []
    first = rows(300, lambda step: {"waited": 1.0, "epoch": 0})
    assert raised(demo("flow-1"), first) == []


def test_starvation_asks_for_workers_by_the_number_there_are() -> None:
    log = rows(100, lambda step: {"waited": 1.0})
    alone, four = (Alarms(facts(demo("flow-1"), workers=workers)) for workers in (0, 4))
    assert "--workers 1 or more" in alone.steps(log)[0].message
    assert "--workers 8" in four.steps(log)[0].message


def test_a_queue_that_opens_too_late_is_told_at_the_start() -> None:
    default = create_recipe("default").stages[0]
    never = default.replace(queue_from_epoch=100)
    assert raised(never, [], videos=1000) == ["queue_never_fills"]
    late = default.replace(queue_from_epoch=99)  # 62 steps an epoch, and 120 to fill it
    assert raised(late, [], videos=1000) == ["queue_never_fills"]
    assert raised(default, [], videos=1000) == []


def test_a_queue_of_keys_is_open_from_the_start() -> None:
    stage = create_recipe("infonce_ucf101").stages[0]
    short = StageLength(batch_size=4, steps_per_epoch=10, schedule_steps=100, steps=100)
    assert alarms.queue_never_fills(Facts(stage, short, 1, 0)) is not None  # 400 of 2048 keys
    assert alarms.queue_never_fills(Facts(stage, replace(short, batch_size=64), 1, 0)) is None


def test_prototypes_are_counted_in_the_batch_of_one_process() -> None:
    log = rows(300, lambda step: {"prototypes_used": 2.3})
    assert raised(demo("flow-1"), log) == ["few_prototypes"]  # of 16
    assert raised(demo("flow-1"), log, processes=2) == []  # of 8


@pytest.mark.parametrize(("loss", "expected"), [(3.434, ["loss_at_chance"]), (3.3, [])])
def test_a_contrast_alone_is_judged_by_the_keys_it_compares(loss: float, expected: list[str]) -> None:
    """ln 31 = 3.434 for two views of each of 16 videos; nothing is said of prototypes, which it has not."""
    stage = demo("flow-1").replace(swap_weight=0.0, contrast_weight=1.0, queue_length=4096)
    log = rows(300, lambda step: {"loss": loss})
    assert raised(stage, log) == expected
    judge = Alarms(facts(stage))
    judge.steps(log)
    assert all("ln of the keys compared = 3.434" in alarm.message for alarm in judge.said)


@pytest.mark.parametrize(
    ("batch", "queue", "expected"),
    [(4, 0, True), (4, 400, False), (96, 0, False), (16, 40, True)],
)
def test_too_small_a_batch_for_the_prototypes_is_told_at_the_start(batch: int, queue: int, expected: bool) -> None:
    stage = create_recipe("default").stages[0].replace(batch_size=batch, queue_length=queue, queue_from_epoch=0)
    message = alarms.batch_too_small(facts(stage, videos=10_000))
    assert (message is not None) == expected
    if message:
        assert "300 prototypes" in message


@pytest.mark.parametrize("name", ["default", "demo", "vicc_ucf101", "infonce_ucf101", "coclr_ucf101"])
def test_no_published_recipe_is_warned_of_at_its_start(name: str) -> None:
    for stage in create_recipe(name).stages:
        assert Alarms(facts(stage, videos=9537)).start() == []


def test_what_led_to_a_loss_that_is_not_finite_is_told_with_flags_to_try() -> None:
    stage = demo("flow-1")
    calm = rows(300, lambda step: {"gradient_norm": 1.0})
    exploding = [*calm, {**calm[-1], "gradient_norm": 50.0, "loss": 9.0}]
    assert "gradient had grown to 50, 50 times" in why_not_finite(exploding, stage, "bf16")
    assert "--precision fp32" in why_not_finite(exploding, stage, "bf16")
    assert "--precision fp32" not in why_not_finite(calm, stage, "fp32")
    assert "look ordinary" in why_not_finite(calm, stage, "fp32")
    assert "first hundred steps" in why_not_finite([], stage, "fp32")
    assert "--set flow-1.learning_rate=0.0015" in why_not_finite([], stage, "fp32")
