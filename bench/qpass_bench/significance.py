"""Whether two samples differ: an exact rank test, its effect, and many tests at once.

Ranks, because timings have long tails: one round in which a neighbour was busy moves a mean, not a
rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Sample = Sequence[float]


def midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 on; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def rank_sums(ranks: np.ndarray, size: int) -> np.ndarray:
    """Share of all ways to choose ``size`` of the ranks whose doubled sum is the index.

    Element by element: a sum is reached without the next rank, or with it from a smaller one.
    """
    doubled = np.rint(2 * ranks).astype(int)
    ways = np.zeros((size + 1, doubled.sum() + 1))
    ways[0, 0] = 1
    for rank in doubled:
        ways[1:, rank:] += ways[:-1, : ways.shape[1] - rank].copy()
    return ways[size] / ways[size].sum()


def rank_test(one: Sample, other: Sample) -> float:
    """Two-sided p-value of the rank-sum test (Wilcoxon, 1945; Mann and Whitney, 1947).

    Exact, ties included: the distribution of the sum of ranks under every assignment of the pooled
    values to samples of these sizes. 1 where a sample is empty.
    """
    if not one or not other:
        return 1.0
    ranks = midranks(np.asarray([*one, *other], float))
    share = rank_sums(ranks, len(one))
    seen = round(2 * float(ranks[: len(one)].sum()))
    tail = min(share[: seen + 1].sum(), share[seen:].sum())
    return float(min(1.0, 2 * tail))


def shift(old: Sample, new: Sample) -> float:
    """How many times as large the new values are: the median of all quotients new / old.

    The exponential of Hodges and Lehmann's estimate (1963) on logarithms.
    """
    return float(np.median(np.divide.outer(np.asarray(new, float), np.asarray(old, float))))


def adjusted(p_values: Sequence[float]) -> list[float]:
    """P-values for many tests at once (Benjamini and Hochberg, 1995).

    Calling all those below a level significant lets at most that share of the called ones be wrong,
    in the mean, whatever the number of tests.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)[::-1]
    scaled = p[order] * len(p) / np.arange(len(p), 0, -1)
    result = np.empty_like(p)
    result[order] = np.minimum(1.0, np.minimum.accumulate(scaled))
    return result.tolist()
