"""A run that was stopped after any step and resumed ends bit-equal to one that ran straight through."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vicc.device import has_native_bf16
from vicc.errors import ViccError
from vicc.training.checkpoint import CheckpointFolder
from vicc.training.configs import PretrainConfig
from vicc.training.engine import Stopped
from vicc.training.pretrain import pretrain
from vicc.training.stage import Recipe
from vicc.training.watch.log import read_log

STAGES = ("rgb-1", "flow-1", "rgb-2", "flow-2")


def same(left: object, right: object) -> bool:
    """Equal to the bit, tensors inside nested containers included."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return isinstance(right, dict) and left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))  # type: ignore[arg-type]
    return left == right


def results(run: Path, names: Sequence[str] = STAGES) -> dict[str, object]:
    """All that a run leaves behind, but for how long steps took."""
    timeless = {name: [{**row, "seconds": 0, "waited": 0} for row in read_log(run / name)] for name in names}
    weights = {name: (run / name / "encoder" / "model.safetensors").read_bytes() for name in names}
    return {"logs": timeless, "weights": weights, **{n: CheckpointFolder(run / n).load_newest() for n in names}}


@pytest.fixture(scope="module")
def recipe_with_queue(tiny_recipe: Recipe) -> Recipe:
    """Both methods, with a queue that fills on the way and prototypes that are frozen at first."""
    stages = [
        stage.replace(steps=6, queue_length=8, queue_from_epoch=0, freeze_prototypes_epochs=1)
        for stage in tiny_recipe.stages
    ]
    return replace(tiny_recipe, stages=tuple(stages))


@pytest.fixture(scope="module")
def straight_run(recipe_with_queue: Recipe, store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `recipe_with_queue` that was never stopped."""
    run = tmp_path_factory.mktemp("straight")
    pretrain(recipe_with_queue, PretrainConfig(store=store_path, run=run))
    return run


@pytest.fixture(scope="module")
def straight(straight_run: Path) -> dict[str, object]:
    return results(straight_run)


def test_the_straight_run_exercises_queue_and_frozen_prototypes(straight: dict[str, object]) -> None:
    for name in STAGES:
        rows = straight[name]["ranks"][0]["task"]["queue"]["rows"]  # type: ignore[index]
        assert rows[:, -1].any()
        assert len(straight["logs"][name]) == 6  # type: ignore[index]


@pytest.mark.parametrize("workers", [0, 1])
def test_stopped_and_resumed_equals_straight(
    recipe_with_queue: Recipe, store_path: Path, tmp_path: Path, straight: dict[str, object], workers: int
) -> None:
    """Each of the four stages is stopped within its first epoch, within its second and at its end, and each time the
    run goes on as a new process would."""
    config = PretrainConfig(store=store_path, run=tmp_path, workers=workers)
    for stopped_at in [(stage, step) for stage in STAGES for step in (1, 4, 6)]:
        with pytest.raises(Stopped):
            pretrain(recipe_with_queue, config, should_stop=lambda stage, step, at=stopped_at: (stage, step) == at)
        torch.manual_seed(999)  # a new process would not have this one's random state
    pretrain(recipe_with_queue, config)
    ours = results(tmp_path)
    for name in straight:
        assert same(ours[name], straight[name]), name


def test_a_crash_after_the_last_checkpoint_repeats_the_lost_steps(
    recipe_with_queue: Recipe, store_path: Path, tmp_path: Path, straight_run: Path
) -> None:
    """Lines of the log that are ahead of the checkpoint, the last one cut short, are written again, not twice."""
    config = PretrainConfig(store=store_path, run=tmp_path, stages=["rgb-1"])
    with pytest.raises(Stopped):
        pretrain(recipe_with_queue, config, should_stop=lambda stage, step: step == 3)
    with (tmp_path / "rgb-1" / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 3, "epoch": 1, "loss": 0.0}) + '\n{"step": 4, "epo')
    pretrain(recipe_with_queue, config)
    assert same(results(tmp_path, ["rgb-1"]), results(straight_run, ["rgb-1"]))


def test_a_finished_run_stays_as_it_is(
    recipe_with_queue: Recipe, store_path: Path, straight_run: Path, tmp_path: Path
) -> None:
    config = PretrainConfig(store=store_path, run=Path(shutil.copytree(straight_run, tmp_path / "run")))
    of_every_start = (".lock", "runs.jsonl", "environment.json")
    paths = [path for path in config.run.rglob("*.*") if path.name not in of_every_start]
    before = {path: path.stat().st_mtime_ns for path in paths}
    stages = pretrain(recipe_with_queue, config)
    assert all(stage.finished for stage in stages)
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize("named", ["seed", "steps"])
def test_other_settings_are_refused_and_named(
    recipe_with_queue: Recipe, store_path: Path, tmp_path: Path, named: str
) -> None:
    with pytest.raises(Stopped):
        pretrain(
            recipe_with_queue, PretrainConfig(store=store_path, run=tmp_path), should_stop=lambda stage, step: True
        )
    recipe = recipe_with_queue.with_changes(["rgb-1.steps=9"]) if named == "steps" else recipe_with_queue
    seed = 7 if named == "seed" else 31
    with pytest.raises(ViccError, match=named):
        pretrain(recipe, PretrainConfig(store=store_path, run=tmp_path, seed=seed))


def test_stages_see_different_clips_and_start_from_each_other(straight: dict[str, object]) -> None:
    losses = [[row["loss"] for row in straight["logs"][name]] for name in STAGES]  # type: ignore[index]
    assert len({tuple(line) for line in losses}) == 4


@pytest.mark.skipif(not has_native_bf16(torch.device("cpu")), reason="this CPU does not compute bf16 natively")
def test_stopped_and_resumed_equals_straight_in_bf16(tiny_recipe: Recipe, store_path: Path, tmp_path: Path) -> None:
    """Clips of 16 frames, since those of 8 are too short for bf16 on a CPU."""
    recipe = tiny_recipe.with_changes(["all.clip_frames=16", "all.steps=3"])
    for name, stop_at in (("straight", 0), ("stopped", 2)):
        config = PretrainConfig(store=store_path, run=tmp_path / name, precision="bf16")
        for stopped_stage in STAGES if stop_at else ():
            with pytest.raises(Stopped):
                pretrain(recipe, config, should_stop=lambda stage, step, s=stopped_stage: (stage, step) == (s, 2))
        pretrain(recipe, config)
    straight, stopped = results(tmp_path / "straight"), results(tmp_path / "stopped")
    for key in straight:
        assert same(stopped[key], straight[key]), key


def test_stopped_and_resumed_equals_straight_with_adam_in_steps_and_an_early_end(
    recipe_with_queue: Recipe, store_path: Path, tmp_path: Path
) -> None:
    """12 videos in batches of 4: the schedule has 12 steps, the stage ends after 6, the rate falls at step 3."""
    stage = recipe_with_queue.stages[0].replace(
        optimizer="adam",
        schedule="step",
        warmup_steps=0,
        steps=None,
        epochs=4,
        stop_epoch=2,
        milestones=(1, 3),
        learning_rate=1e-3,
    )
    recipe = replace(recipe_with_queue, stages=(stage,))
    (summary,) = pretrain(recipe, PretrainConfig(store=store_path, run=tmp_path / "straight"))
    assert (summary.steps, summary.total_steps, summary.schedule_steps) == (6, 6, 12)
    config = PretrainConfig(store=store_path, run=tmp_path / "stopped")
    for stop_at in (2, 5):
        with pytest.raises(Stopped):
            pretrain(recipe, config, should_stop=lambda stage, step, s=stop_at: step == s)
        torch.manual_seed(999)
    pretrain(recipe, config)
    straight = results(tmp_path / "straight", ["rgb-1"])
    assert same(results(tmp_path / "stopped", ["rgb-1"]), straight)
    rates = [row["learning_rate"] for row in straight["logs"]["rgb-1"]]  # type: ignore[index]
    assert rates == pytest.approx([1e-3] * 3 + [1e-4] * 3)


def test_an_early_end_is_a_point_on_the_way_of_the_whole(tiny_recipe: Recipe, store_path: Path, tmp_path: Path) -> None:
    """What the next stage takes after 2 of 3 epochs is what the whole run has there."""
    recipe = replace(tiny_recipe, stages=tiny_recipe.stages[:1])
    early = recipe.with_changes(["rgb-1.epochs=3", "rgb-1.stop_epoch=2"])
    whole = recipe.with_changes(["rgb-1.epochs=3"])
    pretrain(early, PretrainConfig(store=store_path, run=tmp_path / "early"))
    with pytest.raises(Stopped):
        pretrain(
            whole, PretrainConfig(store=store_path, run=tmp_path / "whole"), should_stop=lambda stage, step: step == 6
        )
    assert not (tmp_path / "whole" / "rgb-1" / "encoder").exists()
    states = [CheckpointFolder(tmp_path / name / "rgb-1").load_newest() for name in ("early", "whole")]
    assert states[0]["step"] == 6
    assert same(*({key: value for key, value in state.items() if key != "stage"} for state in states))
    assert (tmp_path / "early" / "rgb-1" / "encoder" / "config.json").exists()


def test_a_baseline_stopped_and_resumed_equals_straight(tiny_recipe: Recipe, store_path: Path, tmp_path: Path) -> None:
    """The key encoder, the queue with its pointer and what it knows of its keys all come back."""
    rgb, flow = (
        stage.replace(method="infonce", queue_length=10, temperature=0.07, steps=4) for stage in tiny_recipe.stages[:2]
    )
    others = (
        rgb.replace(name="rgb-2", method="infonce", start_from="rgb-1"),
        rgb.replace(name="rgb-3", method="ubernce", start_from="rgb-1"),
        rgb.replace(name="rgb-4", method="coclr", start_from="rgb-1", teacher="flow-1", num_mined=2),
    )
    recipe = replace(tiny_recipe, stages=(rgb, flow, *others))
    straight, stopped = (PretrainConfig(store=store_path, run=tmp_path / name) for name in ("straight", "stopped"))
    pretrain(recipe, straight)
    for name in ("rgb-1", "rgb-2", "rgb-3", "rgb-4"):
        with pytest.raises(Stopped):
            pretrain(recipe, stopped, should_stop=lambda stage, step, s=name: (stage, step) == (s, 2))
        torch.manual_seed(999)
    pretrain(recipe, stopped)
    for stage in recipe.stages:
        states = [CheckpointFolder(config.run / stage.name).load_newest() for config in (straight, stopped)]
        assert same(*states), stage.name
        logs = [[row["loss"] for row in read_log(config.run / stage.name)] for config in (straight, stopped)]
        assert logs[0] == logs[1]


def test_a_contrast_with_a_memory_stopped_and_resumed_equals_straight(
    tiny_recipe: Recipe, store_path: Path, tmp_path: Path
) -> None:
    """Both stages of ViCC, beside the swapped prediction and alone; the memory is half full at the stop."""
    contrast = {"contrast_weight": 1.0, "contrast_memory": 30}
    flow = tiny_recipe.stages[1].replace(steps=4, **contrast)
    rgb = tiny_recipe.stages[2].replace(steps=4, start_from=None, swap_weight=0.0, **contrast)
    recipe = replace(tiny_recipe, stages=(flow, rgb))
    straight, stopped = (PretrainConfig(store=store_path, run=tmp_path / name) for name in ("straight", "stopped"))
    pretrain(recipe, straight)
    for name in ("flow-1", "rgb-2"):
        with pytest.raises(Stopped):
            pretrain(recipe, stopped, should_stop=lambda stage, step, s=name: (stage, step) == (s, 2))
        torch.manual_seed(999)
    pretrain(recipe, stopped)
    ours, theirs = (results(config.run, ["flow-1", "rgb-2"]) for config in (stopped, straight))
    assert theirs["rgb-2"]["ranks"][0]["task"]["contrast"]["put"] == 30  # type: ignore[index]
    for name in theirs:
        assert same(ours[name], theirs[name]), name


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_stopped_and_resumed_equals_straight_in_parts_with_activations_computed_again(
    precision: Any, tiny_recipe: Recipe, store_path: Path, tmp_path: Path
) -> None:
    """With fp16 the first steps overflow: the scale of the gradients must come back as well."""
    recipe = replace(tiny_recipe, stages=tiny_recipe.stages[:1]).with_changes(["all.steps=3", "all.num_prototypes=4"])
    straight, stopped = (
        PretrainConfig(
            store=store_path, run=tmp_path / name, accumulate=2, checkpoint_activations=True, precision=precision
        )
        for name in ("straight", "stopped")
    )
    pretrain(recipe, straight)
    with pytest.raises(Stopped):
        pretrain(recipe, stopped, should_stop=lambda stage, step: step == 2)
    torch.manual_seed(999)
    pretrain(recipe, stopped)
    assert same(results(stopped.run, ["rgb-1"]), results(straight.run, ["rgb-1"]))


def test_a_run_from_before_a_field_of_stages_goes_on(tiny_recipe: Recipe, store_path: Path, tmp_path: Path) -> None:
    """A field that came later has a default, and that is what the run was trained with."""
    config = PretrainConfig(store=store_path, run=tmp_path)
    with pytest.raises(Stopped):
        pretrain(tiny_recipe, config, should_stop=lambda stage, step: step == 2)
    path = tmp_path / "recipe.json"
    description = json.loads(path.read_text())
    for stage in description["recipe"]["stages"]:
        del stage["small_views"]
    path.write_text(json.dumps(description))
    with pytest.raises(Stopped):
        pretrain(tiny_recipe, config, should_stop=lambda stage, step: step == 3)
