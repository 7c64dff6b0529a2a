"""`vicc knn` and `vicc probe`: their solvers against plain references, and the commands on a tiny run."""

import math
import shutil
from pathlib import Path

import pytest
import torch

from tests.processes import finish, start
from vicc.errors import ViccError
from vicc.evaluation.accuracy import classification_row
from vicc.evaluation.classify_features import knn, probe
from vicc.evaluation.configs import KnnConfig, ProbeConfig
from vicc.evaluation.result import Queries, Row, read_result
from vicc.evaluation.solvers import nearest_vote, ridge_classifier, sgd_classifier
from vicc.evaluation.video_values import read_video_values


def clusters(
    per_class: int, *, classes: int = 4, noise: float = 0.3, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(per_class)
    centers = 3 * torch.eye(classes, 12)[labels] + 1
    return centers + noise * torch.randn(len(labels), 12, generator=generator), labels


def test_the_vote_equals_a_plain_reference() -> None:
    train, labels = clusters(6, noise=2)
    test, _ = clusters(3, noise=2, seed=1)
    ours = nearest_vote(train, labels, test, 4, k=5, temperature=0.2)
    mean = train.mean(0)
    for row, query in zip(ours, test - mean, strict=True):
        cosines = [float(query @ other / (query.norm() * other.norm())) for other in train - mean]
        nearest = sorted(range(len(train)), key=lambda place: -cosines[place])[:5]
        votes = [sum(math.exp(cosines[place] / 0.2) for place in nearest if labels[place] == c) for c in range(4)]
        torch.testing.assert_close(row, torch.tensor(votes, dtype=torch.float64) / sum(votes), rtol=1e-4, atol=1e-6)


def row_of(probabilities: torch.Tensor, labels: list[str], classes: list[str]) -> Row:
    queries = Queries([str(n) for n in range(len(labels))], list(labels), [str(n) for n in range(len(labels))])
    return classification_row("row", "trained", probabilities.double(), queries, classes, model={})


def test_only_classes_with_a_vote_can_be_hits_so_that_one_neighbour_makes_top_5_top_1() -> None:
    train, labels = clusters(6, classes=9, noise=2)
    test, truth = clusters(3, classes=9, noise=2, seed=1)
    classes = list("abcdefghi")
    for k in (1, 2, 5):
        votes = nearest_vote(train, labels, test, 9, k=k, temperature=0.07)
        row = row_of(votes, [classes[n] for n in truth], classes)
        voted = votes.gather(1, truth[:, None])[:, 0] > 0
        assert [rank <= 5 for rank in row.ranks or []] == voted.tolist(), "at most five classes have a vote"
        assert (row.metrics["top-1"] == row.metrics["top-5"]) == (k == 1)


def test_how_classes_are_called_changes_no_number_of_the_vote() -> None:
    train, labels = clusters(6, classes=9, noise=2)
    test, truth = clusters(3, classes=9, noise=2, seed=1)
    other = torch.arange(9).flip(0)  # the last class is called as the first one was
    votes = nearest_vote(train, labels, test, 9, k=3, temperature=0.07)
    renamed = nearest_vote(train, other[labels], test, 9, k=3, temperature=0.07)
    rows = [
        row_of(found, [list("abcdefghi")[n] for n in names], list("abcdefghi"))
        for found, names in ((votes, truth), (renamed, other[truth]))
    ]
    assert rows[0].metrics == rows[1].metrics


def test_a_vote_that_is_too_small_for_a_number_still_is_a_vote() -> None:
    train, labels = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [0.0, -1.0]]), torch.tensor([0, 1, 2])
    votes = nearest_vote(train, labels, train[:1], 4, k=3, temperature=1e-4)
    assert (votes[0] > 0).tolist() == [True, True, True, False]


def test_a_score_below_zero_is_a_score() -> None:
    """The closed form's may be; a class with 0 then is not the last."""
    row = row_of(torch.tensor([[0.9, 0.0, -0.1, -0.2, -0.3, -0.3, -0.4]]), ["b"], list("abcdefg"))
    assert row.ranks == [2]


@pytest.mark.parametrize("dims", [5, 60])
def test_ridge_equals_the_normal_equations_whichever_side_is_smaller(dims: int) -> None:
    generator = torch.Generator().manual_seed(0)
    train = torch.nn.functional.normalize(torch.randn(30, dims, generator=generator).double(), dim=1)
    labels = torch.arange(30) % 3
    ours = ridge_classifier(train, labels, train[:4], 3, folds=[0, 1] * 15)
    assert torch.allclose(ours.sum(1), torch.ones(4, dtype=torch.float64))
    x = train - train.mean(0)
    targets = torch.nn.functional.one_hot(labels, 3).double()
    y = targets - targets.mean(0)
    unit = x.square().sum() / dims
    candidates = [
        torch.linalg.solve(x.t() @ x + 10.0**power * unit * torch.eye(dims).double(), x.t() @ y)
        for power in range(-5, 4)
    ]
    plain = [x[:4] @ weights + targets.mean(0) for weights in candidates]
    assert any(torch.allclose(ours, one, atol=1e-8) for one in plain)


@pytest.mark.parametrize("solve", [sgd_classifier, ridge_classifier])
def test_solvers_tell_apart_what_is_apart_and_repeat_themselves(solve: object) -> None:
    train, labels = clusters(20)
    test, expected = clusters(5, seed=1)
    options = {"folds": [number % 4 for number in range(len(train))]} if solve is ridge_classifier else {}
    scores = solve(train, labels, test, 4, **options)  # type: ignore[operator]
    assert torch.equal(scores.argmax(1), expected)
    assert torch.equal(scores, solve(train, labels, test, 4, **options))  # type: ignore[operator]


def test_sgd_takes_a_single_video() -> None:
    train, labels = clusters(1, classes=1)
    assert sgd_classifier(train, labels, train, 1).tolist() == [[1.0]]


@pytest.fixture(scope="module")
def run(finished_run_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(finished_run_path, tmp_path_factory.mktemp("copy") / "run"))


def test_rows_agree_with_the_probabilities_that_are_kept(run: Path, store_path: Path) -> None:
    result = knn(KnnConfig(run=run, store=store_path, k=3))
    assert read_result(run / "knn.json") == result
    assert [row.name for row in result.rows][-5:] == ["RGB-1", "Flow-1", "RGB-2", "Flow-2", "R+F"]
    assert list(result.rows[0].metrics) == ["top-1", "mean class accuracy"], "three classes: top-5 says nothing"
    tables = {}
    for row in result.rows[-5:]:
        assert row.outputs is not None
        tables[row.name] = read_video_values(run / row.outputs)
        probabilities = tables[row.name].of(result.queries.ids)
        classes = tables[row.name].facts["classes"]
        predicted = [classes[place] for place in probabilities.argmax(1).tolist()]
        right = [one == other for one, other in zip(predicted, result.queries.labels, strict=True)]
        assert row.metrics["top-1"].value == pytest.approx(sum(right) / len(right))
        assert [classes[place] for place in row.predicted or []] == predicted
    mean = (tables["RGB-2"].values + tables["Flow-2"].values) / 2
    torch.testing.assert_close(tables["R+F"].values, mean)


def test_fewer_labels_and_the_closed_form_have_files_and_protocols_of_their_own(run: Path, store_path: Path) -> None:
    whole = probe(ProbeConfig(run=run, store=store_path, baselines=False))
    few = probe(ProbeConfig(run=run, store=store_path, baselines=False, label_share=0.5, solver="closed-form"))
    assert (whole.data.train, few.data.train) == (12, 6)
    assert few.protocol.settings["label_share"] == 0.5
    assert {"probe.json", "probe-closed-form-50-percent-seed-0.json"} <= {path.name for path in run.iterdir()}


def test_nothing_without_labels(run: Path, unlabelled_store_path: Path) -> None:
    with pytest.raises(ViccError, match="have no label; expected at least two classes"):
        knn(KnnConfig(run=run, store=unlabelled_store_path))


def test_two_processes_measure_what_one_does(run: Path, store_path: Path, tmp_path: Path) -> None:
    """Features are shared between them and computed from nothing, as there is no cache."""
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    words = ["retrieve", "--run", run, "--store", store_path, "--no-cache", "--no-baselines", "--out"]
    started = [start([*words, one], 1), start([*words, two], 2)]
    for processes in started:
        for status, said in finish(processes):
            assert status == 0, said
    first, second = read_result(one), read_result(two)
    assert [row.name for row in first.rows] == [row.name for row in second.rows]
    for ours, theirs in zip(first.rows, second.rows, strict=True):
        assert theirs.ranks == ours.ranks
        assert theirs.precisions == pytest.approx(ours.precisions, abs=1e-6)
