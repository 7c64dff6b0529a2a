import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from vicc import retrieval
from vicc.retrieval import (
    centered,
    chance_precision,
    chance_recall,
    fused,
    hits,
    rank_classes,
    search,
    similarity,
    telling_ks,
)


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


def test_chance_precision_is_what_random_orders_give() -> None:
    query_labels, gallery_labels = list("aabbbc"), list("aaabbcddddd")
    drawn = random.Random(0)
    found = []
    for _ in range(3000):
        order = drawn.sample(gallery_labels, len(gallery_labels))
        found += [plain_precision(order, label) for label in query_labels]
    assert math.isclose(chance_precision(query_labels, gallery_labels), sum(found) / len(found), abs_tol=0.01)


def plain_precision(order: list[str], label: str) -> float:
    """Average precision of one ranked list of labels, place by place."""
    right, shares = 0, []
    for place, other in enumerate(order, start=1):
        if other == label:
            right += 1
            shares.append(right / place)
    return sum(shares) / len(shares)


@pytest.mark.parametrize("block", [7, 1000])
def test_ranks_and_precisions_equal_a_plain_reference_whatever_the_blocks(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "_BLOCK_VALUES", 30 * block)
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (centered(torch.randn(n, 6, generator=generator, dtype=torch.float64)) for n in (20, 30))
    chosen = random.Random(0)
    query_labels, gallery_labels = ([chosen.choice("abcde") for _ in range(n)] for n in (20, 30))
    query_labels[3] = "not in the gallery"
    ours = rank_classes(queries, gallery, query_labels, gallery_labels)
    for number, label in enumerate(query_labels):
        cosines = [float(queries[number] @ other) for other in gallery]
        order = [gallery_labels[place] for place in sorted(range(30), key=lambda place: -cosines[place])]
        if label not in order:
            assert (ours.ranks[number], ours.precisions[number]) == (31, 0)
            continue
        assert ours.ranks[number] == order.index(label) + 1
        assert float(ours.precisions[number]) == pytest.approx(plain_precision(order, label), abs=1e-6)


def test_features_that_are_all_the_same_are_not_taken_for_right() -> None:
    """Of equally near videos the earlier comes first, so an encoder that says nothing of anything finds one class."""
    same = torch.ones(4, 3)
    ranks = rank_classes(same, same, list("abab"), list("aabb")).ranks
    assert ranks.tolist() == [1, 3, 1, 3]


def test_of_features_that_are_all_the_same_one_video_in_all_finds_itself() -> None:
    """As `vicc pretrain` counts while training: a collapsed encoder must not look like one that finds."""
    for count in (8, 30, 300):
        names = [str(number) for number in range(count)]
        assert hits(torch.ones(count, count), names, names, k=1).tolist() == [True] + [False] * (count - 1)


@pytest.mark.parametrize("block", [7, 1000])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_of_equally_near_videos_a_search_finds_the_earlier_whatever_the_blocks(
    k: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of them torch's topk takes depends on its kernel; neighbours, votes and confusions depended on it."""
    monkeypatch.setattr(retrieval, "_GALLERY_BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (torch.randint(-1, 2, (n, 2), generator=generator).double() for n in (20, 40))
    values, places = search(queries, gallery, k=k)
    whole = (queries @ gallery.t()).sort(dim=1, descending=True, stable=True)
    assert torch.equal(places, whole.indices[:, :k])
    assert torch.equal(values, whole.values[:, :k])


def test_recall_is_told_for_those_k_that_some_order_of_the_gallery_misses() -> None:
    assert telling_ks(["a", "b"], ["a", "b", "c"] * 10) == [1, 5, 10, 20], "twenty videos may be without one's class"
    assert telling_ks(["a", "b"], ["a"] * 10 + ["b"] * 15) == [1, 5, 10], "of 20 videos one at least is of each"
    assert telling_ks(["a"], ["a", "a"]) == [1]


@pytest.mark.parametrize("exclude_self", [False, True])
def test_a_search_in_blocks_finds_what_all_similarities_show(
    exclude_self: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "_GALLERY_BLOCK", 16)
    monkeypatch.setattr(retrieval, "_BLOCK_VALUES", 64)
    features = centered(torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    whole = features @ features.t()
    if exclude_self:
        whole.fill_diagonal_(-math.inf)
    values, places = search(features, features, k=20, exclude_self=exclude_self)
    expected = whole.topk(20, dim=1)
    assert torch.equal(places, expected.indices)
    torch.testing.assert_close(values, expected.values)


def test_a_gallery_on_disk_is_searched_a_block_at_a_time(tmp_path: Path) -> None:
    """300,000 rows in a file: what is held at a time is far less than all similarities, 1.2 GB."""
    generator = np.random.default_rng(0)
    gallery = np.lib.format.open_memmap(tmp_path / "g.npy", "w+", np.float32, (300_000, 8))
    gallery[:] = generator.standard_normal(gallery.shape, dtype=np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    queries = torch.from_numpy(gallery[::300].copy())
    values, places = search(queries, torch.from_numpy(gallery), k=3)
    assert places[:, 0].tolist() == list(range(0, 300_000, 300))
    assert (values[:, 0] > 0.999).all()


def test_fused_similarities_are_the_mean_of_those_of_the_parts() -> None:
    parts = [[centered(torch.randn(n, d)) for n in (5, 7)] for d in (4, 9)]
    mean = sum(queries @ gallery.t() for queries, gallery in parts) / 2
    queries, gallery = (fused([part[side] for part in parts]) for side in (0, 1))
    torch.testing.assert_close(queries @ gallery.t(), mean)
    weighted = fused([part[0] for part in parts], [1, 3]) @ fused([part[1] for part in parts], [1, 3]).t()
    expected = (parts[0][0] @ parts[0][1].t() + 3 * parts[1][0] @ parts[1][1].t()) / 4
    torch.testing.assert_close(weighted, expected)
