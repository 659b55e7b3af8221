"""The tests of significance, against enumeration, simulation and published figures."""

from itertools import combinations

import numpy as np
import pytest

from qpass_bench.significance import adjusted, midranks, rank_test, shift


def by_enumeration(one, other):
    """The two-sided p-value from every way to choose the first sample."""
    ranks = midranks(np.asarray([*one, *other], float))
    sums = [sum(chosen) for chosen in combinations(ranks, len(one))]
    seen = ranks[: len(one)].sum()
    below = np.mean([s <= seen + 1e-9 for s in sums])
    above = np.mean([s >= seen - 1e-9 for s in sums])
    return min(1.0, 2 * min(below, above))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1, 2, 3], [4, 5, 6]),
        ([1, 4, 2, 9], [3, 3, 3]),
        ([1, 1, 2, 2], [2, 2, 1, 5, 5]),
        ([7], [7, 7]),
    ],
)
def test_exact_with_and_without_ties(one, other):
    assert rank_test(one, other) == pytest.approx(by_enumeration(one, other))
    assert rank_test(one, other) == pytest.approx(rank_test(other, one))


def test_a_published_value():
    """Samples of 5 and 5 that do not overlap: 2 of 252 assignments are as extreme."""
    assert rank_test([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]) == pytest.approx(2 / 252)


def test_nothing_is_no_evidence():
    assert rank_test([], [1.0]) == rank_test([1.0], []) == 1.0


def noise(rng, rounds, factor=1.0):
    """Ratios with a long tail, as a busy neighbour makes them."""
    tail = 0.05 * rng.standard_normal(rounds) + 0.1 * rng.exponential(1, rounds)
    return (factor * np.exp(tail)).tolist()


def p_values(count, rounds, factor=1.0, seed=0):
    rng = np.random.default_rng(seed)
    pairs = [(noise(rng, rounds), noise(rng, rounds, factor)) for _ in range(count)]
    return np.asarray([rank_test(*pair) for pair in pairs])


def test_a_level_is_kept_where_nothing_changed():
    p = p_values(600, 10)
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.025)
    assert np.mean(p < 0.5) == pytest.approx(0.5, abs=0.08)


def test_false_alarms_of_many_rows_are_corrected():
    """In runs of 20 rows without change, about one run in twenty has any row called."""
    runs = p_values(60 * 20, 8, seed=1).reshape(60, 20)
    assert np.mean([min(adjusted(run.tolist())) < 0.05 for run in runs]) <= 0.12
    assert np.mean([min(run) < 0.05 for run in runs]) > 0.4  # as it would be without


def test_power():
    """Twenty rounds find a tenth mostly, and a third even at a level of a thousandth."""
    assert np.mean(p_values(60, 20, 0.9) < 0.05) > 0.6
    assert np.mean(p_values(60, 20, 0.7) < 0.001) > 0.95


def test_shift_is_the_factor_between_samples():
    rng = np.random.default_rng(3)
    old = noise(rng, 21)
    assert shift(old, [1.5 * ratio for ratio in old]) == pytest.approx(1.5)


def test_adjusted_as_published():
    """The fifteen p-values of Benjamini and Hochberg's section 4: four are called at 0.05."""
    p = [
        0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344,
        0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000,
    ]  # fmt: skip
    corrected = adjusted(p)
    assert sum(q <= 0.05 for q in corrected) == 4
    assert corrected[3] == pytest.approx(0.0095 * 15 / 4)
    assert adjusted(p[::-1]) == corrected[::-1]
    assert adjusted([]) == []
