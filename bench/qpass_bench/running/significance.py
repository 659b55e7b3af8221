"""Whether two samples differ, by how much, and many such questions at once."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
from jax.scipy.special import betainc

Sample = Sequence[float]


def welch(one: Sample, other: Sample) -> float:
    """Two-sided p-value of the t-test for unequal variances (Welch, 1947).

    1 where a sample has fewer than two values, which say nothing about their spread.
    """
    if min(len(one), len(other)) < 2:
        return 1.0
    shares = [statistics.variance(sample) / len(sample) for sample in (one, other)]
    difference = statistics.fmean(one) - statistics.fmean(other)
    if not sum(shares):
        return float(difference == 0)
    # Of Satterthwaite (1946)
    parts = zip(shares, (one, other), strict=True)
    freedom = sum(shares) ** 2 / sum(v**2 / (len(sample) - 1) for v, sample in parts)
    return student(difference / math.sqrt(sum(shares)), freedom)


def student(t: float, freedom: float) -> float:
    """The probability that Student's t is at least so far from zero."""
    return float(betainc(freedom / 2, 0.5, freedom / (freedom + t * t)))


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
