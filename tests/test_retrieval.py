import math
import random

import pytest
import torch

from vicc.retrieval import chance_recall, hits, nearest_neighbours, similarity, wilson_interval


def plain_hits(queries, gallery, query_labels, gallery_labels, k):  # type: ignore[no-untyped-def]
    """One query at a time: centre both sets, normalise, sort by cosine."""
    q = queries - queries.mean(0)
    g = gallery - gallery.mean(0)
    found = []
    for row, label in zip(q, query_labels, strict=True):
        cosines = [(row @ other / (row.norm() * other.norm())).item() for other in g]
        order = sorted(range(len(g)), key=lambda place: -cosines[place])
        found.append(any(gallery_labels[place] == label for place in order[:k]))
    return found


@pytest.mark.parametrize("k", [1, 3, 50])
def test_hits_equal_a_plain_reference(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    queries, gallery = (torch.randn(n, 6, generator=generator, dtype=torch.float64) + 2 for n in (20, 30))
    chosen = random.Random(k)
    query_labels, gallery_labels = ([chosen.choice("abcde") for _ in range(n)] for n in (20, 30))
    ours = hits(similarity(queries, gallery), query_labels, gallery_labels, k=k)
    assert ours.tolist() == plain_hits(queries, gallery, query_labels, gallery_labels, k)


def test_a_constant_added_to_all_features_of_a_set_changes_nothing() -> None:
    queries, gallery = torch.randn(5, 4), torch.randn(7, 4)
    torch.testing.assert_close(similarity(queries + 3, gallery - 9), similarity(queries, gallery), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [1, 5])
def test_chance_is_what_random_orders_give(k: int) -> None:
    query_labels, gallery_labels = list("aabbbc"), list("aaabbcddddd")
    drawn = random.Random(0)
    trials = [label in drawn.sample(gallery_labels, k) for _ in range(4000) for label in query_labels]
    assert math.isclose(chance_recall(query_labels, gallery_labels, k=k), sum(trials) / len(trials), abs_tol=0.01)


def test_chance_of_a_class_missing_from_the_gallery_is_zero_and_of_the_whole_gallery_is_one() -> None:
    assert chance_recall(["x"], ["a", "b"], k=1) == 0
    assert chance_recall(["a"], ["a", "b"], k=50) == 1


def test_wilson_interval_matches_known_values_and_stays_within_bounds() -> None:
    low, high = wilson_interval(10, 20)
    assert (round(low, 3), round(high, 3)) == (0.299, 0.701)
    low, high = wilson_interval(0, 10)
    assert low == pytest.approx(0, abs=1e-12)
    assert round(high, 3) == 0.278


def test_neighbours_are_sorted_by_distance_and_leave_the_query_out() -> None:
    features = torch.randn(6, 5)
    distances, places = nearest_neighbours(similarity(features, features), k=10, exclude_self=True)
    assert places.shape == (6, 5)
    assert all(number not in row for number, row in enumerate(places.tolist()))
    assert (distances[:, 1:] >= distances[:, :-1]).all()
    assert distances.min() >= -1e-6
    assert distances.max() <= 2 + 1e-6
