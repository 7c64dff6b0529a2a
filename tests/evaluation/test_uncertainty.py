"""Intervals hold what they promise, also where clips of a recording succeed and fail together."""

import numpy as np
import pytest

from vicc.evaluation import uncertainty
from vicc.evaluation.result import Queries, Row
from vicc.evaluation.uncertainty import estimate, estimate_metric, paired_difference, reported


def clustered(rng: np.random.Generator, *, groups: int, size: int, share: float) -> tuple[np.ndarray, list[str]]:
    """0 and 1 of groups whose own share differs from group to group (beta, mean `share`)."""
    shares = rng.beta(1.5 * share, 1.5 * (1 - share), groups)
    scores = (rng.random((groups, size)) < shares[:, None]).astype(float).ravel()
    return scores, [f"g{place // size}" for place in range(groups * size)]


@pytest.mark.parametrize(("groups", "size", "share"), [(60, 1, 0.6), (60, 10, 0.6), (60, 10, 0.85), (9, 7, 0.6)])
def test_intervals_hold_the_truth_19_times_of_20_also_of_few_and_clustered_queries(
    groups: int, size: int, share: float
) -> None:
    rng, trials = np.random.default_rng(size), 300
    held = naive = 0
    for _ in range(trials):
        scores, names = clustered(rng, groups=groups, size=size, share=share)
        found = estimate(scores, names)
        held += found.low <= share <= found.high  # type: ignore[operator]
        alone = estimate(scores, [str(place) for place in range(len(scores))])
        naive += alone.low <= share <= alone.high  # type: ignore[operator]
    assert 0.91 <= held / trials <= 0.98
    if size > 1:
        assert naive / trials < 0.75, "a naive interval takes clips of one recording for independent"


def test_the_interval_is_the_same_every_time_and_whatever_groups_are_called() -> None:
    scores, groups = clustered(np.random.default_rng(0), groups=20, size=3, share=0.5)
    first = estimate(scores, groups)
    assert estimate(scores, groups) == first
    assert estimate(scores, [f"another {name}" for name in groups]) == first
    assert first.value == scores.mean()


@pytest.mark.parametrize(("right", "groups"), [(0, 10), (10, 10), (0, 1), (1, 1)])
def test_all_right_or_all_wrong_has_the_exact_interval_and_no_point(right: int, groups: int) -> None:
    found = estimate(np.array([float(right > 0)] * groups), [str(place) for place in range(groups)])
    bound = 0.025 ** (1 / groups)  # the share with which all of them succeed in 2.5 % of cases
    assert (found.low, found.high) == pytest.approx((bound, 1) if right else (0, 1 - bound))


def test_a_single_group_says_next_to_nothing() -> None:
    found = estimate(np.array([1.0, 0.0, 1.0, 0.0]), ["one"] * 4)
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)


def test_results_give_no_interval_of_one_or_two_groups_and_one_of_three() -> None:
    scores = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    for groups, given in (("aaaaaa", False), ("aaabbb", False), ("aabbcc", True)):
        found = reported(estimate(scores, list(groups)), list(groups))
        assert (found.low is not None, found.high is not None) == (given, given)
        assert found.value == pytest.approx(4 / 6)


def test_a_difference_that_is_zero_for_every_query_has_no_interval_but_a_reason() -> None:
    same = np.array([1.0, 0.0, 1.0, 1.0])
    found = paired_difference(same, same, list("abcd"))
    assert (found.value, found.low, found.high) == (0, None, None)
    assert found.no_interval == "both are the same for every query"
    found = paired_difference(same, 1 - same, list("aabb"))
    assert (found.low, found.no_interval) == (None, "the queries are of 2 groups")
    found = paired_difference(same, 1 - same, list("abcd"))
    assert found.low is not None
    assert found.no_interval == ""


def test_strata_weigh_the_same_whatever_their_size() -> None:
    scores, classes = np.array([1.0] * 9 + [0.0]), ["a"] * 9 + ["b"]
    found = estimate(scores, list("0123456789"), strata=classes)
    assert found.value == pytest.approx(0.5)
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= 0.5 <= found.high <= 1


def test_a_metric_of_a_row_is_estimated_from_what_it_keeps_of_each_query() -> None:
    queries = Queries(["a", "b", "c", "d"], ["x", "x", "x", "y"], ["a", "b", "c", "d"])
    row = Row("r", "trained", {}, ranks=[1, 1, 2, 7], precisions=[1.0, 0.5, 0.5, 0.0])
    values = {
        metric: estimate_metric(row, queries, metric).value for metric in ("R@1", "R@5", "mAP", "mean class accuracy")
    }
    assert values == pytest.approx({"R@1": 0.5, "R@5": 0.75, "mAP": 0.5, "mean class accuracy": (2 / 3 + 0) / 2})
    with pytest.raises(KeyError):
        estimate_metric(Row("chance", "chance", {}), queries, "R@1")


def test_mcnemar_gives_textbook_values_and_pairs_without_a_difference_give_one() -> None:
    def p(only_a: int, only_b: int, both: int) -> float:
        a = np.array([1.0] * only_a + [0.0] * only_b + [1.0] * both)
        b = np.array([0.0] * only_a + [1.0] * only_b + [1.0] * both)
        found = paired_difference(a, b, [str(place) for place in range(len(a))])
        assert found.test == "McNemar, exact"
        assert found.value == pytest.approx((only_a - only_b) / len(a))
        return found.p

    assert p(10, 1, 40) == pytest.approx(2 * (1 + 11) / 2**11)
    assert p(5, 5, 0) == 1
    assert p(0, 0, 9) == 1


def test_sign_flips_of_few_groups_are_exact() -> None:
    a, b = np.ones(10), np.zeros(10)
    found = paired_difference(a, b, [str(place // 2) for place in range(10)])
    assert found.test == "sign flips of groups, exact"
    assert found.p == pytest.approx(2 / 2**5)


def test_equally_good_models_differ_by_chance_one_time_of_20_and_not_more_when_clustered() -> None:
    rng, trials = np.random.default_rng(3), 200
    false_alarms = inside = naive = 0
    for _ in range(trials):
        (a, groups), (b, _) = (clustered(rng, groups=30, size=6, share=0.5) for _ in range(2))
        found = paired_difference(a, b, groups)
        false_alarms += found.p < 0.05
        inside += found.low <= 0 <= found.high
        naive += paired_difference(a, b, [str(place) for place in range(len(a))]).p < 0.05
    assert false_alarms / trials < 0.09
    assert 0.90 <= inside / trials <= 0.99
    assert naive / trials > 0.15, "a test that takes clips for independent raises false alarms"


def test_a_real_difference_is_found_and_has_the_sign_of_the_better_one() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.random(400) < 0.8).astype(float), (rng.random(400) < 0.6).astype(float)
    groups = [str(place // 4) for place in range(400)]
    found, other = paired_difference(a, b, groups), paired_difference(b, a, groups)
    assert found.p < 0.01
    assert found.low > 0
    assert (other.value, other.low, other.high) == pytest.approx((-found.value, -found.high, -found.low), abs=0.01)
    assert other.p == found.p


def test_blocks_do_not_change_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, groups = clustered(np.random.default_rng(1), groups=40, size=2, share=0.3)
    first = estimate(scores, groups)
    monkeypatch.setattr(uncertainty, "_BLOCK", 7)
    uncertainty._draws.cache_clear()
    assert estimate(scores, groups).low == pytest.approx(first.low)
