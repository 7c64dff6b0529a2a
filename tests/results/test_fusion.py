"""Fused streams: what `vicc retrieve` calls R+F, by hand; other videos, splits and classes are named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.evaluation.made_results import CLASSES, PROTOCOL, made_queries
from vicc.cli import main
from vicc.errors import ViccError
from vicc.evaluation.accuracy import classification_row, write_probabilities
from vicc.evaluation.encoders import RowFeatures
from vicc.evaluation.result import Data, Protocol, Queries, Result, read_result, write_result
from vicc.evaluation.retrieve import retrieval_row
from vicc.evaluation.video_values import VideoValues, read_video_values, write_video_values
from vicc.results.configs import FuseConfig
from vicc.results.fusion import fuse, fused_path
from vicc.retrieval import centered

QUERIES = made_queries(24)
GALLERY = {f"train-{number}.mp4": CLASSES[number % 4] for number in range(32)}


def features(labels: list[str], *, seed: int, known: tuple[str, ...]) -> torch.Tensor:
    """Random features that tell only the known classes apart."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(len(labels), 8, generator=generator)
    for place, label in enumerate(labels):
        if label in known:
            found[place, CLASSES.index(label)] += 6
    return found


def retrieval_file(path: Path, *, seed: int, known: tuple[str, ...], queries: Queries = QUERIES) -> str:
    """A result of one row that finds the known classes, with its features beside it."""
    ids = [*queries.ids, *GALLERY]
    values = features([*map(str, queries.labels), *GALLERY.values()], seed=seed, known=known)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = path.with_suffix(".safetensors")
    write_video_values(table, VideoValues(ids, values))
    test, train = (centered(part) for part in values.split((len(queries.ids), len(GALLERY))))
    row = RowFeatures(f"{path.stem}-2", "trained", test, train, {"seed": seed, "stream": path.stem}, str(table))
    data = Data("own", "store", "c0ffee", "f:1", len(GALLERY), len(queries.ids), CLASSES)
    found = [retrieval_row(row, queries, GALLERY)]
    write_result(path, Result(PROTOCOL, data, queries, found, {}, {}, GALLERY))
    return str(path)


def probability_file(path: Path, *, seed: int, known: tuple[str, ...], classes: list[str] = CLASSES) -> str:
    values = features([str(label) for label in QUERIES.labels], seed=seed, known=known)[:, :4].softmax(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    outputs = write_probabilities(path, "row", values, QUERIES, classes)
    row = classification_row(
        f"{path.stem}-2", "trained", values, QUERIES, classes, model={"seed": seed}, outputs=outputs
    )
    data = Data("own", "store", "c0ffee", "f:1", 60, len(QUERIES.ids), classes)
    write_result(path, Result(Protocol("test-sliding", 1, {}), data, QUERIES, [row], {}, {}))
    return str(path)


Pair = Callable[..., list[str]]


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    return [
        retrieval_file(tmp_path / "rgb.json", seed=1, known=("clap", "jump")),
        retrieval_file(tmp_path / "flow.json", seed=2, known=("run", "turn")),
    ]


@pytest.fixture
def probabilities(tmp_path: Path) -> list[str]:
    return [
        probability_file(tmp_path / "rgb.json", seed=1, known=("clap", "jump")),
        probability_file(tmp_path / "flow.json", seed=2, known=("run", "turn")),
    ]


def similarities(path: str, weight: float = 1.0) -> torch.Tensor:
    table = read_video_values(Path(path).with_suffix(".safetensors"))
    test, train = (centered(table.of(ids)) for ids in (QUERIES.ids, list(GALLERY)))
    return weight * test @ train.t()


@pytest.mark.parametrize("weights", [[], [3.0, 1.0]])
def test_fused_retrieval_is_that_of_the_sum_of_similarities(weights: list[float], pair: list[str]) -> None:
    result = fuse(FuseConfig(pair, weights=weights))
    total = sum((similarities(path, weight) for path, weight in zip(pair, weights or [1, 1], strict=True)))
    nearest = torch.as_tensor(total).argmax(1).tolist()
    labels = list(GALLERY.values())
    right = [labels[place] == label for place, label in zip(nearest, QUERIES.labels, strict=True)]
    (row,) = result.rows
    assert (row.name, row.kind) == ("rgb-2 + flow-2", "fused")
    assert row.metrics["R@1"].value == pytest.approx(sum(right) / len(right))
    found = [entry.videos[0] for entry in result.neighbours[row.name]]
    assert found == [list(GALLERY)[place] for place in nearest]
    assert read_result(fused_path(FuseConfig(pair))) == result


def test_two_streams_that_know_other_things_are_better_together(pair: list[str]) -> None:
    alone = [read_result(Path(path)).rows[0].metrics["R@1"].value for path in pair]
    assert fuse(FuseConfig(pair)).rows[0].metrics["R@1"].value > max(alone)


def test_the_same_stream_twice_changes_nothing(pair: list[str]) -> None:
    alone = read_result(Path(pair[0])).rows[0]
    assert fuse(FuseConfig([pair[0]] * 3, name="thrice")).rows[0].ranks == alone.ranks


def test_fused_probabilities_are_the_mean_and_can_be_fused_again(probabilities: list[str]) -> None:
    result = fuse(FuseConfig(probabilities, weights=[1, 3]))
    tables = [read_video_values(Path(path).parent / read_result(Path(path)).rows[0].outputs) for path in probabilities]  # type: ignore[operator]
    (row,) = result.rows
    mean = (tables[0].values + 3 * tables[1].values) / 4
    written = read_video_values(fused_path(FuseConfig(probabilities)).parent / str(row.outputs))
    torch.testing.assert_close(written.values, mean)
    assert row.predicted == mean.argmax(1).tolist()
    assert set(row.metrics) == {"top-1", "mean class accuracy"}


def test_classes_in_another_order_are_matched_by_name_and_other_classes_are_refused(
    probabilities: list[str], tmp_path: Path
) -> None:
    expected = fuse(FuseConfig(probabilities)).rows[0].ranks
    path = Path(probabilities[1])
    result = read_result(path)
    outputs = path.parent / str(result.rows[0].outputs)
    table = read_video_values(outputs)
    write_video_values(outputs, VideoValues(table.ids, table.values.flip(1), {"classes": CLASSES[::-1]}))
    assert fuse(FuseConfig(probabilities)).rows[0].ranks == expected
    write_video_values(outputs, VideoValues(table.ids, table.values, {"classes": [*CLASSES[:3], "swim"]}))
    with pytest.raises(ViccError, match=r"1 only the first result has \(turn\) and 1 only .* has \(swim\)"):
        fuse(FuseConfig(probabilities))


def test_other_queries_are_refused_with_counts_and_names_or_left_out_when_asked(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = retrieval_file(tmp_path / "few.json", seed=3, known=("run",), queries=made_queries(20))
    with pytest.raises(ViccError, match=r"queries differ: 20 are in all results, 4 only .*rgb.json has \(1-20.mp4"):
        fuse(FuseConfig([pair[0], fewer]))
    result = fuse(FuseConfig([pair[0], fewer], intersection=True))
    assert (len(result.queries.ids), result.data.test, result.data.split) == (20, 20, "f:1, intersection")
    assert "evaluated on the 20 queries" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: replace(r, data=replace(r.data, split="f:2")), "split f:1 and f:2"),
        (lambda r: replace(r, data=replace(r.data, content="other")), "fingerprints differ"),
        (
            lambda r: replace(r, protocol=replace(r.protocol, version=2)),
            "retrieval-sliding v1 and retrieval-sliding v2",
        ),
        (lambda r: replace(r, gallery={}), "does not say which videos were searched"),
        (lambda r: replace(r, rows=[replace(r.rows[0], outputs=None)]), "without --no-cache"),
        (lambda r: replace(r, rows=[replace(r.rows[0], outputs="gone.safetensors")]), "no such file"),
        (lambda r: replace(r, rows=[r.rows[0], replace(r.rows[0], name="other")]), r"2 trained rows \(flow-2, other\)"),
        (lambda r: replace(r, gallery={**r.gallery, "new.mp4": "run"}), r"lacks 1 videos .*new\.mp4"),
    ],
)
def test_what_cannot_be_fused_is_named(change: Callable[[Result], Result], words: str, pair: list[str]) -> None:
    write_result(Path(pair[1]), change(read_result(Path(pair[1]))))
    with pytest.raises(ViccError, match=words):
        fuse(FuseConfig(pair))


def test_the_command_prints_a_table_and_refuses_bad_weights(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    out = tmp_path / "out" / "fused.json"
    assert main(["fuse", f"{pair[0]}:rgb-2", f"{pair[1]}:flow-2", "--weights", "1", "2", "--out", str(out)]) == 0
    assert "rgb-2 + flow-2" in " ".join(capsys.readouterr().out.split())
    assert read_result(out).rows[0].model["fusion_weights"] == [1, 2]
    for words in (["--weights", "1"], ["--weights", "1", "-1"], ["--weights", "1", "nan"]):
        assert main(["fuse", *pair, *words]) == 2
    assert main(["fuse", pair[0]]) == 2
