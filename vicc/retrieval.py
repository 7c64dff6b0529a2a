"""Retrieval: for each query, is one of the k most similar gallery videos of its class? (paper,
section 4)

Features are (N, D), a row for each video. Whatever needs all similarities works in blocks, so that
the whole matrix of queries by gallery is never held.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

KS = (1, 5, 10, 20, 50)
_BLOCK_VALUES = 1 << 22  # similarities held at a time: 16 MiB of float32, which stay near the processor
_GALLERY_BLOCK = 1 << 15


def centered(features: torch.Tensor) -> torch.Tensor:
    """Features (N, D) of one set, its mean taken out, then of unit length (published, each set by
    its own mean).
    """
    return F.normalize(features - features.mean(dim=0), dim=1)


def fused(parts: Sequence[torch.Tensor], weights: Sequence[float] | None = None) -> torch.Tensor:
    """One set of features whose similarities are the mean of those of the parts, each (N, D) of
    unit length.

    Published: the similarity matrices added; that differs by a factor, which changes no order.

    Args:
        weights: of the parts; all alike by default.
    """
    weights = weights or [1.0] * len(parts)
    scale = [math.sqrt(weight / sum(weights)) for weight in weights]
    return torch.cat([part * factor for part, factor in zip(parts, scale, strict=True)], dim=1)


def similarity(queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    """Cosine similarities (Q, G). Each set is centred by its own mean first, as published."""
    return centered(queries) @ centered(gallery).t()


def search(
    queries: torch.Tensor, gallery: torch.Tensor, *, k: int, exclude_self: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k most similar gallery rows of each query: similarities and gallery indices, (Q, k) each,
    nearest first.

    Of equally similar rows the earlier comes first, as in `rank_classes`.

    Args:
        queries: (Q, D), of unit length.
        gallery: (G, D), of unit length; may be mapped from a file that does not fit into memory.
        exclude_self: queries and gallery are the same videos; leave each one's own place out.
    """
    k = min(k, len(gallery) - exclude_self)
    values = queries.new_empty(len(queries), 0)
    places = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for begin in range(0, len(gallery), _GALLERY_BLOCK):
        block = gallery[begin : begin + _GALLERY_BLOCK].to(queries)
        found = [
            _nearest(queries[part], block, k, own=begin - part.start if exclude_self else None)
            for part in _parts(len(queries), len(block))
        ]
        values = torch.cat([values, torch.cat([value for value, _ in found])], dim=1)
        places = torch.cat([places, torch.cat([place for _, place in found]) + begin], dim=1)
        if begin:
            values, best = _top(values, k)
            places = places.gather(1, best)
    return values, places


def _nearest(
    queries: torch.Tensor, gallery: torch.Tensor, k: int, *, own: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest of one block of the gallery; query i is gallery row i - own, if that is given and
    in the block.
    """
    similarities = queries @ gallery.t()
    if own is not None:
        # On the diagonal that begins `own` rows below, or columns to the left of, the corner.
        similarities.diagonal(-own).fill_(-math.inf)
    return _top(similarities, k)


def _top(similarities: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row and their places, largest first; of equal ones the earlier (`topk`
    takes any).
    """
    size = similarities.shape[1]
    values, places = similarities.topk(min(k + 1, size), dim=1)
    if size > k:
        tied = (values[:, k - 1] == values[:, k]).nonzero()[:, 0] if k else places.new_empty(0)
        values, places = values[:, :k], places[:, :k]
        # Where the last that is taken equals the first that is not, which one `topk` took is
        # chance.
        places[tied] = similarities[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
    places = places.sort(dim=1).values
    order = similarities.gather(1, places).sort(dim=1, descending=True, stable=True)
    return order.values, places.gather(1, order.indices)


def _parts(num_queries: int, num_gallery: int) -> Iterator[slice]:
    rows = max(1, _BLOCK_VALUES // num_gallery)
    return (slice(begin, min(begin + rows, num_queries)) for begin in range(0, num_queries, rows))


@dataclass(frozen=True)
class Rankings:
    """How each query orders the whole gallery; of equally similar videos the earlier comes first.

    Attributes:
        ranks: (Q,) place, from 1, of the first gallery video of the query's class; R@k is the share
            of queries whose rank is at most k. One more than the gallery has where the class is not
            in it.
        precisions: (Q,) average precision: the mean, over the gallery videos of the query's class,
            of the share of that class among all that are at least as near. 0 where the class is not
            in the gallery.
    """

    ranks: torch.Tensor
    precisions: torch.Tensor


def rank_classes(
    queries: torch.Tensor, gallery: torch.Tensor, query_labels: Sequence[str], gallery_labels: Sequence[str]
) -> Rankings:
    """Order the gallery for each query, both of unit length, (Q, D) and (G, D)."""
    of_queries, of_gallery = (torch.tensor(numbers) for numbers in _numbered(query_labels, gallery_labels))
    ranks, precisions = [], []
    place = torch.arange(1, len(gallery) + 1)
    for part in _parts(len(queries), len(gallery)):
        order = (queries[part] @ gallery.t()).sort(dim=1, descending=True, stable=True).indices.cpu()
        same = of_gallery[order] == of_queries[part, None]
        count = same.sum(1)
        first = torch.where(count > 0, same.int().argmax(1) + 1, len(gallery) + 1)
        share = same.cumsum(1) / place
        ranks.append(first)
        precisions.append((share * same).sum(1) / count.clamp(min=1))
    return Rankings(torch.cat(ranks), torch.cat(precisions))


def telling_ks(query_labels: Sequence[str], gallery_labels: Sequence[str]) -> list[int]:
    """Those k of R@k, 1 always, for which not every order of the gallery reaches 100 %."""
    return [k for k in KS if k == 1 or chance_recall(query_labels, gallery_labels, k=k) < 1]


def hits(
    similarities: torch.Tensor, query_labels: Sequence[str], gallery_labels: Sequence[str], *, k: int
) -> torch.Tensor:
    """For each query (Q,), whether one of its k nearest gallery videos has its label, from all
    similarities (Q, G).

    Of equally near videos the earlier comes first, so features that are all the same find one
    video, not their own.
    """
    queries, gallery = (torch.tensor(numbers) for numbers in _numbered(query_labels, gallery_labels))
    _, nearest = _top(similarities, k)
    return (gallery[nearest] == queries[:, None]).any(dim=1)


def _numbered(*lists: Sequence[str]) -> list[list[int]]:
    names = {label: number for number, label in enumerate(sorted({label for labels in lists for label in labels}))}
    return [[names[label] for label in labels] for labels in lists]


def chance_recall(query_labels: Sequence[str], gallery_labels: Sequence[str], *, k: int) -> float:
    """R@k of a random order of the gallery, exactly: 1 - C(G - m, k) / C(G, k) for a class of m in
    the gallery.
    """
    size, counts = len(gallery_labels), Counter(gallery_labels)
    k = min(k, size)
    missed = [math.comb(size - counts[label], k) / math.comb(size, k) for label in query_labels]
    return 1 - sum(missed) / len(missed)


def chance_precision(query_labels: Sequence[str], gallery_labels: Sequence[str]) -> float:
    """Mean average precision of a random order of the gallery, exactly.

    Place i of G is relevant with probability m / G, and of the i - 1 before it a share (m - 1) / (G
    - 1) is expected to be relevant if it is; so an average precision is 1 / G times the sum over i
    of (1 + (i - 1) (m - 1) / (G - 1)) / i.
    """
    size, counts = len(gallery_labels), Counter(gallery_labels)
    harmonic = sum(1 / place for place in range(1, size + 1))

    def expected(m: int) -> float:
        rest = (m - 1) / max(1, size - 1)
        return (harmonic + rest * (size - harmonic)) / size if m else 0.0

    return sum(expected(counts[label]) for label in query_labels) / len(query_labels)
