"""One model measured several times: the queries of its folds together, each averaged over its
seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vicc.evaluation.result import MEAN_CLASS_ACCURACY, Result, Row


@dataclass(frozen=True)
class PooledQuery:
    """A query of a split; the same video in the test set of another split is another query of the
    same group.
    """

    split: str
    id: str
    label: str
    group: str


Measurement = tuple[Result, Row]


def pooled_queries(results: Sequence[Result]) -> list[PooledQuery]:
    """Every query of every split once, in the order of the results."""
    return list(
        dict.fromkeys(
            PooledQuery(result.data.split, name, str(label), group)
            for result in results
            for name, label, group in zip(result.queries.ids, result.queries.labels, result.queries.groups, strict=True)
        )
    )


def pooled_scores(
    measurements: Sequence[Measurement], metric: str, queries: Sequence[PooledQuery]
) -> np.ndarray | None:
    """For each query (Q,) the mean of its scores over the measurements of its split; None where a
    row has no scores.

    Raises:
        KeyError: a query that no measurement has.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for result, row in measurements:
        scores = row.scores(metric)
        if scores is None:
            return None
        for name, score in zip(result.queries.ids, scores.tolist(), strict=True):
            found.setdefault((result.data.split, name), []).append(score)
    return np.array([np.mean(found[query.split, query.id]) for query in queries])


def strata_of(metric: str, queries: Sequence[PooledQuery]) -> list[object] | None:
    """What `estimate` takes as strata: splits count the same whatever their size, and so do the
    classes of a mean class accuracy.
    """
    if metric == MEAN_CLASS_ACCURACY:
        return [(query.split, query.label) for query in queries]
    splits: list[object] = [query.split for query in queries]
    return splits if len(set(splits)) > 1 else None
