"""The tables of every command lose and break nothing at the widths that terminals, pipes and logs have."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.evaluation.made_results import made_file, made_queries, made_result, made_row
from tests.test_text_table import WIDTHS, lost
from vicc import places
from vicc.cli import compare, learn, main, measure, outcome, prepare, recipes, share, store
from vicc.cli.commands import COMMANDS, Group
from vicc.evaluation.result import read_result, write_result
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.results.runs import RunState, StageState
from vicc.text_table import TextTable
from vicc.training.checkpoint import save_encoder

Show = Callable[..., list[TextTable]]
STAGE = StageState("flow-2-cycle-3", True, 12_345, 67_890, 3.456, 5.704, 0.123, 0.456, None, 1234.0, 27.7, 3)
# Commands whose tables are looked at below, or that print none.
LOOKED_AT = {
    *("check", "prepare", "splits", "store info", "store verify", "pretrain", "finetune", "probe-clips", "recipes"),
    *("retrieve", "knn", "probe", "test", "table", "compare", "fuse", "runs", "import", "bench", "demo"),
}
WITHOUT_TABLES = {"demo-videos", "store merge", "store drop", "store copy", "report", "export"}


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    """Run a command in this process; the tables that it prints."""
    printed: list[TextTable] = []
    for module in (prepare, store, learn, recipes, measure, compare, share, outcome):
        monkeypatch.setattr(module, "print_table", printed.append)
    monkeypatch.setattr(places, "check_places", lambda config: None)  # some places are stood in for

    def run(*arguments: object) -> list[TextTable]:
        printed.clear()
        assert main([str(word) for word in arguments]) in (0, 1)
        assert printed, "a command that prints a table"
        return list(printed)

    return run


def require_whole(tables: list[TextTable]) -> None:
    for table in tables:
        for width in WIDTHS:
            assert lost(table, width) == [], (table.header, width)


def require_next(said: str) -> None:
    """The last line names a command of vicc's."""
    *_, last = said.strip().splitlines()
    assert last.startswith("next: vicc ")
    assert last.split()[2] in COMMANDS


def test_every_command_is_looked_at() -> None:
    names = {
        name if word is None else f"{name} {word}"
        for name, entry in COMMANDS.items()
        for word in (entry.commands if isinstance(entry, Group) else [None])
    }
    assert names == LOOKED_AT | WITHOUT_TABLES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_video: Callable[..., Path]) -> Path:
    """Two videos with names of some length, and a file that is none."""
    place = tmp_path_factory.mktemp("named") / "videos"
    for number, label in enumerate(("ApplyEyeMakeup", "BoxingPunchingBag")):
        write_video(place / label / f"v_{label}_g01_c0{number}.mp4", num_frames=6, seed=number)
    (place / "BoxingPunchingBag" / "no_video.mp4").write_text("no video")
    return place


def test_prepare_check_splits_and_store(show: Show, folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    tables = show("prepare", folder, "--store", store, "--workers", 1, "--flow", "none")
    assert any("no_video.mp4" in str(table.sections) for table in tables), "what was skipped is a table too"
    tables += show("check", folder, "--workers", 1)
    tables += show("splits", store, "--folds", 2)
    tables += show("store", "info", store, "--videos")
    require_whole(tables)


def test_plans_of_trainings(show: Show, store_path: Path, tmp_path: Path, tiny_changes: tuple[str, ...]) -> None:
    words: list[object] = ["--store", store_path, "--run", tmp_path / "run", "--dry-run"]
    require_whole(show("pretrain", "--recipe", "demo", *words, "--set", *tiny_changes))


def test_recipes(show: Show) -> None:
    require_whole([*show("recipes"), *show("recipes", "show", "vicc_ucf101"), *show("recipes", "show", "demo")])


def test_results_alone_side_by_side_and_compared(
    show: Show, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (made_file(tmp_path / f"{n}.json", seed=n, right=0.5 + n / 10) for n in (0, 1))
    for words in (
        ["table", one, other],
        *(["table", one, "--view", view] for view in ("models", "classes", "confusions")),
        ["compare", one, other],
    ):
        require_whole(show(*words))
        require_next(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("shown", "following"),
    [
        (["a.json"], "compare {0}/a.json:Still {0}/a.json:RGB-1"),
        (["a.json:RGB-1"], "table {0}/a.json:RGB-1 --view classes"),
        (["a.json", "b.json"], "compare {0}/a.json {0}/b.json"),
        (["fold-1.json", "fold-2.json"], "table {0}/fold-1.json --view classes"),
        (["run"], "compare {0}/run:Still {0}/run:RGB-1"),
        (["runs"], "runs {0}/runs"),
    ],
)
def test_the_command_after_a_table_is_one_that_can_be_given(
    shown: list[str], following: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Different folds cannot be compared, nor rows of chance, of the literature or of a file beside the result."""
    queries = made_queries()
    rows = [made_row("Still", queries, right=0.3, kind="baseline"), made_row("RGB-1", queries, right=0.6)]
    for name in ("a.json", "b.json", "run/retrieval.json", "runs/one/retrieval.json"):
        write_result(tmp_path / name, made_result(rows, queries))
    fused = replace(made_row("Still + RGB-1", queries, right=0.7, kind="fused"), model={"fused": ["Still", "RGB-1"]})
    write_result(tmp_path / "run" / "fused.json", made_result([fused], queries))
    for fold in (1, 2):
        made_file(tmp_path / f"fold-{fold}.json", fold=fold)
    assert main(["table", *(str(tmp_path / place) for place in shown)]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last == f"next: vicc {following.format(tmp_path)}"
    if not last.startswith("next: vicc runs"):
        assert main(shlex.split(last)[2:]) == 0


@pytest.mark.parametrize("command", ["retrieve", "knn", "probe", "test", "fuse"])
def test_commands_that_measure(
    command: str, show: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = made_queries()
    rows = [made_row("camera-compensated flow magnitude", queries, right=0.4, kind="baseline")]
    rows += [replace(made_row("R+F", queries, right=0.7, kind="fused"), model={"fused": ["CoCLR RGB-2", "Flow-2"]})]
    result = made_result(rows, queries)
    modules = {"fuse": "results.fusion", "retrieve": "evaluation.retrieve", "test": "evaluation.measure_classifiers"}
    function = {"test": "measure_classifiers"}.get(command, command)
    module = f"vicc.{modules.get(command, 'evaluation.classify_features')}"
    monkeypatch.setattr(f"{module}.{function}", lambda config: result)
    words: dict[str, list[object]] = {
        "fuse": [tmp_path / "a.json:x", tmp_path / "b.json:y", "--out", tmp_path / "c.json"],
        "test": ["--classifier", tmp_path, "--store", tmp_path],
    }
    require_whole(show(command, *words.get(command, ["--run", tmp_path, "--store", tmp_path])))
    require_next(capsys.readouterr().out)


def test_runs(show: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunState(
        *("experiments/2026-11-28/vicc_ucf101-seed-0", "vicc_ucf101", "stopped", [STAGE] * 3),
        *({"RGB-2": 0.621, "Flow-2": 0.597}, 4, "bf16", 83.1, {"all.learning_rate": "0.002"}),
    )
    monkeypatch.setattr("vicc.results.runs.compare_runs", lambda config: [run, run])
    require_whole(show("runs", tmp_path))


class Facts(SimpleNamespace):
    """Whatever a report is asked for that is not given is an empty list."""

    def __getattr__(self, name: str) -> list[Any]:
        return []


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    """Have a library function give a made report; what would be its document is nothing."""
    for module in (prepare, store, share):
        monkeypatch.setattr(module, "asdict", lambda report: {})
    return lambda function, report: monkeypatch.setattr(function, lambda *arguments, **options: report)


def test_bench_verify_and_import(show: Show, faked: Callable[[str, Any], None], tmp_path: Path) -> None:
    loading = [
        Facts(streams=["rgb", "flow"], samples_per_second=(1234.5, 1000.1, 2000.2), read=0.1, decode=0.7, augment=0.2)
    ]
    rates = {"clips_per_second_of_a_worker": {1: 20.0}, "flow_frames_per_second": {"dis": 100.0}}
    bench = Facts(loading=loading, bytes_per_frame=5000, videos=2, frames=40, **rates)
    faked("vicc.data.bench.bench_data", bench)
    tables = show("bench", "data", "--store", tmp_path)
    damage = [Facts(shard="shard-00001.mdb", video="train/a/1.mp4", what="its checksum differs")]
    faked("vicc.prepare.verify.verify_store", Facts(damage=damage, store="s", videos=1, bytes=1, decoded_frames=1))
    tables += show("store", "verify", tmp_path)
    found = Facts(file=str(tmp_path / "published.pth.tar"), title="ViCC", backbone="s3d", features=1024, folders={})
    faked("vicc.published.importing.import_published", found)
    (tmp_path / "x.pth").touch()
    tables += show("import", tmp_path / "x.pth", "--out", tmp_path / "out")
    require_whole(tables)


def test_a_result_table_of_80_columns_has_every_metric_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It dropped R@50 and mAP, and wrote "8" and "5.0" in lines of their own."""
    file = made_file(tmp_path / "retrieval.json")
    row = read_result(file).row("RGB-1")
    assert main(["table", str(file)]) == 0
    said = capsys.readouterr().out
    for metric, estimate in row.metrics.items():
        assert f" {metric}" in said
        assert f"{100 * estimate.value:.1f} ({100 * (estimate.low or 0):.1f}–{100 * (estimate.high or 0):.1f})" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--epochs", 10], "times 0.1 from epochs 4, 6, 8, 9"),
        (["--epochs", 2, "--milestones", 1, 200, 400], "times 0.1 from epochs 1"),
        (["--epochs", 500, "--set", "classifier.stop_epoch=2"], "the same in all 2 epochs"),
        (["--epochs", 10, "--set", "classifier.decay=0.5"], "times 0.5 from epochs 4, 6, 8, 9"),
    ],
)
def test_a_plan_of_a_classifier_names_the_epochs_at_which_its_rate_falls(
    words: list[object], told: str, show: Show, store_path: Path, tmp_path: Path
) -> None:
    """It named epoch 400 of 2, and a tenth whatever the decay."""
    save_encoder(tmp_path / "encoder", Encoder(EncoderConfig("rgb", backbone="s3d-demo", clip_frames=4, size=16)))
    given: list[object] = ["--encoder", tmp_path / "encoder", "--store", store_path, "--run", tmp_path / "run"]
    (table,) = tables = show("finetune", *given, "--dry-run", *words)
    require_whole(tables)
    facts = dict(table.sections[0])
    assert told in facts["learning rate"]
