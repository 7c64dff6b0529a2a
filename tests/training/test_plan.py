"""The plan before the start, and the batch that fits into memory."""

import json
import mmap
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vicc.data.store import Store
from vicc.device import Precision, available_memory, current_memory, peak_memory, reset_peak_memory
from vicc.errors import ViccError
from vicc.training import plan
from vicc.training.build import build_dataset, untrained_task
from vicc.training.configs import PretrainConfig
from vicc.training.cost import LoadingCost, StageCost, StepCost, measure_loading, measure_step
from vicc.training.engine import Stopped
from vicc.training.plan import describe_costs, most_that_fit, require_loading
from vicc.training.pretrain import pretrain
from vicc.training.stage import Recipe

CPU = torch.device("cpu")


@pytest.mark.parametrize("most", [1, 2, 7, 64])
@pytest.mark.parametrize("limit", [0, 1, 5, 63, 64, 100])
def test_the_most_that_fits_is_found_and_nothing_above_the_most_is_tried(most: int, limit: int) -> None:
    tried = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= limit

    assert most_that_fit(fits, most) == min(most, limit)
    assert max(tried) <= most
    assert len(tried) == len(set(tried))


def test_memory_of_a_process_is_seen_at_its_peak_and_forgotten() -> None:
    reset_peak_memory(CPU)
    before = peak_memory(CPU)
    with mmap.mmap(-1, 200 << 20) as held:
        held.write(bytes(200 << 20))
        assert 190 << 20 < peak_memory(CPU) - before < 450 << 20
        assert current_memory() > 190 << 20
    if Path("/proc/self/clear_refs").exists():
        reset_peak_memory(CPU)
        assert peak_memory(CPU) - before < 100 << 20
    assert 0 < available_memory() < 1 << 50


def test_memory_grows_with_the_batch_in_every_stage_though_freed_memory_is_kept(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    """A second stage would seem to need no memory of its own if what the first one left counted as in use."""
    recipe = tiny_recipe.with_changes(["all.size=64", "all.clip_frames=16"])
    config = PretrainConfig(run=tmp_path / "run", store=tmp_path)
    costs = [measure_step(recipe, stage, Precision("fp32", CPU), config) for stage in (recipe.stages[0],) * 2]
    assert costs[1].bytes_a_video == pytest.approx(costs[0].bytes_a_video, rel=0.5)
    assert costs[0].bytes_a_video > 2 << 20


def test_measuring_leaves_random_numbers_and_run_alone(tiny_recipe: Recipe, tmp_path: Path) -> None:
    config = PretrainConfig(run=tmp_path / "run", store=tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    for stage in tiny_recipe.stages[::2]:
        cost = measure_step(tiny_recipe, stage, Precision("fp32", CPU), config)
        assert 0 < cost.seconds_a_video < 5
        assert cost.peak_bytes(64) >= cost.peak_bytes(4) > 0
        assert cost.checkpoint_bytes > cost.encoder_bytes > 100_000
    assert torch.equal(torch.rand(1), expected)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_time_memory_and_disk_and_writes_nothing(
    tiny_recipe: Recipe, store_path: Path, tmp_path: Path
) -> None:
    config = PretrainConfig(run=tmp_path / "run", store=store_path, dry_run=True)
    stages = pretrain(tiny_recipe, config)
    costs = {stage.name: stage.cost for stage in stages}
    assert all(cost is not None and cost.seconds > 0 and cost.loading_known for cost in costs.values())
    assert not config.run.exists()
    ours = pretrain(tiny_recipe, replace(config, dry_run=False))
    assert all(stage.cost is None for stage in ours)
    folders = (config.run / "rgb-1" / name for name in ("checkpoints", "encoder"))
    written = sum(path.stat().st_size for folder in folders for path in folder.iterdir())
    planned = costs["rgb-1"].disk_bytes  # type: ignore[union-attr]
    assert 0.3 * planned < written < 1.1 * planned  # the best may be the newest, which takes no room of its own
    finished = pretrain(tiny_recipe, config)
    assert all(stage.cost.seconds == 0 for stage in finished)  # type: ignore[union-attr]


def test_what_fits_into_memory_is_decoded_once_and_counted_once(tmp_path: Path) -> None:
    class Clips:
        """A video takes 20 ms when it is first read."""

        stored_streams = ("rgb", "flow")
        videos = [SimpleNamespace(num_frames=1024, height=32, width=32)] * 10  # 5 MiB each

        def __init__(self) -> None:
            self.read: set[int] = set()

        def __len__(self) -> int:
            return len(self.videos)

        def __getitem__(self, key: tuple[int, int]) -> None:
            time.sleep(0.0 if key[1] in self.read else 0.02)
            self.read.add(key[1])

    def measured(cache_mb: int) -> LoadingCost:
        clips: Any = Clips()
        return measure_loading(clips, PretrainConfig(run=tmp_path, store=tmp_path, cache_mb=cache_mb))

    fits, does_not = measured(50), measured(49)
    assert fits.first >= 0.02 > 4 * fits.later
    assert does_not.later == does_not.first >= 0.02
    assert LoadingCost(first=2.0, later=0.5, videos=10).seconds(25) == 10 * 2.0 + 15 * 0.5
    assert LoadingCost(first=2.0, later=0.5, videos=10).seconds(4) == 4 * 2.0


def test_stages_there_is_no_time_for_are_estimated_from_their_like(
    tiny_recipe: Recipe, store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_SECONDS_TO_MEASURE", 0.0)
    measured: list[str] = []

    def measure(recipe: Recipe, stage: Any, *rest: Any) -> StepCost:
        measured.append(stage.name)
        return StepCost(1.0, 100.0, 10.0, 1000, 100)

    monkeypatch.setattr(plan, "measure_step", measure)
    config = PretrainConfig(run=tmp_path / "run", store=store_path, dry_run=True)
    larger = tiny_recipe.stages[2].replace(size=64)
    stages = pretrain(replace(tiny_recipe, stages=(*tiny_recipe.stages[:2], larger)), config)
    assert measured == ["rgb-1"]
    seconds = [stage.cost.seconds for stage in stages]  # type: ignore[union-attr]
    assert seconds[1] == pytest.approx(seconds[0])
    # Four times the pixels, and two more clips without gradient, a third each.
    assert seconds[2] == pytest.approx(4 * (2 + 2 / 3) / 2 * seconds[0], rel=0.05)


@pytest.mark.parametrize("motion", ["flow", "diff"])
@pytest.mark.parametrize("flow_channels", ["uv", "128vu"])
def test_what_loading_needs_is_asked_for_before_the_start_as_the_loader_asks_for_it(
    motion: Any,
    flow_channels: str,
    tiny_recipe: Recipe,
    store_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(plan, "prefetched_batches", lambda workers, batch_bytes: asked.append(batch_bytes))
    recipe = (
        tiny_recipe.with_motion(motion).with_changes([f"all.flow_channels={flow_channels}"]).with_views("2x32+2x16")
    )
    store = Store(store_path)
    for stage in recipe.stages:
        require_loading(recipe, stage, PretrainConfig(run=tmp_path, store=store_path), num_videos=len(store.videos))
        dataset = build_dataset(stage, untrained_task(recipe, stage), store, store.videos, seed=0)
        assert asked.pop() == stage.length.batch_size * dataset.sample_bytes, stage.name


def test_the_lines_of_a_plan_add_up() -> None:
    cost = StageCost(100, 8, 7200.0, 3 << 30, 5_000_000, loading_known=True)
    lines = describe_costs({"rgb-1": cost, "flow-1": replace(cost, seconds=3600.0, memory_bytes=2 << 30)})
    assert lines[0] == "plan: rgb-1: 100 steps of 8 videos, about 2 h, 3.0 GiB of memory, 5.0 MB on disk"
    assert lines[-1] == "plan: all: about 3 h, at most 3.0 GiB of memory a process, 10.0 MB on disk"


def auto(store_path: Path, run: Path, **options: Any) -> PretrainConfig:
    return PretrainConfig(run=run, store=store_path, batch_size="auto", **options)


def test_auto_takes_what_fits_and_a_resume_keeps_it(
    tiny_recipe: Recipe, store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate follows; more memory at the resume changes nothing."""
    recipe = replace(tiny_recipe, stages=tiny_recipe.stages[:1]).with_changes(["all.batch_size=8", "all.steps=3"])
    monkeypatch.setattr(plan, "available_memory", lambda: 5000)  # of it 4000, so four videos
    monkeypatch.setattr(plan, "current_memory", lambda: 0)
    monkeypatch.setattr(plan, "measure_step", lambda *_: StepCost(1.0, 0.0, 1000.0, 1, 1))
    config = auto(store_path, tmp_path / "run")
    with pytest.raises(Stopped):
        pretrain(recipe, config, should_stop=lambda stage, step: step == 1)
    recorded = json.loads((tmp_path / "run" / "recipe.json").read_text())["recipe"]["stages"][0]
    assert recorded["batch_size"] == 4
    assert recorded["learning_rate"] == pytest.approx(recipe.stages[0].schedule.learning_rate / 2**0.5, rel=1e-3)
    monkeypatch.setattr(plan, "available_memory", lambda: 10**9)
    (summary,) = pretrain(recipe, config)
    assert (summary.finished, summary.batch_size) == (True, 4)


def test_auto_and_the_plan_measure_a_stage_once(
    tiny_recipe: Recipe, store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def measure(recipe: Recipe, stage: Any, *rest: Any) -> StepCost:
        measured.append(stage.name)
        return StepCost(1.0, 0.0, 1000.0, 1, 1)

    monkeypatch.setattr(plan, "measure_step", measure)
    stages = pretrain(tiny_recipe, auto(store_path, tmp_path / "run", dry_run=True))
    assert measured == ["rgb-1", "flow-1", "rgb-2", "flow-2"]
    assert all(stage.cost is not None for stage in stages)


def test_auto_says_that_nothing_fits(
    tiny_recipe: Recipe, store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "available_memory", lambda: 0)
    monkeypatch.setattr(plan, "current_memory", lambda: 0)
    with pytest.raises(ViccError, match=r"--batch-size auto: not even one.*rgb-1"):
        pretrain(tiny_recipe, auto(store_path, tmp_path / "run"))


def test_another_batch_size_for_a_run_that_has_begun_is_refused(
    tiny_recipe: Recipe, store_path: Path, tmp_path: Path
) -> None:
    recipe = replace(tiny_recipe, stages=tiny_recipe.stages[:1])
    pretrain(recipe, PretrainConfig(run=tmp_path, store=store_path, batch_size=4, fit_to_data=True))
    with pytest.raises(ViccError, match="batch_size was 4, now 6"):
        pretrain(recipe, PretrainConfig(run=tmp_path, store=store_path, batch_size=6, fit_to_data=True))
    (summary,) = pretrain(recipe, PretrainConfig(run=tmp_path, store=store_path, batch_size=4, fit_to_data=True))
    assert summary.finished


def test_what_set_names_is_not_fitted(tiny_recipe: Recipe, store_path: Path, tmp_path: Path) -> None:
    recipe = replace(tiny_recipe, stages=tiny_recipe.stages[:1])
    config = PretrainConfig(run=tmp_path / "run", store=store_path, fit_to_data=True, set=["rgb-1.num_prototypes=7"])
    pretrain(recipe.with_changes(config.set), config)
    recorded = json.loads((tmp_path / "run" / "recipe.json").read_text())["recipe"]["stages"][0]
    assert recorded["num_prototypes"] == [7]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "--batch-size 0"),
        ({"batch_size": 8, "set": ["all.learning_rate=0.1"]}, "--batch-size 8 and --set all.learning_rate=0.1"),
        ({"accumulate": 0}, "--accumulate 0"),
        ({"compile": True, "checkpoint_activations": True}, "--compile and --checkpoint-activations"),
    ],
)
def test_flags_that_contradict_are_refused_in_their_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ViccError, match=words):
        PretrainConfig(run=Path("run"), store=Path("store"), **options)
