"""What stands in one column means the same; folds and seeds become one row; every form escapes what it must."""

import json
import random
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.evaluation.made_results import CLASSES, PROTOCOL, made_file, made_queries, made_result, made_row
from vicc.cli import main
from vicc.errors import ViccError
from vicc.evaluation.result import Data, Protocol, Result, read_result, write_result
from vicc.results.classes import confusions
from vicc.results.comparable import Measured, find_results
from vicc.results.configs import TableConfig
from vicc.results.formats import FormattedTable, render
from vicc.results.literature import PUBLISHED
from vicc.results.table import ModelTable, formatted_table, make_table, show_table


def table(*places: Path, **options: object) -> ModelTable:
    return make_table(find_results([str(place) for place in places]), **options)  # type: ignore[arg-type]


def changed(path: Path, **changes: object) -> Path:
    """Write the file anew with parts of its result changed."""
    write_result(path, replace(read_result(path), **changes))
    return path


def with_data(path: Path, **changes: object) -> Path:
    return changed(path, data=replace(read_result(path).data, **changes))


def test_one_result_is_shown_as_it_is(tmp_path: Path) -> None:
    made_file(tmp_path / "run" / "retrieval.json")
    found = table(tmp_path)
    assert list(found.columns) == ["R@1", "R@5", "mAP"]
    assert [(row.name, row.kind) for row in found.rows] == [("chance", "chance"), ("RGB-1", "trained")]
    expected = read_result(tmp_path / "run" / "retrieval.json").row("RGB-1").metrics["R@1"]
    cell = found.rows[1].cells["R@1"]
    assert (cell.value, cell.low, cell.high, cell.spread) == (expected.value, expected.low, expected.high, None)


def test_a_baseline_of_an_earlier_version_stands_in_the_row_of_today(tmp_path: Path) -> None:
    for fold, name in ((1, "mean absolute flow"), (2, "mean flow magnitude")):
        queries = made_queries(fold=fold)
        result = made_result([made_row("row", queries, right=0.5, kind="baseline")], queries, split=f"f:{fold}")
        write_result(tmp_path / f"{fold}.json", result)
        text = (tmp_path / f"{fold}.json").read_text()
        (tmp_path / f"{fold}.json").write_text(text.replace('"name": "row"', f'"name": "{name}"'))
    assert [row.name for row in table(tmp_path).rows] == ["chance", "mean flow magnitude"]


def test_folds_and_seeds_become_one_row_with_mean_spread_and_the_interval_of_all_queries(tmp_path: Path) -> None:
    values = {}
    for seed in (0, 1, 2):
        for fold in (1, 2):
            path = made_file(tmp_path / f"{seed}-{fold}.json", seed=seed, fold=fold)
            values[seed, fold] = read_result(path).row("RGB-1").metrics["R@1"].value
    (row,) = [row for row in table(tmp_path).rows if row.name == "RGB-1"]
    of_seeds = [(values[seed, 1] + values[seed, 2]) / 2 for seed in (0, 1, 2)]
    mean = sum(of_seeds) / 3
    cell = row.cells["R@1"]
    assert (cell.seeds, cell.splits) == (3, 2)
    assert cell.value == pytest.approx(mean)
    assert cell.spread == pytest.approx((sum((value - mean) ** 2 for value in of_seeds) / 2) ** 0.5)
    assert cell.low is not None
    assert cell.high is not None
    assert cell.low < mean < cell.high
    text = render(formatted_table(table(tmp_path)), "text")
    assert "3 x 2" in text
    assert f"{100 * mean:.1f} ± {100 * (cell.spread or 0):.1f}" in text


def test_two_trainings_with_a_row_of_the_same_name_are_two_rows(tmp_path: Path) -> None:
    made_file(tmp_path / "a.json", recipe="vicc", training="1")
    made_file(tmp_path / "b.json", recipe="infonce", training="2", seed=1)
    names = [row.name for row in table(tmp_path).rows]
    assert names == ["chance", "RGB-1 (vicc)", "RGB-1 (infonce)"]


def test_encoders_without_a_known_seed_are_one_row_each_and_not_seeds_of_one(tmp_path: Path) -> None:
    for name in ("x", "y"):
        path = made_file(tmp_path / name / "r.json", right=0.4 if name == "x" else 0.7)
        result = read_result(path)
        row = replace(result.row("RGB-1"), model={"seed": None, "weights": name, "stream": "rgb"})
        changed(path, rows=[row])
    assert [row.counts for row in table(tmp_path).rows] == [[(1, 1)], [(1, 1)]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": Protocol("retrieval-published", 1, {})}, "protocol retrieval-sliding and retrieval-published"),
        ({"protocol": replace(PROTOCOL, version=2)}, "version 1 and 2"),
        ({"protocol": replace(PROTOCOL, settings={**PROTOCOL.settings, "window_step": 8})}, "window step .* and 8"),
        ({"content": "other"}, "fingerprints differ"),
        ({"split": "f:2"}, r"RGB-1 \(.*a\.json\) was measured on the splits f:1, RGB-1 \(.*b\.json\) on f:2"),
    ],
)
def test_what_does_not_mean_the_same_is_refused_or_gets_columns_of_its_own(
    change: dict[str, object], words: str, tmp_path: Path
) -> None:
    made_file(tmp_path / "a.json")
    other = made_file(tmp_path / "b.json", training="another", recipe="another")
    (changed if "protocol" in change else with_data)(other, **change)
    write_result(other, replace(read_result(other), rows=[read_result(other).row("RGB-1")]))
    with pytest.raises(ViccError, match=words):
        table(tmp_path)
    found = table(tmp_path, separate=True)
    assert list(found.columns) == [f"{metric} [{letter}]" for letter in "ab" for metric in ("R@1", "R@5", "mAP")]
    assert [len(row.cells) for row in found.rows if row.kind == "trained"] == [3, 3], "each in one of the two ways"


def test_how_often_was_measured_is_said_for_each_column(tmp_path: Path) -> None:
    for seed in (0, 1):
        for fold in (1, 2):
            made_file(tmp_path / f"{seed}-{fold}.json", seed=seed, fold=fold)
    changed(made_file(tmp_path / "other.json"), protocol=Protocol("retrieval-published", 1, {}))
    formatted = formatted_table(table(tmp_path, separate=True, metrics=["R@1"]))
    assert [line[1] for section in formatted.sections for line in section if line[0] == "RGB-1"] == ["1 x 1, 2 x 2"]


def test_in_columns_of_their_own_what_has_learned_nothing_stands_beside_every_model(tmp_path: Path) -> None:
    for fold in (1, 2):
        made_file(tmp_path / f"both-{fold}.json", fold=fold, training="1", recipe="both")
    made_file(tmp_path / "one.json", fold=1, training="2", recipe="one")
    found = table(tmp_path, separate=True, metrics=["R@1"])
    assert [measurement.splits for measurement in found.measurements] == [["f:1"], ["f:1", "f:2"]]
    assert {row.name: list(row.cells) for row in found.rows} == {
        "chance": ["R@1 [a]", "R@1 [b]"],
        "RGB-1 (both)": ["R@1 [b]"],
        "RGB-1 (one)": ["R@1 [a]"],
    }


def test_kinds_of_measurement_stand_side_by_side_with_a_letter_each(tmp_path: Path) -> None:
    made_file(tmp_path / "retrieval.json")
    changed(made_file(tmp_path / "knn.json"), protocol=Protocol("knn", 1, {"k": 20}))
    found = table(tmp_path, metrics=["R@1"])
    assert list(found.columns) == ["R@1 [a]", "R@1 [b]"]
    assert [row.name for row in found.rows] == ["chance", "RGB-1"], "one model, measured twice"
    assert found.notes[0].startswith("[a] knn v1 (k 20)")


def official(path: Path, protocol: Protocol, name: str = "ucf101", split: str = "official:1") -> Path:
    return with_data(changed(made_file(path), protocol=protocol), name=name, split=split)


PUBLISHED_WAY = replace(PROTOCOL, name="retrieval-published")


def test_published_rows_stand_beside_ours_where_data_and_protocol_are_theirs(tmp_path: Path) -> None:
    found = table(official(tmp_path / "a.json", PUBLISHED_WAY))
    rows = {(row.name, row.source): row for row in found.rows if row.kind == "published"}
    assert rows["ViCC-RGB-2, S3D", "ViCC README"].cells["R@1"].value == pytest.approx(0.621)
    assert rows["CoCLR RGB, S3D", "quoted by MVCGC"].cells["R@5"].value == pytest.approx(0.694)
    assert len(rows) == sum(row.data == "ucf101" and "R@1" in row.metrics for row in PUBLISHED)
    assert "published, ViCC README" in render(formatted_table(found), "markdown")


def test_fine_tuned_classifiers_and_linear_ones_have_their_own_published_rows(tmp_path: Path) -> None:
    for kind, percent in (("fine-tuned", 81.4), ("linear probe", 70.2)):
        path = official(
            tmp_path / "a.json",
            Protocol("test-ten-crop", 1, {"classifier": kind, "window_step": "15/32 of a clip", "square": "224/240"}),
        )
        rows = [replace(row, metrics={"top-1": row.metrics["R@1"]}) for row in read_result(path).rows]
        found = table(changed(path, rows=rows))
        published = {row.name: row.cells["top-1"].value for row in found.rows if row.kind == "published"}
        assert published["CoCLR RGB, S3D"] == pytest.approx(percent / 100)


@pytest.mark.parametrize(
    ("protocol", "name", "split"),
    [
        (PROTOCOL, "ucf101", "official:1"),
        (PUBLISHED_WAY, "own", "official:1"),
        (PUBLISHED_WAY, "ucf101", "official:2"),
        (replace(PUBLISHED_WAY, version=2), "ucf101", "official:1"),
        (replace(PUBLISHED_WAY, settings={**PROTOCOL.settings, "frames": "shuffled"}), "ucf101", "official:1"),
        (replace(PUBLISHED_WAY, settings={**PROTOCOL.settings, "window_step": 8}), "ucf101", "official:1"),
    ],
)
def test_published_rows_are_left_out_where_anything_differs(
    protocol: Protocol, name: str, split: str, tmp_path: Path
) -> None:
    found = table(official(tmp_path / "a.json", protocol, name, split))
    assert not [row for row in found.rows if row.kind == "published"]
    hint = any("retrieve --gallery published" in note for note in found.notes)
    assert hint == (name == "ucf101" and split == "official:1")


def test_the_order_does_not_depend_on_how_files_are_given(tmp_path: Path) -> None:
    a, b = made_file(tmp_path / "a.json", training="1"), made_file(tmp_path / "b.json", training="2")
    assert table(tmp_path) == table(a, b)
    assert table(tmp_path) == table(tmp_path, a), "the same file twice is one result"


EVIL = "a & b_1 50% #x {y} ~^\\ <script>|`*"


def test_names_of_strangers_are_text_in_every_form() -> None:
    formatted = FormattedTable(EVIL, ["", EVIL], [[[EVIL, "1.0 ± 0.5 (0.1–2.0)"]]], [EVIL])
    html = render(formatted, "html")
    assert "<script" not in html
    parsed = HTMLParser()
    texts: list[str] = []
    parsed.handle_data = texts.append  # type: ignore[method-assign]
    parsed.feed(html)
    assert EVIL in texts
    latex = render(formatted, "latex")
    cell = latex.splitlines()[4]
    assert re.search(r"(?<!\\)[#%]", cell) is None
    assert r"\textbackslash{}" in cell
    assert r"1.0 $\pm$ 0.5 (0.1--2.0)" in latex
    assert {r"\toprule", r"\midrule", r"\bottomrule"} <= set(latex.splitlines())
    markdown = render(formatted, "markdown")
    assert "<script" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {3}
    assert EVIL in render(formatted, "text")


def test_classes_and_confusions_of_one_result(tmp_path: Path) -> None:
    path = made_file(tmp_path / "a.json", right=0.5)
    formatted, document = show_table(TableConfig([str(path)], view="classes"))
    result = read_result(path)
    assert [row["label"] for row in document] == result.data.classes
    shares = [row["shares"]["RGB-1"]["value"] * row["queries"] for row in document]
    assert sum(shares) / 40 == pytest.approx(result.row("RGB-1").metrics["R@1"].value)
    assert "jump" in render(formatted, "text")
    found = confusions(result, result.row("RGB-1"))
    assert sum(pair.count for pair in found) == sum(rank > 1 for rank in result.row("RGB-1").ranks or [])
    assert found[0].count == max(pair.count for pair in found)
    formatted, _ = show_table(TableConfig([f"{path}:RGB-1"], view="confusions"))
    assert len(formatted.sections[0]) == len(found)


def test_the_document_has_all_that_the_text_shows(tmp_path: Path) -> None:
    path = made_file(tmp_path / "a.json", right=0.5)
    formatted, document = show_table(TableConfig([str(path)]))
    assert document["measurements"][0]["data"]["classes"] == CLASSES
    assert list(document["columns"]) == list(formatted.header)[1:]
    assert document["notes"] == list(formatted.notes)
    assert [row["name"] for row in document["rows"]] == [row[0] for rows in formatted.sections for row in rows]
    formatted, document = show_table(TableConfig([str(path)], view="classes"))
    assert {(row["metric"], row["protocol"]) for row in document} == {("R@1", PROTOCOL.title)}
    formatted, document = show_table(TableConfig([f"{path}:RGB-1"], view="confusions"))
    assert [f"{100 * pair['share']:.1f}" for pair in document["RGB-1"]] == [row[4] for row in formatted.sections[0]]


def test_what_says_nothing_is_named_and_intervals_of_two_groups_are_not_given(tmp_path: Path) -> None:
    queries = made_queries(4, group_size=2)
    result = made_result([made_row("RGB-1", queries, right=0.5)], queries)
    path = tmp_path / "a.json"
    write_result(path, replace(result, not_measured={"R@50": "any order of the 60 searched videos reaches 100 %"}))
    found = table(path)
    cells = next(row.cells for row in found.rows if row.name == "RGB-1")
    assert {(cell.low, cell.high) for cell in cells.values()} == {(None, None)}
    said = "\n".join(found.notes)
    assert "R@50 is not shown, since any order of the 60 searched videos reaches 100 %." in said
    assert "fewer than 3 groups" in said
    assert "One of the 4 queries of a split is 25.0 points." in said


def test_a_place_without_results_and_a_file_that_is_none_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.json").write_text('{"recipe": 1}')
    with pytest.raises(ViccError, match="no result in"):
        table(tmp_path)
    with pytest.raises(ViccError, match="cannot be understood"):
        table(tmp_path / "other.json")
    with pytest.raises(ViccError, match="no such file"):
        table(tmp_path / "nowhere.json")
    queries = made_queries(2)
    write_result(tmp_path / "unlabelled" / "retrieval.json", replace(made_result([], queries), rows=[]))
    with pytest.raises(ViccError, match=r"no result in .*unlabelled \(all are left out\)"):
        table(tmp_path / "unlabelled")
    assert "its videos have no labels" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "unlabelled")
    made_file(tmp_path / "good.json")
    (tmp_path / "old.json").write_text('{"vicc_result": 0}')
    assert len(table(tmp_path).rows) == 2
    assert "left out" in capsys.readouterr().err
    with pytest.raises(ViccError, match="version 0"):
        table(tmp_path / "old.json")
    with pytest.raises(ViccError, match="No result has the metrics top-9; they have: R@1"):
        table(tmp_path / "good.json", metrics=["top-9"])


def damaged(text: str, seed: int) -> str:
    chosen = random.Random(seed)
    place = chosen.randrange(len(text))
    kind = seed % 3
    if kind == 0:
        return text[:place]
    if kind == 1:
        return text[:place] + chosen.choice('{}[],:"\\0x') + text[place + 1 :]
    number = chosen.choice(list(re.finditer(r"\d+(\.\d+)?", text)))
    return text[: number.start()] + chosen.choice(["NaN", "-5", "1e999", "null", '"7"', "[]"]) + text[number.end() :]


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_result_is_read_as_what_it_says_or_refused_in_words(seed: int, tmp_path: Path) -> None:
    path = made_file(tmp_path / "a.json")
    path.write_text(damaged(path.read_text(), seed))
    said = ""
    try:
        said = render(formatted_table(table(path)), "text")
    except ViccError as error:
        said = str(error)
    assert "R@1" in said or str(path) in said


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, '{"vicc_result": 1}', "\x00\xff"])
def test_a_file_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ViccError, match=r"a\.json"):
        table(tmp_path / "a.json")


def test_a_row_whose_values_do_not_fit_its_queries_is_refused(tmp_path: Path) -> None:
    queries = made_queries()
    row = made_row("RGB-1", queries, right=0.5)
    for wrong in (replace(row, ranks=[1]), replace(row, predicted=[9] * 40), replace(row, precisions=[2.0] * 40)):
        write_result(tmp_path / "a.json", made_result([wrong], queries))
        with pytest.raises(ViccError, match="cannot be understood"):
            read_result(tmp_path / "a.json")


def test_a_result_without_labels_is_left_out(tmp_path: Path) -> None:
    made_file(tmp_path / "a.json")
    data = Data("own", "store", "x", "undivided", 5, 5, [])
    empty = Result(PROTOCOL, data, made_queries(5), [], {}, {})
    write_result(tmp_path / "b.json", empty)
    assert [one.path.name for one in find_results([str(tmp_path)])] == ["a.json"]
    assert make_table([Measured(tmp_path / "a.json", read_result(tmp_path / "a.json"))]).rows


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "html"])
def test_the_command_writes_and_prints_every_form(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = str(made_file(tmp_path / "a.json")), tmp_path / "table.out"
    assert main(["table", path, "--format", form]) == 0
    said = capsys.readouterr().out
    assert "RGB-1" in said
    assert main(["table", path, "--format", form, "--out", str(out)]) == 0
    assert "RGB-1" in out.read_text()
    assert main(["table", path, "--json"]) == 0
    assert "columns" in json.loads(capsys.readouterr().out.split("\n", 1)[1])
