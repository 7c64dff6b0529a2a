"""How sure a number is: bootstrap intervals over queries, whole groups at a time."""

from collections.abc import Sequence

import numpy as np

from vicc.evaluation.results import Estimate

_RESAMPLES = 2000


def estimate(scores: np.ndarray, groups: Sequence[str], *, seed: int = 0) -> Estimate:
    """The mean of the queries' scores (Q,) with its 95 % bootstrap interval (percentiles).

    Groups of queries are drawn, with all of their queries: clips of one recording succeed and fail together.
    """
    names, places = np.unique(np.array(groups, dtype=object).astype(str), return_inverse=True)
    sums, counts = np.bincount(places, scores), np.bincount(places).astype(float)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), _RESAMPLES)
    means = (drawn @ sums) / (drawn @ counts)
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(scores.mean()), float(low), float(high))
