"""Two models are compared on the same queries, measured in the same way, or not at all."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.made_results import CLASSES, made_file, made_queries, made_result, made_row
from vicc.cli import main
from vicc.errors import ViccError
from vicc.evaluation.result import Queries, Result, read_result, write_result
from vicc.results.comparison import Comparison, compare
from vicc.results.configs import CompareConfig


def write(path: Path, result: Result) -> str:
    write_result(path, result)
    return str(path)


def with_data(result: Result, **changes: object) -> Result:
    return replace(result, data=replace(result.data, **changes))


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    """Two files of the same queries: A mostly right, B half of the time."""
    return [str(made_file(tmp_path / "a.json", right=0.9)), str(made_file(tmp_path / "b.json", right=0.5, seed=1))]


def run(*models: str, **options: object) -> Comparison:
    return compare(CompareConfig(list(models), **options))  # type: ignore[arg-type]


def test_numbers_are_those_of_the_two_results_and_queries_are_counted_one_by_one(pair: list[str]) -> None:
    found = run(*pair)
    assert [(row.a, row.b) for row in found.rows] == [("RGB-1", "RGB-1")]
    entry = found.rows[0].metrics["R@1"]
    ranks = [np.array(read_result(Path(path)).row("RGB-1").ranks) == 1 for path in pair]
    assert (entry.a, entry.b) == pytest.approx((ranks[0].mean(), ranks[1].mean()))
    assert entry.difference.value == pytest.approx(ranks[0].mean() - ranks[1].mean())
    assert entry.only_a == int((ranks[0] & ~ranks[1]).sum())
    assert entry.only_b == int((ranks[1] & ~ranks[0]).sum())
    assert entry.difference.test == "sign flips of groups", "two queries a group: McNemar would be wrong"
    assert entry.difference.p < 0.05
    assert (found.queries, found.groups) == (40, 20)


def test_baselines_of_an_earlier_version_are_compared_with_those_of_today(tmp_path: Path) -> None:
    queries = made_queries()
    rows = [made_row("camera-compensated flow magnitude", queries, right=0.4, kind="baseline")]
    new = write(tmp_path / "new.json", made_result(rows, queries))
    old = tmp_path / "old.json"
    old.write_text(Path(new).read_text().replace(rows[0].name, "absolute flow, camera removed"))
    assert [(row.a, row.b) for row in run(str(old), new).rows] == [(rows[0].name, rows[0].name)]
    assert len(run(f"{old}:absolute flow, camera removed", f"{new}:{rows[0].name}").rows) == 1


def test_a_model_compared_with_itself_does_not_differ(pair: list[str]) -> None:
    entry = run(pair[0], pair[0]).rows[0].metrics["mAP"]
    assert (entry.difference.value, entry.difference.p, entry.only_a, entry.only_b) == (0, 1, 0, 0)


def test_classes_stand_by_how_much_they_differ_and_hold_all_queries(pair: list[str]) -> None:
    classes = run(*pair).rows[0].classes
    assert sorted(entry.label for entry in classes) == CLASSES
    assert sum(entry.queries for entry in classes) == 40
    differences = [abs(entry.a - entry.b) for entry in classes]
    assert differences == sorted(differences, reverse=True)


def test_folds_are_pooled_and_seeds_averaged_query_by_query(tmp_path: Path) -> None:
    a = [str(made_file(tmp_path / f"a{f}{s}.json", fold=f, seed=s)) for f in (1, 2) for s in (0, 1)]
    b = [str(made_file(tmp_path / f"b{f}.json", fold=f, seed=7)) for f in (1, 2)]
    found = compare(CompareConfig(a=a, b=b))
    assert (found.queries, found.splits) == (80, ["f:1", "f:2"])
    values = [read_result(Path(path)).row("RGB-1").metrics["R@1"].value for path in a]
    assert found.rows[0].metrics["R@1"].a == pytest.approx(np.mean(values))
    with pytest.raises(ViccError, match=r"splits differ: f:1, f:2 of A, f:1 of B"):
        compare(CompareConfig(a=a, b=b[:1]))


def test_wildcards_may_stand_before_a_row_where_no_shell_sees_to_them(tmp_path: Path) -> None:
    files = [made_file(tmp_path / f"fold-{number}" / "retrieval.json", seed=number) for number in (2, 1)]
    found = compare(CompareConfig(a=[f"{tmp_path}/fold-*/retrieval.json:RGB-1"], b=[f"{tmp_path}/fold-*:RGB-1"]))
    assert found.a == found.b == sorted(map(str, files))
    with pytest.raises(ViccError, match=r"fold-9\*"):
        compare(CompareConfig(a=[f"{tmp_path}/fold-9*:RGB-1"], b=[str(files[0])]))


def test_rows_are_chosen_by_name_and_one_that_is_missing_is_named(pair: list[str], tmp_path: Path) -> None:
    queries = made_queries()
    rows = [made_row(name, queries, right=0.5, seed=3) for name in ("RGB-2", "Flow-2")]
    other = write(tmp_path / "run" / "retrieval.json", made_result(rows, queries))
    assert [(row.a, row.b) for row in run(f"{pair[0]}:RGB-1", f"{other}:Flow-2").rows] == [("RGB-1", "Flow-2")]
    assert [row.a for row in run(f"{tmp_path / 'run'}:RGB-2", f"{tmp_path / 'run'}:Flow-2").rows] == ["RGB-2"]
    with pytest.raises(ViccError, match="no row 'RGB-9'; there are: chance, RGB-1"):
        run(f"{pair[0]}:RGB-9", pair[1])
    with pytest.raises(ViccError, match="No row of A has the name of one of B: RGB-1; RGB-2, Flow-2"):
        run(pair[0], other)
    with pytest.raises(ViccError, match=r"has no probe\.json; its results are: retrieval"):
        run(str(tmp_path / "run"), pair[0], kind="probe")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: replace(r, protocol=replace(r.protocol, name="retrieval-published")), "protocol retrieval-sliding"),
        (lambda r: replace(r, protocol=replace(r.protocol, version=2)), "version 1 and 2"),
        (lambda r: replace(r, protocol=replace(r.protocol, settings={})), "window step 15/32 of a clip and not given"),
        (lambda r: with_data(r, content="other"), "fingerprints differ"),
        (lambda r: with_data(r, name="ucf101"), "data own"),
        (lambda r: with_data(r, split="f:2"), "splits differ"),
    ],
)
def test_what_was_measured_in_another_way_is_refused_with_the_difference(
    change: object, words: str, pair: list[str], tmp_path: Path
) -> None:
    changed = change(read_result(Path(pair[1])))  # type: ignore[operator]
    with pytest.raises(ViccError, match=words):
        run(pair[0], write(tmp_path / "changed.json", changed))


def test_other_queries_are_refused_with_their_number_or_left_out_when_asked(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = read_result(Path(pair[1]))
    few = made_queries(30)
    fewer = write(tmp_path / "few.json", made_result([made_row("RGB-1", few, right=0.5)], few))
    with pytest.raises(ViccError, match=r"30 are on both sides, 10 only A has \(1-30.mp4, 1-31.mp4.*--intersection"):
        run(pair[0], fewer)
    found = run(pair[0], fewer, intersection=True)
    assert (found.queries, found.left_out) == (30, 10)
    assert "30 queries that both have" in capsys.readouterr().err
    labels = ["turn", *whole.queries.labels[1:]]
    relabelled = replace(whole, queries=Queries(whole.queries.ids, labels, whole.queries.groups))
    with pytest.raises(ViccError, match="name, label or group: 39"):
        run(pair[0], write(tmp_path / "relabelled.json", relabelled))


def test_models_that_do_the_same_for_every_query_have_no_interval_of_their_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It said 0 with an interval of many points."""
    one = str(made_file(tmp_path / "a.json"))
    assert main(["compare", one, one]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[3:] for line in lines if line[:1] == ["R@1"]] == [["none", "-", "0", "0"]]
    assert main(["compare", one, one, "--json"]) == 0
    difference = json.loads(capsys.readouterr().out)["rows"][0]["metrics"]["R@1"]["difference"]
    assert (difference["value"], difference["low"], difference["high"]) == (0, None, None)
    assert difference["no_interval"] == "both are the same for every query"


def test_the_command_prints_a_table_a_document_and_a_file(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["compare", *pair, "--out", str(tmp_path / "out.json")]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("R@1", "mAP", "only A", "40 queries of 20 groups", "largest differences"))
    assert main(["compare", *pair, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((tmp_path / "out.json").read_text())
    assert main(["compare", pair[0]]) == 2
    assert "expected two models" in capsys.readouterr().err
