import json
import math
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vicc.data.frame_pack import FrameEncoder
from vicc.data.records import FileState, SetAside, StoreSettings, Video
from vicc.data.store import Store, StoreWriter
from vicc.errors import ViccError
from vicc.evaluation.result import Data, Estimate, Neighbours, Protocol, Queries, Result, Row, write_result
from vicc.files import write_json
from vicc.recipes import create_recipe
from vicc.results import page as page_module
from vicc.results.configs import ReportConfig
from vicc.results.page import write_report
from vicc.training.stage import Recipe

EVIL_ID, EVIL_LABEL = "<script>alert(1)</script>.mp4", '"><img src="http://evil.example/x.png">'
EVIL_REASON = "<b>not</b> a video"
LABELS = {
    EVIL_ID: EVIL_LABEL,
    "evil-0.mp4": EVIL_LABEL,
    "evil-1.mp4": EVIL_LABEL,
    "wave-0.mp4": "wave",
    "wave-1.mp4": "wave",
    "wave-q.mp4": "wave",
}
NEIGHBOURS = [
    Neighbours(EVIL_ID, ["evil-1.mp4", "wave-0.mp4", "evil-0.mp4", "wave-1.mp4"], [0.111, 0.222, 0.333, 0.444]),
    Neighbours("wave-q.mp4", ["wave-1.mp4", "wave-0.mp4", "evil-0.mp4", "evil-1.mp4"], [0.121, 0.232, 0.343, 0.454]),
]
STAGES = ["RGB-1", "Flow-1", "RGB-2", "Flow-2", "R+F"]


def row(name: str, kind: Any, number: int) -> Row:
    """A row all of whose numbers differ from those of other rows."""
    shares = {k: 0.0101 * number + 0.2003 * place for place, k in enumerate((1, 5, 10, 20), 1)}
    if kind == "chance":
        return Row(name, kind, {f"R@{k}": Estimate(share) for k, share in shares.items()})
    metrics = {f"R@{k}": Estimate(share, share - 0.0307, share + 0.0409) for k, share in shares.items()}
    model = {"fused": ["RGB-2", "Flow-2"]} if kind == "fused" else {}
    return Row(name, kind, metrics, model, ranks=[1, 1], precisions=[0.5, 0.5], predicted=[0, 1])


RESULT = Result(
    protocol=Protocol("retrieval-sliding", 1, {"clip": "16 x 1", "window_step": 8, "gallery": "sliding"}),
    data=Data("own", "store", "c0ffee", "folders", 4, 2, sorted({EVIL_LABEL, "wave"})),
    queries=Queries([EVIL_ID, "wave-q.mp4"], [EVIL_LABEL, "wave"], [EVIL_ID, "wave-q.mp4"]),
    rows=[
        row("chance", "chance", 0),
        row("colour histogram", "baseline", 1),
        row("untrained RGB", "untrained", 2),
        *(row(name, "trained", number) for number, name in enumerate(STAGES[:-1], 3)),
        row("R+F", "fused", 7),
    ],
    neighbours=dict.fromkeys(STAGES, NEIGHBOURS),
    made_with={"precision": "fp32"},
)
ONE_STAGE = replace(
    RESULT, rows=[row("chance", "chance", 0), row("RGB-1", "trained", 3)], neighbours={"RGB-1": NEIGHBOURS}
)
UNLABELLED = replace(
    ONE_STAGE,
    data=replace(RESULT.data, classes=[]),
    queries=replace(RESULT.queries, labels=[None, None]),
    rows=[],
)


def make_store(folder: Path, ids: list[str]) -> Path:
    settings = StoreSettings(short_side=16)
    writer = StoreWriter(folder, settings)
    for number, name in enumerate(ids):
        rng = np.random.default_rng(number)
        frames = rng.integers(0, 256, (5, 16, 24, 3), dtype=np.uint8)
        pack = FrameEncoder("rgb", codec="jpeg", quality=90)
        for frame in frames:
            pack.add(frame)
        video = Video(name, 5, 16, 24, 25.0, FileState(1, 1), label=LABELS[name])
        writer.add(video, {"rgb": pack.to_bytes()})
    writer.put_aside(SetAside("broken.mp4", EVIL_REASON, FileState(1, 1)))
    writer.close()
    return folder


def make_run(folder: Path, result: Result, *, stages: int = 1, steps: int = 6) -> Path:
    recipe = create_recipe("demo", changes=["all.batch_size=4"])
    recipe = Recipe(recipe.name, recipe.description, recipe.stages[:stages])
    write_json(folder / "recipe.json", {"recipe": recipe.to_json(), "seed": 907, "videos": 4, "content": "c0ffee"})
    write_result(folder / "retrieval.json", result)
    started = {
        "time": "2026-01-02T03:04:05+0000",
        "command": ["/some/bin/vicc", "pretrain", "--run", "a b"],
        "vicc": "0",
    }
    (folder / "runs.jsonl").write_text(json.dumps(started) + "\n")
    for stage in recipe.stages:
        (folder / stage.name).mkdir()
        lines = [
            {
                "step": step,
                "epoch": 0,
                "loss": 4.0 - 0.1 * step,
                "prototypes_used": 3.0,
                "prediction_perplexity": 40.0 - step,
                "assignment_perplexity": 30.0 - step,
                "learning_rate": 0.001,
                "seconds": 0.5,
            }
            for step in range(steps)
        ]
        (folder / stage.name / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    text: str = ""

    @property
    def classes(self) -> list[str]:
        return (self.attributes.get("class") or "").split()


@dataclass
class Page(HTMLParser):
    """Every element with all the text inside it, as a browser would see them."""

    html: str
    elements: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.open: list[Element] = []
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"<{tag}> is not closed where it should be"

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data

    def find(self, tag: str, *classes: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag and {*classes} <= {*element.classes}]


def page(folder: Path, result: Result, *, ids: list[str] | None = None, **options: int) -> Page:
    store = make_store(folder / "store", list(LABELS) if ids is None else ids)
    run = make_run(folder / "run", result, **options)
    return Page(write_report(ReportConfig(run=run, store=store)).read_text(encoding="utf-8"))


def test_all_queries_without_labels_are_there_by_page_with_few_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "_QUERIES_A_PAGE", 2)
    monkeypatch.setattr(page_module, "_STILLS", 3)
    ids = list(LABELS)
    queries = [f"q{number}" for number in range(5)]
    entries = [Neighbours(query, ids, [0.1] * len(ids)) for query in queries]
    data = replace(UNLABELLED.data, test=5, train=5)
    result = replace(
        UNLABELLED, data=data, queries=Queries(queries, [None] * 5, queries), neighbours={"RGB-1": entries}
    )
    shown = page(tmp_path, result)
    pages = shown.find("div", "page")
    assert [element.attributes["id"] for element in pages] == ["queries-1", "queries-2", "queries-3"]
    assert all(query in pages[number // 2].text for number, query in enumerate(queries))
    assert "q2" not in pages[0].text
    links = {element.attributes["href"] for element in shown.find("a")}
    assert links == {f"#{element.attributes['id']}" for element in pages}
    style = shown.find("style")[0].text
    assert len(re.findall(r"\.s\d+ \{ background-image", style)) == 3, (
        "a picture for a video, however often it stands there"
    )
    assert "Pictures are of the first 3 videos" in " ".join(shown.html.split())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report of a labelled run with all its stages."""
    return page(tmp_path_factory.mktemp("whole"), RESULT, stages=4)


def test_the_page_says_once_how_its_stages_learn(whole: Page) -> None:
    text = " ".join(whole.html.split())
    assert text.count("sorting every clip into one of K prototypes") == 1
    assert "The share of prototypes used is counted in each batch" in text
    assert "those of the same video" not in text, "that is the contrast term, which these stages have not"


def test_the_page_refers_to_nothing_outside_itself(whole: Page) -> None:
    targets = [
        value or ""
        for element in whole.elements
        for name, value in element.attributes.items()
        if name in ("src", "href")
    ]
    targets += re.findall(r"url\(([^)]*)\)", whole.find("style")[0].text)
    assert len(targets) == 4 + len(LABELS), "one figure for each stage, one animation for each video"
    assert all(target.startswith("data:image/") for target in targets)
    assert not {"script", "link", "iframe", "object", "base"} & {element.tag for element in whole.elements}


def test_names_labels_and_reasons_are_shown_as_text_and_never_as_markup(whole: Page) -> None:
    ids = [element.text for element in whole.find("bdi", "id")]
    labels = [element.text for element in whole.find("bdi", "label")]
    assert EVIL_ID in ids
    assert EVIL_LABEL in labels
    assert EVIL_REASON in [element.text for element in whole.find("td")]
    assert "<script" not in whole.html
    assert EVIL_LABEL not in whole.html


def test_the_table_holds_every_row_and_number_of_the_result(whole: Page) -> None:
    (table,) = [element for element in whole.find("table") if element.attributes.get("id") == "retrieval"]
    for line in RESULT.rows:
        assert line.name in table.text
        for estimate in line.metrics.values():
            assert f"{100 * estimate.value:.1f}" in table.text
            if estimate.low is not None and estimate.high is not None:
                assert f"{100 * estimate.low:.1f} – {100 * estimate.high:.1f}" in table.text


def test_the_headline_says_the_measured_numbers_and_the_best_that_learned_nothing(whole: Page) -> None:
    (headline,) = whole.find("p", "headline")
    best = RESULT.rows[2]
    for line in (RESULT.rows[-1], RESULT.rows[0], best):
        assert f"{100 * line.metrics['R@1'].value:.1f}" in headline.text
    assert best.name in headline.text


def test_marks_and_distances_agree_with_labels_and_result(whole: Page) -> None:
    expected = {
        f"{distance:.3f}": (LABELS[entry.query] == LABELS[name], name)
        for entry in NEIGHBOURS
        for name, distance in zip(entry.videos, entry.distances, strict=True)
    }
    seen = set()
    for tile in whole.find("figure", "tile"):
        for distance, (right, name) in expected.items():
            if distance in tile.text:
                seen.add(distance)
                assert name in tile.text
                assert ("✓" in tile.text, "✗" in tile.text) == (right, not right)
                assert ("right" in tile.classes, "wrong" in tile.classes) == (right, not right)
    assert seen == set(expected)


def test_each_video_is_encoded_once_however_often_it_is_shown(whole: Page) -> None:
    shown = [name for element in whole.find("div", "clip") for name in element.classes if name != "clip"]
    assert len(shown) == 2 * (1 + 4) + 2 * (1 + 4 + 4), (
        "two queries, alone in one grid and before and after in the other"
    )
    assert set(shown) == {f"v{number}" for number in range(len(LABELS))}
    assert whole.html.count("data:image/jpeg") == len(LABELS)


def test_recipe_seed_start_store_and_set_aside_files_are_told(whole: Page) -> None:
    text = whole.find("html")[0].text
    for fact in ("907", "c0ffee", "vicc pretrain --run 'a b'", "short_side 16", "broken.mp4", "augmentation.flow_gain"):
        assert fact in text


def test_curves_have_an_alternative_text_and_each_stage_its_figure(whole: Page) -> None:
    images = whole.find("img")
    assert [image.attributes["alt"].split()[-1] for image in images] == STAGES[:-1]  # type: ignore[union-attr]


def test_a_run_without_labels_has_no_table_and_no_marks(tmp_path: Path) -> None:
    content = page(tmp_path, UNLABELLED)
    assert not [element for element in content.find("table") if element.attributes.get("id") == "retrieval"]
    assert "no labels" in content.find("main")[0].text
    assert not content.find("span", "mark")
    assert not content.find("bdi", "label")
    assert len(content.find("figure", "tile")) == sum(1 + len(entry.videos) for entry in NEIGHBOURS)


def test_a_video_that_the_store_lacks_is_named_and_gets_no_mark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = page(tmp_path, ONE_STAGE, ids=[name for name in LABELS if name != "wave-0.mp4"])
    lacking = [tile for tile in content.find("figure", "tile") if "wave-0.mp4" in tile.text]
    assert len(lacking) == 2
    for tile in lacking:
        assert "not in this store" in tile.text
        assert "✓" not in tile.text
        assert "✗" not in tile.text
    assert "1 of 6 videos of the result are not in" in capsys.readouterr().err


def test_a_stage_without_steps_has_a_note_in_place_of_curves(tmp_path: Path) -> None:
    content = page(tmp_path, ONE_STAGE, steps=0)
    assert not content.find("img")
    assert "No step of this stage has been logged" in content.find("main")[0].text


def test_the_report_replaces_an_older_one_only_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, run = make_store(tmp_path / "store", list(LABELS)), make_run(tmp_path / "run", ONE_STAGE)
    config = ReportConfig(run=run, store=store, out=tmp_path / "out" / "page.html")
    config.out.parent.mkdir()  # type: ignore[union-attr]
    config.out.write_text("older")  # type: ignore[union-attr]
    with monkeypatch.context() as patch:
        patch.setattr("vicc.files.os.fsync", _full_disk)
        with pytest.raises(OSError, match="full"):
            write_report(config)
    assert [(path.name, path.read_text()) for path in (tmp_path / "out").iterdir()] == [("page.html", "older")]
    assert write_report(config) == config.out
    assert "<!DOCTYPE html>" in config.out.read_text()  # type: ignore[union-attr]
    assert not (run / "report.html").exists()


def test_the_same_run_gives_the_same_file_byte_for_byte(tmp_path: Path) -> None:
    store, run = make_store(tmp_path / "store", list(LABELS)), make_run(tmp_path / "run", ONE_STAGE)
    config = ReportConfig(run=run, store=store)
    first = write_report(config).read_bytes()
    assert write_report(config).read_bytes() == first


def _full_disk(descriptor: int) -> None:
    raise OSError("the disk is full")


def test_animations_share_a_budget_and_keep_the_shape_of_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(make_store(tmp_path / "store", ["wave-0.mp4"]))
    (rich,) = page_module._animations(store, store.videos)
    monkeypatch.setattr(page_module, "_ANIMATION_BYTES", 1)
    (poor,) = page_module._animations(store, store.videos)
    assert (rich.width, rich.height) == (144, 96)
    assert len(poor.uri) < 0.6 * len(rich.uri), "without a budget to keep, the quality is higher"


def test_a_long_log_is_drawn_with_few_points() -> None:
    stage = create_recipe("demo").stages[0]
    log = [{"step": step, "loss": 4 + math.sin(step)} for step in range(20_000)]
    assert len(page_module._draw_curves(stage, log, (2.0, 6.0), batch_size=16, processes=1)) < 60_000


def test_queries_are_the_first_of_each_class_in_turn() -> None:
    videos = {
        f"{label}{number}": Video(f"{label}{number}", 5, 8, 8, 25.0, FileState(1, 1), label=label)
        for label in "abc"
        for number in range(2)
    }
    names = sorted(videos)
    assert page_module._choose_queries(names, videos, 4, True) == ["a0", "b0", "c0", "a1"]
    assert page_module._choose_queries(names, videos, 2, True) == ["a0", "b0"]
    assert page_module._choose_queries(names, videos, 3, False) == ["a0", "b0", "c0"]


def test_a_run_that_was_not_measured_is_refused_in_words(tmp_path: Path) -> None:
    store, run = make_store(tmp_path / "store", ["wave-0.mp4"]), make_run(tmp_path / "run", ONE_STAGE)
    (run / "retrieval.json").unlink()
    with pytest.raises(ViccError, match="vicc retrieve"):
        write_report(ReportConfig(run=run, store=store))


def test_a_damaged_list_of_starts_is_refused_with_its_line(tmp_path: Path) -> None:
    store, run = make_store(tmp_path / "store", ["wave-0.mp4"]), make_run(tmp_path / "run", ONE_STAGE)
    (run / "runs.jsonl").write_text('{"command": ["vicc"]}\n{"comm\n')
    with pytest.raises(ViccError, match="Line 2"):
        write_report(ReportConfig(run=run, store=store))


def test_every_class_stands_with_its_share_and_the_confusion_matrix_counts_every_query(tmp_path: Path) -> None:
    wrong = replace(RESULT.row("R+F"), ranks=[1, 3], predicted=[0, 0])
    found = replace(
        RESULT,
        rows=[*RESULT.rows[:-1], wrong],
        neighbours={"R+F": [NEIGHBOURS[0], Neighbours("wave-q.mp4", ["evil-0.mp4"], [0.777])]},
    )
    content = page(tmp_path, found)
    tables = {element.attributes.get("id"): element for element in content.find("table")}
    assert "wave110.0" in "".join((tables["classes"].text or "").split())  # one query of one recording, none right
    cells = [cell for cell in content.find("td", "yes") + content.find("td", "no") if cell.text.strip()]
    assert sorted((cell.classes[0], cell.text) for cell in cells) == [("no", "1"), ("yes", "1")]
    (pair,) = content.find("div", "pair")
    assert "1 of 1 queries" in pair.text
    assert "0.777" in pair.text
    assert EVIL_LABEL in pair.text


def test_without_a_confusion_there_are_no_pairs_and_without_labels_no_classes(whole: Page, tmp_path: Path) -> None:
    assert not whole.find("div", "pair")
    ids = {element.attributes.get("id") for element in page(tmp_path, UNLABELLED).find("table")}
    assert not ids & {"classes", "confusion"}


def test_of_many_classes_the_most_confused_block_is_shown_and_the_rest_counted() -> None:
    queries, labels = [f"q{number}" for number in range(120)], [f"c{number:03d}" for number in range(60)]
    predicted = [place // 2 for place in range(120)]
    predicted[100:110] = [3] * 10  # c050 to c054 are taken for c003
    many = replace(
        RESULT,
        data=replace(RESULT.data, classes=labels),
        queries=Queries(queries, [labels[place // 2] for place in range(120)], queries),
        rows=[Row("R+F", "fused", {}, predicted=predicted)],
    )
    shown = page_module._confusion(many, "R+F")
    assert shown is not None
    assert len(shown.labels) == 25
    assert shown.of == 60
    assert {"c003", *(f"c{number:03d}" for number in range(50, 55))} <= set(shown.labels)
    assert sum(cell.count for line in shown.cells for cell in line) + sum(shown.elsewhere) == 50


def test_classification_of_the_features_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    store, run = make_store(tmp_path / "store", list(LABELS)), make_run(tmp_path / "run", ONE_STAGE)
    measured = Row("RGB-1", "trained", {"top-1": Estimate(0.4321, 0.1, 0.9)})
    write_result(run / "probe.json", replace(ONE_STAGE, protocol=Protocol("probe-features", 1, {}), rows=[measured]))
    content = Page(write_report(ReportConfig(run=run, store=store)).read_text())
    assert "43.2" in content.find("main")[0].text
    assert "A linear classifier" in content.find("main")[0].text
