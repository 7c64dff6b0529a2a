"""Retrieval: for each query, is one of the k most similar gallery videos of its class? (paper, section 4)"""

import math
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F

KS = (1, 5, 10, 20)


def similarity(queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    """Cosine similarities (Q, G). Each set is centred by its own mean first, as published."""
    return _centered(queries) @ _centered(gallery).t()


def _centered(features: torch.Tensor) -> torch.Tensor:
    return F.normalize(features - features.mean(dim=0), dim=1)


def hits(
    similarities: torch.Tensor, query_labels: Sequence[str], gallery_labels: Sequence[str], *, k: int
) -> torch.Tensor:
    """For each query (Q,), whether one of its k nearest gallery videos has its label."""
    names = {label: number for number, label in enumerate(sorted({*query_labels, *gallery_labels}))}
    queries = torch.tensor([names[label] for label in query_labels])
    gallery = torch.tensor([names[label] for label in gallery_labels])
    nearest = similarities.topk(min(k, len(gallery)), dim=1).indices
    return (gallery[nearest] == queries[:, None]).any(dim=1)


def chance_recall(query_labels: Sequence[str], gallery_labels: Sequence[str], *, k: int) -> float:
    """R@k of a random order of the gallery, exactly: 1 - C(G - m, k) / C(G, k) for a class of m in the gallery."""
    size, counts = len(gallery_labels), Counter(gallery_labels)
    k = min(k, size)
    missed = [math.comb(size - counts[label], k) / math.comb(size, k) for label in query_labels]
    return 1 - sum(missed) / len(missed)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927); unlike the plain one it stays within 0 and 1."""
    z = 1.959964
    share, spread = successes / trials, z * z / trials
    center = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return center - half, center + half


def nearest_neighbours(
    similarities: torch.Tensor, *, k: int, exclude_self: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine distances and gallery positions, (Q, k) each, nearest first.

    Args:
        exclude_self: queries and gallery are the same videos; leave each one's own place out.
    """
    if exclude_self:
        similarities = similarities.clone().fill_diagonal_(-math.inf)
    best = similarities.topk(min(k, similarities.shape[1] - exclude_self), dim=1)
    return 1 - best.values, best.indices
