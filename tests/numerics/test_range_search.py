"""Searched ranges against trying every candidate in numpy, in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from qpass.errors import QuantizeError, RuleError
from qpass.numerics.range_search import Mse, Snr, WeightedMse
from qpass.numerics.ranges import AbsMax
from tests.numerics import oracle
from tests.numerics.range_samples import CUTS, all_bounds, back, bounds

SHAPES = [CUTS[0], CUTS[1], CUTS[4], CUTS[7], ((32, 3), (8, 1))]
FACTORS = np.linspace(1, 0.05, 20).astype(np.float32)


def heavy(shape, seed=0):
    """Numbers with heavy tails, so that clipping pays."""
    x = np.random.default_rng([seed, *shape]).standard_t(3, shape)
    return np.asarray(x, np.float32)


def importance(rows):
    return np.random.default_rng(rows).exponential(size=(rows,)).astype(np.float32) ** 3


def errors(x, blocks, lo, hi, bits, symmetric, weights=1.0):
    """The (weighted) sum of squared errors of every block between bounds, float64."""
    ends = (oracle.spread(np.asarray(end), x.shape, blocks) for end in (lo, hi))
    values = back(x.astype(np.float64), *ends, bits, symmetric)
    return sums((values - x) ** 2 * weights, blocks)


def sums(x, blocks):
    found = np.zeros(oracle.counts(x.shape, blocks))
    for index in np.ndindex(*found.shape):
        at = tuple(slice(i * b, (i + 1) * b) for i, b in zip(index, blocks, strict=True))
        found[index] = x[at].sum()
    return found


def least(x, blocks, lo, hi, bits, symmetric, weights=1.0, factors=FACTORS):
    """The least error of all factors, for each block."""
    tried = [errors(x, blocks, lo * f, hi * f, bits, symmetric, weights) for f in factors]
    return np.min(tried, axis=0)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("shape", "blocks"), SHAPES)
def test_no_candidate_is_better(shape, blocks, symmetric):
    x = heavy(shape)
    weights = importance(shape[-1])
    methods = (AbsMax(), Mse(), WeightedMse(), Snr())
    found = all_bounds(methods, x, blocks, 3, symmetric=symmetric, importance=weights)
    lo, hi = found[AbsMax()]
    both = np.maximum(-lo, hi)
    tried = [(Mse(), (lo, hi), FACTORS, 1.0), (WeightedMse(), (lo, hi), FACTORS, weights)]
    if symmetric:  # bounds from -a to a put the zero point of an asymmetric trial on a tie
        tried.append((Snr(), (-both, both), np.float32(Snr().factors), 1.0))
    for method, ends, factors, weight in tried:
        got = errors(x, blocks, *found[method], 3, symmetric, weight)
        wanted = least(x, blocks, *ends, 3, symmetric, weight, factors)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-12)


def test_clipping_pays():
    x = heavy((8, 256))
    found = all_bounds((AbsMax(), Mse(), Mse(60, 0.02)), x, (1, 256), 4)
    error = {m: errors(x, (1, 256), *ends, 4, True).sum() for m, ends in found.items()}
    assert error[Mse()] < 0.7 * error[AbsMax()]
    assert error[Mse(60, 0.02)] < error[Mse()]


def test_weights_beat_the_plain_search_and_absmax_where_inputs_differ():
    """A large weight that meets small inputs is worth clipping, and only the weights know it."""
    x = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    x[:, :4] *= 6
    weights = np.ones(64, np.float32)
    weights[:4] = 1e-3
    methods = (AbsMax(), Mse(), WeightedMse())
    found = all_bounds(methods, x, (1, 64), 4, importance=weights)
    error = [errors(x, (1, 64), *found[m], 4, True, weights).sum() for m in methods]
    assert error[2] < 0.5 * error[1] < 0.5 * error[0]


def test_the_weighted_error_is_that_of_the_product():
    """For inputs that do not correlate, E[(x @ (w - q))^2] is the sum of E[x^2] (w - q)^2."""
    rng = np.random.default_rng(1)
    weight = heavy((64, 8))
    inputs = rng.standard_normal((20000, 64)) * rng.exponential(size=64) ** 2
    moments = np.mean(inputs**2, axis=0, dtype=np.float64)[:, None].astype(np.float32)
    blocks = (64, 1)
    methods = (AbsMax(), Mse(), WeightedMse())
    found = all_bounds(methods, weight, blocks, 3, importance=moments)
    lost = {}
    for method, ends in found.items():
        ends = (oracle.spread(end, weight.shape, blocks) for end in ends)
        quantized = back(weight.astype(np.float64), *ends, 3, True)
        lost[method] = np.mean((inputs @ (weight - quantized)) ** 2)
    assert lost[WeightedMse()] < 0.95 * lost[Mse()]
    assert lost[WeightedMse()] < 0.5 * lost[AbsMax()]


def test_importance_may_be_zero_huge_or_no_number():
    x = heavy((4, 32))
    x[3] = x[2]
    weights = np.ones((4, 32), np.float32)
    weights[0] = 0
    weights[1] = 3e38
    weights[2, :4] = [np.nan, np.inf, -1, 0]
    weights[3, :4] = 0
    plain = all_bounds((Mse(), AbsMax()), x, (1, 32), 3)
    found = np.asarray(bounds(WeightedMse(), x, (1, 32), 3, importance=jnp.asarray(weights)))
    np.testing.assert_array_equal(found[:, 0], np.asarray(plain[AbsMax()])[:, 0])
    np.testing.assert_array_equal(found[:, 1], np.asarray(plain[Mse()])[:, 1])
    np.testing.assert_array_equal(found[:, 2], found[:, 3])


def test_weighted_search_without_importance_is_refused():
    with pytest.raises(QuantizeError, match=r"'wmse' needs to know.*importance=.*'mse'"):
        bounds(WeightedMse(), np.ones((2, 4), np.float32), (1, 4))


def test_the_first_of_equal_factors_wins():
    x = np.float32([[1, -1, 0, 1]])
    assert bounds(Mse(), x, (1, 4), 4)[1] == 1  # nothing is lost at 1
    four = np.float32([[4, 0]])  # code 4 of a scale of 1, code 2 of a scale of 2
    assert bounds(Snr((1.75, 3.5)), four, (1, 2), 4)[1] == 7
    assert bounds(Snr((3.5, 1.75)), four, (1, 2), 4)[1] == 14
    zeros = np.zeros((1, 4), np.float32)
    for method in (Mse(), Snr()):
        assert bounds(method, zeros, (1, 4)) == ([[0]], [[0]])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Mse(0), "'mse' an int of 1 or more.*'mse,20'; got 0"),
        (lambda: Mse(2.5), "got 2.5"),
        (lambda: Mse(True), "got True"),
        (lambda: WeightedMse(0), "'wmse' an int of 1 or more"),
        (lambda: Mse(20, 1.5), "'mse' a least factor of at most 1; got 1.5"),
        (lambda: Mse(20, 0), "least factor above 0 to the range 'mse'"),
        (lambda: Snr(()), "factors of the range 'snr' as a tuple.*got "),
        (lambda: Snr(0.5), "factors of the range 'snr' as a tuple.*got 0.5"),
        (lambda: Snr((1, 0)), "factor above 0 to the range 'snr'"),
        (lambda: Snr((1, "x")), "factor of the range 'snr' as a finite number.*got 'x'"),
    ],
)
def test_numbers_that_make_no_search(make, text):
    with pytest.raises(RuleError, match=text):
        make()


def test_a_single_step_is_absmax():
    x = heavy((4, 16))
    found = all_bounds((AbsMax(), Mse(1), Snr((1.0,))), x, (1, 16))
    np.testing.assert_array_equal(found[AbsMax()], found[Mse(1)])
    both = np.maximum(-found[AbsMax()][0], found[AbsMax()][1])
    np.testing.assert_array_equal(found[Snr((1.0,))], (-both, both))
