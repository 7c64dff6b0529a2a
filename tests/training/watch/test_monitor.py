"""What a stage's folder holds: the same whether the training was stopped or not."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest

from vicc.results.configs import RunsConfig
from vicc.results.runs import compare_runs
from vicc.training.checkpoint import load_checkpoint
from vicc.training.configs import PretrainConfig
from vicc.training.engine import Stopped
from vicc.training.pretrain import pretrain
from vicc.training.schedule import StageLength
from vicc.training.stage import Recipe, Stage
from vicc.training.watch.alarms import ALARMS_FILE, SLOW_STEPS
from vicc.training.watch.curves import CURVES_FILE
from vicc.training.watch.log import EPOCHS_FILE, read_log
from vicc.training.watch.monitor import Monitor
from vicc.training.watch.record import History
from vicc.training.watch.views import VIEWS_FILE

TIMES = {"waited", "seconds", "clips_per_second", "waited_share"}


def timeless(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def folder_of(run: Path, stage: str = "rgb-1") -> dict[str, Any]:
    """The logs of a stage and what TensorBoard reads, without times."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run / stage
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    alarms = folder / ALARMS_FILE
    return {
        "log": timeless(read_log(folder)),
        "epochs": timeless(read_log(folder, EPOCHS_FILE)),
        "alarms": alarms.read_text() if alarms.exists() else "",
        "tensorboard": {
            name: [(event.step, event.value) for event in events.Scalars(name)]
            for name in events.Tags()["scalars"]
            if name.removeprefix("epoch/") not in TIMES
        },
    }


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Recipe) -> Recipe:
    """Eight steps in epochs of three, with LARC and a queue that opens too late."""
    stage = tiny_recipe.stages[0].replace(
        steps=8, optimizer="larc", learning_rate=0.1, queue_length=8, queue_from_epoch=2
    )
    return replace(tiny_recipe, stages=(stage,))


@pytest.fixture(scope="module")
def straight(recipe: Recipe, store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("straight")
    pretrain(recipe, PretrainConfig(store=store_path, run=run, evaluate_epochs=1))
    return run


def test_every_step_says_all_that_there_is_to_watch(straight: Path) -> None:
    rows = read_log(straight / "rgb-1")
    assert [row["step"] for row in rows] == list(range(8))
    for row in rows:
        assert {"loss", "learning_rate", "prototypes_used", "prototype_entropy", "effective_rank"} <= row.keys()
        assert {"queue_filled", "queue_age", "gradient_norm"} <= row.keys()
        assert 0 < row["ratio_min"] <= row["ratio_median"] <= row["ratio_max"]
        assert 1 <= row["effective_rank"] <= 4.001
    assert [row["queue_filled"] for row in rows] == [0] * 6 + [0.5, 1]
    assert [row["queue_age"] for row in rows] == [0] * 6 + [1, 2]


def test_every_epoch_is_logged_with_its_means_and_its_evaluation(straight: Path) -> None:
    rows, epochs = read_log(straight / "rgb-1"), read_log(straight / "rgb-1", EPOCHS_FILE)
    assert [(row["epoch"], row["step"], row["steps"]) for row in epochs] == [(0, 2, 3), (1, 5, 3), (2, 7, 2)]
    assert epochs[1]["loss"] == pytest.approx(sum(row["loss"] for row in rows[3:6]) / 3)
    assert ["instance_recall" in row for row in epochs] == [
        True,
        False,
        True,
    ]  # the second ends shortly before the last
    assert 0 <= epochs[-1]["label_recall"] <= 1


def test_tensorboard_has_every_step_and_ln_k_beside_the_loss(straight: Path, recipe: Recipe) -> None:
    found = folder_of(straight)
    rows = read_log(straight / "rgb-1")
    assert found["tensorboard"]["loss"] == [(row["step"], pytest.approx(row["loss"])) for row in rows]
    assert [value for _, value in found["tensorboard"]["chance_loss"]] == pytest.approx(
        [recipe.stages[0].settings.chance_loss(4)] * 8
    )
    assert len(found["tensorboard"]["epoch/loss"]) == 3


def test_pictures_are_there_and_can_be_read(straight: Path) -> None:
    for name in (CURVES_FILE, VIEWS_FILE):
        picture = cv2.imread(str(straight / "rgb-1" / name))
        assert picture is not None
        assert picture.std() > 5


def test_a_setting_that_cannot_work_is_an_alarm_from_the_start(straight: Path) -> None:
    (alarm,) = [json.loads(line) for line in (straight / "rgb-1" / ALARMS_FILE).read_text().splitlines()]
    assert (alarm["name"], alarm["step"]) == ("queue_never_fills", 0)


def test_a_run_of_an_earlier_version_goes_on_and_finds_its_best_checkpoint(
    recipe: Recipe, store_path: Path, tmp_path: Path
) -> None:
    """It has written instance retrieval R@1 (same video) as "own_video_recall", and was started with --best so."""
    straight, resumed = (
        PretrainConfig(store=store_path, run=tmp_path / name, evaluate_epochs=1, best=best)  # type: ignore[arg-type]
        for name, best in (("straight", "instance_recall"), ("resumed", "own_video_recall"))
    )
    pretrain(recipe, straight)
    with pytest.raises(Stopped):
        pretrain(recipe, resumed, should_stop=lambda stage, step: step == 6)
    epochs = resumed.run / "rgb-1" / EPOCHS_FILE
    assert epochs.read_text().count('"instance_recall"') == 1
    epochs.write_text(epochs.read_text().replace('"instance_recall"', '"own_video_recall"'))
    pretrain(recipe, resumed)
    assert epochs.read_text().count('"own_video_recall"') == 1, "what was written stays"
    found, expected = (timeless(read_log(config.run / "rgb-1", EPOCHS_FILE)) for config in (resumed, straight))
    assert found == expected
    (run,) = compare_runs(RunsConfig([resumed.run]))
    assert run.stages[0].instance_recall == expected[-1]["instance_recall"]
    best = [load_checkpoint(config.run / "rgb-1" / "checkpoints" / "best.pt") for config in (resumed, straight)]
    assert best[0]["step"] == best[1]["step"]
    assert best[0]["monitor"] == best[1]["monitor"]


@pytest.mark.parametrize("stop_at", [1, 3, 4, 6, 8])
def test_a_stopped_and_resumed_stage_leaves_what_a_straight_one_does(
    recipe: Recipe, store_path: Path, tmp_path: Path, straight: Path, stop_at: int
) -> None:
    config = PretrainConfig(store=store_path, run=tmp_path, evaluate_epochs=1)
    with pytest.raises(Stopped):
        pretrain(recipe, config, should_stop=lambda stage, step: step == stop_at)
    pretrain(recipe, config)
    assert folder_of(tmp_path) == folder_of(straight)


def test_what_was_written_after_the_last_checkpoint_is_written_again(
    recipe: Recipe, store_path: Path, tmp_path: Path, straight: Path
) -> None:
    """As after a power cut at step 8, with the checkpoint of step 6 the newest one."""
    config = PretrainConfig(store=store_path, run=tmp_path, evaluate_epochs=1, keep_checkpoints=9)
    pretrain(recipe, config)
    (tmp_path / "rgb-1" / "checkpoints" / "00000008.pt").unlink()
    (tmp_path / "rgb-1" / "encoder" / "config.json").unlink()
    pretrain(recipe, config)
    assert folder_of(tmp_path) == folder_of(straight)


def test_nothing_is_evaluated_if_that_is_asked_for(recipe: Recipe, store_path: Path, tmp_path: Path) -> None:
    pretrain(recipe, PretrainConfig(store=store_path, run=tmp_path, evaluate_epochs=0, log_to=()))
    assert not any("instance_recall" in row for row in read_log(tmp_path / "rgb-1", EPOCHS_FILE))
    assert not (tmp_path / "rgb-1" / "tensorboard").exists()


@pytest.mark.parametrize(
    ("steps", "period", "expected"),
    [(30, 1, [1, 2, 3]), (30, 2, [3]), (60, 2, [2, 4, 6]), (55, 2, [2, "end"]), (30, 9, [3]), (5, 1, ["end"])],
)
def test_it_evaluates_every_so_many_epochs_and_at_the_end_but_not_shortly_before(
    tiny_recipe: Recipe, steps: int, period: int, expected: list[Any]
) -> None:
    stage: Stage = tiny_recipe.stages[0]
    asked: list[Any] = []
    now: list[Any] = [None]
    monitor = Monitor(
        stage,
        StageLength(4, 10, steps, steps),
        evaluate=lambda: asked.append(now[0]) or {},  # type: ignore[func-returns-value]
        evaluate_epochs=period,
    )
    monitor._sum, monitor._count = 1.0, 1
    for epoch in range(steps // 10):
        now[0] = epoch + 1
        monitor._count = 1
        monitor.epoch(epoch)
    now[0] = "end"
    monitor.finish()
    assert asked == expected


def test_a_long_log_becomes_curves_in_bounded_memory() -> None:
    history = History()
    for step in range(50_000):
        history.add({"step": step, "epoch": 0, "loss": float(step)})
    assert len(history.rows) < 4000
    assert [row["step"] for row in history.rows] == sorted(row["step"] for row in history.rows)
    assert history.rows[-1]["step"] > 49_900
    mean = sum(row["loss"] for row in history.rows) / len(history.rows)
    assert mean == pytest.approx(25_000, rel=0.01)


def test_a_warning_is_not_said_again_after_a_resume(
    recipe: Recipe, store_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = PretrainConfig(store=store_path, run=tmp_path, evaluate_epochs=0)
    with pytest.raises(Stopped):
        pretrain(recipe, config, should_stop=lambda stage, step: step == 4)
    pretrain(recipe, config)
    assert capsys.readouterr().err.count("warning: rgb-1: the queue of 8 rows") == 1


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("instance_recall", [0.2, 0.5, None, 0.4, 0.6], [True, True, False, False, True]),
        ("loss", [0.2, 0.5, None, 0.4, 0.6], [True, False, True, False, True]),
    ],
)
def test_the_best_epoch_is_the_one_asked_for(
    metric: str, values: list[float | None], expected: list[bool], recipe: Recipe
) -> None:
    """Recall is to rise and is not measured at every epoch; the loss, here 3, 4, 2, 5, 1, is to fall."""
    found = iter([{} if value is None else {"instance_recall": value} for value in values])
    monitor = Monitor(recipe.stages[0], StageLength(4, 1, 5, 5), evaluate=lambda: next(found), best_metric=metric)
    improved = []
    for epoch, loss in enumerate((3.0, 4.0, 2.0, 5.0, 1.0)):
        monitor.steps([{"step": epoch, "epoch": epoch, "loss": loss}])
        monitor.epoch(epoch)
        improved.append(monitor.improved)
    assert improved == expected


def test_slow_steps_are_warned_of_once_a_stage_and_kept_with_the_stage(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unlike other alarms this one cannot be found in the log again, so a resume keeps it, and a new start does not."""
    monkeypatch.setattr("vicc.training.watch.live.os.getloadavg", lambda: (9.0, 9.0, 9.0))
    (stage,) = recipe.stages
    stage = stage.replace(queue_length=0)

    def train(first_step: int) -> list[str]:
        monitor = Monitor(stage, StageLength(4, 3, 40, 40), planned_seconds=0.5)
        notes: list[str] = []
        with monitor.open(tmp_path, first_step=first_step, advance=lambda count, note="": notes.append(note)):
            for step in range(first_step, first_step + 20):
                row = {"step": step, "epoch": 0, "loss": 1.0, "waited": 0.0, "seconds": 4.0, "learning_rate": 0.1}
                monitor.steps([row])
        said = [row["name"] for row in read_log(tmp_path, ALARMS_FILE)]
        assert said.count(SLOW_STEPS) == 1
        return notes

    for first_step, warned in ((0, 1), (20, 0), (0, 1)):
        assert "8 x slower than planned (load 9.0 on " in train(first_step)[-1]
        assert capsys.readouterr().err.count("a step takes 4 s") == warned
