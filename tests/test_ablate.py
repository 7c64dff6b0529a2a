"""benchmarks/ablate.py on tiny videos: equal time, folds that keep test videos out of choices, resumes, tables."""

import csv
import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vicc.data.splits import SPLITS_FOLDER, read_split_table
from vicc.errors import ViccError
from vicc.training.stage import Recipe
from vicc.training.watch.log import read_log

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MODULES = ("ablate_variants", "ablate_jobs", "ablate_table", "ablate")
VARIANTS = ("contrast", "contrast+size-64")
pytestmark = pytest.mark.trains


@pytest.fixture(scope="module")
def ablate() -> Iterator[dict[str, ModuleType]]:
    """The scripts, as Python finds them when one of them is run. Runs draw no pictures: half of such short ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        patch.setattr("vicc.training.watch.record.write_curves", lambda *values, **named: None)
        patch.setattr("vicc.training.train_stage.write_views", lambda *values, **named: None)
        yield {name: import_module(name) for name in MODULES}
    for name in MODULES:
        del sys.modules[name]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, write_video: Callable[..., Path]) -> Path:
    """Two directions of motion, eight sources of two clips each."""
    folder = tmp_path_factory.mktemp("ablate") / "videos"
    rows = [("path", "group")]
    for number in range(16):
        label, velocity = (("left", (-2, 0)), ("right", (2, 0)))[number % 2]
        write_video(folder / label / f"{number}.mp4", num_frames=12, size=(32, 40), seed=number, velocity=velocity)
        rows.append((f"{label}/{number}.mp4", f"source-{number // 2}"))
    with (folder / "groups.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def words(videos: Path, out: Path, *more: str) -> list[str]:
    tiny = ["all.size=32", "all.clip_frames=8", "all.batch_size=4", "all.warmup_steps=1"]
    place = ["--data", f"toy={videos}", "--out", str(out), "--folds", "2", "--seeds", "0", "--seconds", "0.6"]
    return [*place, "--variants", *VARIANTS, "--set", *tiny, "--cache-mb", "64", *more]


@pytest.fixture(scope="module")
def measured(ablate: dict[str, ModuleType], videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that there is of two variants, one seed and two folds. Read it only."""
    out = tmp_path_factory.mktemp("measured") / "out"
    assert ablate["ablate"].main(words(videos, out, "--against", "contrast", "--choose")) == 0
    return out


def table(out: Path, name: str = "table") -> dict[str, dict[str, Any]]:
    (found,) = json.loads((out / f"{name}.json").read_text())["tables"]
    return {row["row"]: row for row in found["rows"]}


def test_in_equal_time_the_cheaper_variant_takes_more_steps(measured: Path) -> None:
    rows = table(measured)
    assert rows["contrast"]["steps"]["flow-1"] > 1.5 * rows["contrast+size-64"]["steps"]["flow-1"]
    for variant in VARIANTS:
        lengths = {len(read_log(folder / "flow-1")) for folder in (measured / "toy" / "0.6s").glob(f"{variant}-seed*")}
        assert len(lengths) == 1, "every fold trains as long"


def test_the_table_has_references_ceilings_and_every_video_once(measured: Path) -> None:
    rows = table(measured)
    assert {"chance", "motion histogram", "untrained Flow", "untrained RGB", *VARIANTS} <= rows.keys()
    assert {f"with labels: {stream}" for stream in ("RGB", "Flow", "R+F")} <= rows.keys()
    assert rows["with labels: R+F"]["test"]["runs"] == 2, "what the classifiers themselves say, in two folds"
    assert rows["contrast"]["test"] is None
    assert "difference" not in rows["contrast"]["retrieval"], "a row is not compared with itself"
    for name in ("contrast+size-64", "motion histogram", "with labels: Flow"):
        assert rows[name]["probe"]["difference"]["p"] <= 1
    assert rows["contrast"]["retrieval"]["low"] < rows["contrast"]["retrieval"]["high"]
    text = (measured / "table.md").read_text()
    assert "16 videos of 8 sources" in text
    assert "Differences from contrast" in text
    assert (measured / "table.png").read_bytes().startswith(b"\x89PNG")
    assert "| flow | instance_recall | 4 |" in (measured / "choose.md").read_text()


def test_the_same_command_trains_nothing_twice_and_goes_on_where_it_stopped(
    ablate: dict[str, ModuleType], video_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second job; what is kept of the first is not touched again."""
    jobs, done, real = ablate["ablate"], [], ablate["ablate_jobs"].run_job

    def stops_in_the_second(job: Any, *others: Any) -> None:
        if len(done) == 1:
            raise KeyboardInterrupt
        real(job, *others)
        done.append(job.name)

    command = words(video_folder, tmp_path / "out", "--split", "toy=folders", "--no-ceilings", "--variants", "contrast")
    monkeypatch.setattr(jobs, "run_job", stops_in_the_second)
    assert jobs.main(command) == 130
    monkeypatch.setattr(jobs, "run_job", lambda job, *others: done.append(job.name) or real(job, *others))
    assert jobs.main(command) == 0
    assert done == ["untrained", "contrast"], "each once"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "toy" / "0.6s").rglob("*.json*")}
    assert jobs.main(command) == 0
    assert len(done) == 2
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_inner_folds_never_touch_test_videos_and_choose_what_is_reported(
    ablate: dict[str, ModuleType], video_folder: Path, videos: Path, measured: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [*words(video_folder, out, "--no-ceilings"), "--split", "toy=folders"]
    assert ablate["ablate"].main([*command, "--inner", "2"]) == 0
    inner = read_split_table(out / "toy" / "store" / SPLITS_FOLDER / "inner-2-of-folders.csv").cells
    assert {name.partition("/")[0] for name in inner} == {"train"}
    assert len(inner) == 12
    runs = [*(out / "toy" / "references").iterdir(), *(out / "toy" / "0.6s").iterdir()]
    assert len(runs) == 6, "two variants and the references, two inner folds each"
    for run in runs:
        queries = json.loads((run / "retrieval.json").read_text())["queries"]["ids"]
        trained = {line["id"] for line in csv.DictReader((run / "split.csv").open())}
        assert {*queries} | trained <= inner.keys()
    assert not (out / "table.md").exists(), "nothing is said of test videos"
    assert table(out, "inner-table")["contrast"]["retrieval"]["runs"] == 2

    assert ablate["ablate"].main([*command, "--inner-choice", "2"]) == 0
    row, candidates = table(out)["chosen on 2 inner folds"], table(out)
    best = max(VARIANTS, key=lambda name: table(out, "inner-table")[name]["probe"]["value"])
    assert row["probe"]["value"] == candidates[best]["probe"]["value"]
    assert f"probe top-1, folders: chosen is {best} (" in (out / "table.md").read_text()
    assert ablate["ablate"].main([*words(videos, measured), "--inner-choice", "2"]) == 2, "no inner folds to choose on"


def test_what_was_trained_with_other_values_is_not_taken_for_what_is_asked(
    ablate: dict[str, ModuleType], videos: Path, measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(videos, measured)
    command[command.index("all.size=32")] = "all.size=36"
    assert ablate["ablate"].main(command) == 2
    assert "was trained with other values than untrained has now" in capsys.readouterr().err


def test_the_plan_starts_nothing(
    ablate: dict[str, ModuleType], videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate["ablate"].main(words(videos, tmp_path / "out", "--seconds", "3600", "--plan")) == 0
    assert "| toy | contrast | 2 | 2 | 2.00 | the contrast of views alone, flow |" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("contrats", "Did you mean contrast"),
        ("size-64", "expected one with stages, then changes"),
        ("contrast+swapped", "expected one with stages, then changes"),
        ("swapped+temperature-0.05", "without contrast_weight"),
        ("contrast+prototypes-10", "without swap_weight"),
    ],
)
def test_a_variant_that_is_none_or_would_change_nothing_is_refused(
    ablate: dict[str, ModuleType], name: str, told: str
) -> None:
    with pytest.raises(ViccError, match=told):
        ablate["ablate_variants"].build_recipe(name)


def test_every_variant_can_be_built_and_changes_what_it_stands_behind(ablate: dict[str, ModuleType]) -> None:
    module = ablate["ablate_variants"]
    for name, variant in module.VARIANTS.items():
        if variant.stages:
            recipe, budget = module.build_recipe(name)
            assert 0 < budget <= len(recipe.stages)
        else:
            both = module.build_recipe("both")[0].stages
            assert module.build_recipe(f"both+{name}")[0].stages != both


def test_more_cycles_are_shorter_stages_that_build_on_each_other(ablate: dict[str, ModuleType]) -> None:
    recipe, budget = ablate["ablate_variants"].build_recipe("contrast-cycles-2")
    assert [(s.name, s.start_from, s.teacher) for s in recipe.stages[-2:]] == [
        ("rgb-3", "rgb-2", "flow-2"),
        ("flow-3", "flow-2", "rgb-3"),
    ]
    assert budget == 4
    assert len(recipe.stages) == 6


def test_the_time_of_a_step_is_that_behind_the_first_and_not_of_checkpoints(ablate: dict[str, ModuleType]) -> None:
    """Three epochs of three steps: the first decodes, at 2 s; later ones take 1 s, 9 s more behind the end of one."""
    took = [30, 2, 2, 10, 1, 1, 10, 1, 1]
    times = [sum(took[: step + 1]) for step in range(9)]
    assert ablate["ablate_jobs"]._first_and_later(times) == [2, 1]


def test_a_row_that_took_another_time_than_was_meant_is_named(ablate: dict[str, ModuleType]) -> None:
    def row(name: str, seconds: float, steps: int = 1) -> dict[str, Any]:
        return {"row": name, "group": name, "logged_seconds": seconds, "steps": dict.fromkeys("abcd"[:steps], 9)}

    options = Namespace(steps=None, seconds=25.0, variants=["contrast", "both", "contrast-all"])
    rows = [
        row("contrast", 16),
        row("both", 29),
        row("contrast-all", 100, steps=4),
        {"row": "chance", "group": "chance"},
    ]
    notes = list(ablate["ablate_table"].unequal_times(rows, options))
    assert len(notes) == 1
    assert "contrast took 16 s by the clock where 25 were meant" in notes[0]
    options.steps = 0.5
    assert not list(ablate["ablate_table"].unequal_times(rows, options))


def test_equal_values_share_their_rank(ablate: dict[str, ModuleType]) -> None:
    correlation = ablate["ablate_table"].rank_correlation
    assert correlation([1, 2, 3], [10, 100, 1000]) == pytest.approx(1)
    assert correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert correlation([1, 1, 2], [5, 6, 7]) == pytest.approx(0.866, abs=1e-3)
    assert correlation([1, 1, 1], [5, 6, 7]) is None


def test_equal_steps_are_shares_of_the_demos_and_equal_budgets_are_shared_out(ablate: dict[str, ModuleType]) -> None:
    jobs, asked = ablate["ablate_jobs"], []

    def fitted(name: str, clock: Any, options: Namespace) -> Recipe:
        data = jobs.Data("toy", Path("videos"), Path("out"), None)
        return jobs.recipe_of(jobs.Job(data, name, 0, "folders", Path("run")), clock, options)

    class Clock:
        def steps(self, recipe: Recipe, seconds: float) -> dict[str, int]:
            asked.append((len(recipe.stages), seconds))
            return {stage.name: 7 for stage in recipe.stages}

    stages = fitted("swapped-all", Clock(), Namespace(set=[], steps=0.5, seconds=120)).stages
    assert [stage.length.steps for stage in stages] == [75, 150, 175, 75]
    assert not asked
    for name in ("contrast-all", "contrast-cycles-2", "contrast-cycles-3"):
        assert {s.length.steps for s in fitted(name, Clock(), Namespace(set=[], steps=None, seconds=120)).stages} == {7}
    assert asked == [(4, 120), (6, 80), (8, 60)]
