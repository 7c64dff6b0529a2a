"""How sure a number is, and a difference of two: bootstrap and permutation over queries, whole
groups at a time.

Clips of one recording succeed and fail together, so a group (`Queries.groups`) is what is drawn or
flipped, never a single query. None of this says what another seed of the training would give.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from vicc.evaluation.result import MEAN_CLASS_ACCURACY, Estimate, Queries, Row

FEWEST_GROUPS = 3
"""Of fewer, an interval would say nothing but that there are few."""
FEW_QUERIES = 20
"""Of so many, one makes 5 points or more."""
_RESAMPLES = 2000
_FLIPS = 9999
_EXACT_FLIPS = 14  # groups up to which all 2^n sign patterns are tried
_NORMAL = NormalDist()
_BLOCK = 100  # resamples or flips held at once as numbers with a point


@dataclass(frozen=True)
class Difference:
    """A metric of one model minus that of another, on the same queries.

    Attributes:
        value, low, high: shares from -1 to 1, with the 95 % interval; None where both are the same
            for every query, and of fewer than `FEWEST_GROUPS` groups.
        p: two-sided, that a difference as large comes about although the two are equally good.
        test: how p was found: "McNemar, exact", "sign flips of groups" or "sign flips of groups,
            exact".
        no_interval: why there is none; empty where there is one.
    """

    value: float
    low: float | None
    high: float | None
    p: float
    test: str
    no_interval: str = ""


def estimate(
    scores: np.ndarray, groups: Sequence[str], *, strata: Sequence[object] | None = None, seed: int = 0
) -> Estimate:
    """The mean of the queries' scores (Q,), each from 0 to 1, with its 95 % bootstrap interval.

    Groups are drawn with replacement, as many as there are, with all of their queries; the interval
    is one of percentiles, which reach further outwards for few groups (see `_tail`). Where all
    groups have the same mean (all right, all wrong, or a single group) that would give a point.
    Then it reaches to both sides by 1 - 0.025^(1 / groups), which for all right and all wrong is
    the exact one of Clopper and Pearson.

    Args:
        strata: a value for each query, such as its class: the mean over strata of their means is
            taken, which of classes is the mean class accuracy. Strata that a resample lacks do not
            count in it.
    """
    value, low, high = _interval(scores, groups, strata, seed)
    return Estimate(value, max(low, 0.0), min(high, 1.0))


def estimate_metric(row: Row, queries: Queries, metric: str) -> Estimate:
    """A metric of a row from its queries' scores, as results give it: see `reported`.

    Raises:
        KeyError: a metric that has no scores of queries in this row.
    """
    scores = row.scores(metric)
    if scores is None:
        raise KeyError(metric)
    strata = queries.labels if metric == MEAN_CLASS_ACCURACY else None
    return reported(estimate(scores, queries.groups, strata=strata), queries.groups)


def reported(found: Estimate, groups: Sequence[str]) -> Estimate:
    """The estimate without its interval where that is of one or two groups."""
    return found if len(set(groups)) >= FEWEST_GROUPS else Estimate(found.value)


def paired_difference(
    a: np.ndarray, b: np.ndarray, groups: Sequence[str], *, strata: Sequence[object] | None = None, seed: int = 0
) -> Difference:
    """The mean of `a` minus that of `b`, scores (Q,) of the same queries.

    The interval is that of `estimate`, of the queries' differences. p is that of McNemar's exact
    test where scores are 0 or 1 and every group is one query; else groups change sides at random,
    whole: 9,999 times, or in all ways where there are at most 14 groups.

    Args:
        strata: as for `estimate`.
    """
    difference = a - b
    value, low, high = _interval(difference, groups, strata, seed)
    binary = np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()
    if binary and strata is None and len(set(groups)) == len(groups):
        p, test = _mcnemar(int((difference > 0).sum()), int((difference < 0).sum())), "McNemar, exact"
    else:
        p, test = _sign_flips(difference * _weights(strata, len(a)), groups, seed)
    num_groups = len(set(groups))
    if not difference.any():
        return Difference(value, None, None, p, test, "both are the same for every query")
    if num_groups < FEWEST_GROUPS:
        return Difference(value, None, None, p, test, f"the queries are of {num_groups} group{'s' * (num_groups > 1)}")
    return Difference(value, max(low, -1.0), min(high, 1.0), p, test)


def _interval(
    scores: np.ndarray, groups: Sequence[str], strata: Sequence[object] | None, seed: int
) -> tuple[float, float, float]:
    group_of, num_groups = _numbers(groups)
    stratum_of, _ = _numbers(strata if strata is not None else [0] * len(scores))
    # Sums of each group in each stratum that it has queries of, strata one after the other.
    cells, cell_of = np.unique(stratum_of * num_groups + group_of, return_inverse=True)
    sums, counts = np.bincount(cell_of, scores), np.bincount(cell_of)
    begins = np.flatnonzero(np.diff(cells // num_groups, prepend=-1))

    def means(weights: np.ndarray) -> np.ndarray:
        """The mean over strata, for rows of how often each cell counts."""
        totals, sizes = (np.add.reduceat(weights * part, begins, axis=1) for part in (sums, counts))
        there = sizes > 0
        return np.divide(totals, sizes, out=np.zeros_like(totals), where=there).sum(1) / there.sum(1)

    value = float(means(np.ones((1, len(cells))))[0])
    drawn = _draws(num_groups, seed)
    blocks = (drawn[start : start + _BLOCK, cells % num_groups] for start in range(0, len(drawn), _BLOCK))
    resampled = np.concatenate([means(block.astype(float)) for block in blocks])
    tail = _tail(num_groups)
    low, high = (float(bound) for bound in np.quantile(resampled, (tail, 1 - tail)))
    if high - low < 1e-9:
        reach = 1 - 0.025 ** (1 / num_groups)
        low, high = value - reach, value + reach
    # A mean of equal numbers may differ from them in the last digit.
    return value, min(low, value), max(high, value)


def _tail(num_groups: int) -> float:
    """The share of resamples left out on each side: 2.5 % of very many groups, fewer of few.

    Percentiles alone are too narrow for few groups, as if the spread were known (Hesterberg, What
    teachers should know about the bootstrap, 2015, section 3.3): 2.5 % of a normal distribution
    become those of Student's t, and the spread that of n - 1 in place of n groups.
    """
    if num_groups < 2:
        return 0.025
    z, n = _NORMAL.inv_cdf(0.975), num_groups - 1
    # Quantiles of t by powers of 1 / n (Fisher and Cornish), to 0.1 % for n of 5 and more.
    t = z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    return _NORMAL.cdf(-t * math.sqrt(num_groups / n))


def _numbers(names: Sequence[object]) -> tuple[np.ndarray, int]:
    """Names to places, in the order in which they first stand, so that nothing depends on what they
    are called.
    """
    known: dict[object, int] = {}
    places = [known.setdefault(name, len(known)) for name in names]
    return np.array(places, dtype=int), len(known)


@lru_cache(maxsize=2)
def _draws(num_groups: int, seed: int) -> np.ndarray:
    """How often each group is drawn, (resamples, groups); the same for every metric and row of a
    result.
    """
    rng = np.random.default_rng(seed)
    drawn = np.empty((_RESAMPLES, num_groups), dtype=np.uint8)  # 255 times the same of n is beyond chance
    for row in drawn:
        row[:] = np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups)
    return drawn


def _weights(strata: Sequence[object] | None, count: int) -> np.ndarray:
    """What each query adds to the mean over strata of their means, (Q,)."""
    if strata is None:
        return np.full(count, 1 / count)
    stratum_of, num_strata = _numbers(strata)
    return 1 / (num_strata * np.bincount(stratum_of)[stratum_of])


def _mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided: with how many of the queries that one of two gets right it is as uneven as this,
    or more.
    """
    total = only_a + only_b
    tail = sum(math.comb(total, count) for count in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**total)


def _sign_flips(differences: np.ndarray, groups: Sequence[str], seed: int) -> tuple[float, str]:
    group_of, num_groups = _numbers(groups)
    sums = np.bincount(group_of, differences)
    least = abs(sums.sum()) - 1e-12  # a sum in another order is not another sum
    if num_groups <= _EXACT_FLIPS:
        patterns = np.arange(2**num_groups)[:, None] >> np.arange(num_groups) & 1
        return float((np.abs((2 * patterns - 1) @ sums) >= least).mean()), "sign flips of groups, exact"
    rng = np.random.default_rng(seed)
    as_large = 1  # the data itself is one of the patterns
    for start in range(0, _FLIPS, _BLOCK):
        signs = 2.0 * rng.integers(0, 2, (min(_BLOCK, _FLIPS - start), num_groups), dtype=np.int8) - 1
        as_large += int((np.abs(signs @ sums) >= least).sum())
    return as_large / (_FLIPS + 1), "sign flips of groups"
