"""The tests of significance, against published figures, exact formulas and simulation."""

import math

import numpy as np
import pytest

from qpass_bench.running.significance import adjusted, student, welch


@pytest.mark.parametrize(
    ("freedom", "quantile", "p"),
    [(1, 12.706, 0.05), (4, 2.776, 0.05), (8, 3.355, 0.01), (10, 4.587, 0.001), (30, 2.042, 0.05)],
)
def test_student_as_in_its_tables(freedom, quantile, p):
    assert student(quantile, freedom) == pytest.approx(p, rel=2e-3)
    assert student(-quantile, freedom) == student(quantile, freedom)


def test_student_with_one_degree_of_freedom_is_cauchys():
    assert student(2.0, 1) == pytest.approx(1 - 2 * math.atan(2) / math.pi, rel=1e-4)


def test_welch_by_hand():
    """Means 1 and 3, variances of the means 1/3 and 4/3: t = 2 / sqrt(5/3), 50/17 degrees."""
    p = welch([0.0, 1.0, 2.0], [1.0, 3.0, 5.0])
    freedom = (5 / 3) ** 2 / ((1 / 3) ** 2 / 2 + (4 / 3) ** 2 / 2)
    assert freedom == pytest.approx(50 / 17)
    assert p == pytest.approx(student(2 / math.sqrt(5 / 3), freedom))


def test_nothing_is_no_evidence():
    assert welch([], [1.0]) == welch([1.0], [9.0, 9.1]) == 1.0
    assert welch([2.0, 2.0], [2.0, 2.0]) == 1.0
    assert welch([2.0, 2.0], [3.0, 3.0]) == 0.0


def noise(rng, sittings, change=0.0):
    """Logarithms of ratios with a long tail, as a busy neighbour makes them."""
    return change + 0.03 * rng.standard_normal(sittings) + 0.03 * rng.exponential(1, sittings)


def p_values(count, change=0.0, seed=0, sittings=5):
    rng = np.random.default_rng(seed)
    pairs = [(noise(rng, sittings), noise(rng, sittings, change)) for _ in range(count)]
    return np.asarray([welch(a.tolist(), b.tolist()) for a, b in pairs])


def test_a_level_is_kept_where_nothing_changed():
    p = p_values(600)
    assert np.mean(p < 0.05) == pytest.approx(0.045, abs=0.025)
    assert np.mean(p < 0.01) < 0.025


def test_false_alarms_of_many_rows_are_corrected():
    """In runs of 20 rows without change, about one run in twenty has any row called."""
    runs = p_values(40 * 20, seed=1).reshape(40, 20)
    assert np.mean([min(adjusted(run.tolist())) < 0.05 for run in runs]) <= 0.15
    assert np.mean([min(run) < 0.05 for run in runs]) > 0.4  # as it would be without


def test_power():
    """With 4 % between sittings, five of them find a tenth mostly and a quarter always."""
    assert np.mean(p_values(100, math.log(0.9)) < 0.05) > 0.7
    assert np.mean(p_values(100, math.log(0.75)) < 0.001) > 0.9


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
