"""Learning rates against plain formulas, and how many steps a stage is."""

import math
from typing import Any

import pytest

from vicc.errors import ViccError
from vicc.recipes import create_recipe
from vicc.training.schedule import (
    StageLength,
    cosine_learning_rate,
    stage_learning_rate,
    stage_length,
    step_learning_rate,
)
from vicc.training.stage import Stage


def make_stage(**values: Any) -> Stage:
    return Stage("rgb-1", "single_stream", "rgb", **{"batch_size": 4, "epochs": 10, **values})


def test_step_falls_at_the_first_step_of_each_milestone_epoch_and_nowhere_else() -> None:
    given = {"steps_per_epoch": 3, "base": 1.0, "milestones": (2, 4), "decay": 0.5}
    assert [step_learning_rate(step, **given) for step in range(15)] == [1.0] * 6 + [0.5] * 6 + [0.25] * 3


@pytest.mark.parametrize("step", [0, 1, 7, 123, 499])
def test_cosine_is_half_a_cosine(step: int) -> None:
    formula = 0.0006 + (0.6 - 0.0006) * math.cos(math.pi * step / 500 / 2) ** 2
    assert cosine_learning_rate(step, total_steps=500, base=0.6, final=0.0006) == pytest.approx(formula)


def test_a_stage_that_stops_early_follows_the_whole_schedule() -> None:
    length = stage_length(make_stage(stop_epoch=6), num_videos=14)
    assert length == StageLength(batch_size=4, steps_per_epoch=3, schedule_steps=30, steps=18)
    early, whole = (
        stage_learning_rate(stage, stage_length(stage, 14)) for stage in (make_stage(stop_epoch=6), make_stage())
    )
    assert [early(step) for step in range(18)] == [whole(step) for step in range(18)]


def test_fewer_videos_than_a_batch_make_one_step_an_epoch() -> None:
    assert stage_length(make_stage(batch_size=192), num_videos=12) == StageLength(12, 1, 10, 10)


def test_a_budget_in_steps_is_taken_as_it_is() -> None:
    assert stage_length(make_stage(epochs=None, steps=7), num_videos=14) == StageLength(4, 3, 7, 7)


# UCF101 split 1 has 9,537 training videos: 49 batches of 192, 99 of 96, 149 of 64.
@pytest.mark.parametrize(
    ("recipe", "stage_name", "step", "published"),
    [
        ("vicc_ucf101", "rgb-1", 0, 0.6),
        ("vicc_ucf101", "rgb-1", 49 * 250, 0.3003),  # halfway of 500 epochs
        ("vicc_ucf101", "flow-1", 49 * 300, 0.0006 + 0.2997 * (1 + math.cos(0.6 * math.pi))),  # where it stops
        ("vicc_ucf101", "flow-2", 99 * 50, 0.3003),
        ("coclr_ucf101", "rgb-1", 149 * 250 - 1, 1e-3),
        ("coclr_ucf101", "rgb-1", 149 * 250, 1e-4),
        ("coclr_ucf101", "flow-1", 149 * 280, 1e-5),
        ("coclr_ucf101", "rgb-2", 149 * 80 - 1, 1e-3),
        ("coclr_ucf101", "rgb-2", 149 * 80, 1e-4),
    ],
)
def test_learning_rates_of_the_published_runs(recipe: str, stage_name: str, step: int, published: float) -> None:
    stage = next(stage for stage in create_recipe(recipe).stages if stage.name == stage_name)
    assert stage_learning_rate(stage, stage_length(stage, 9537))(step) == pytest.approx(published)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"epochs": None, "steps": 9, "stop_epoch": 2}, "stop_epoch=2 ends a schedule of epochs"),
        ({"stop_epoch": 11}, "stop_epoch=11 lies beyond"),
        ({"stop_epoch": 0}, "stop_epoch is 0"),
        ({"milestones": (5,)}, "milestones=.* belong to schedule=step"),
        ({"schedule": "step", "warmup_steps": 3}, "warmup_steps=3 belong to schedule=cosine"),
        ({"schedule": "step", "milestones": (8, 4)}, "rising order"),
        ({"schedule": "step", "milestones": (4, 4)}, "rising order"),
        ({"schedule": "step", "milestones": (0, 4)}, "from 1"),
        ({"schedule": "step", "decay": -0.1}, "decay is -0.1"),
    ],
    ids=str,
)
def test_contradictions_of_a_schedule_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ViccError, match=sentence):
        make_stage(**values)


def test_stopping_with_the_schedule_is_no_contradiction() -> None:
    assert stage_length(make_stage(stop_epoch=10), 14) == stage_length(make_stage(), 14)
