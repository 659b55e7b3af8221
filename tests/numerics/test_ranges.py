"""Bounds against numpy in float64, block by block."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from qpass.errors import RuleError
from qpass.numerics.ranges import (
    AbsMax,
    AbsMean,
    Fixed,
    Percentile,
    PowerOfTwo,
    Range,
    Rms,
)
from tests.numerics import oracle
from tests.numerics.range_samples import CUTS, all_bounds, bounds, each

METHODS = (
    AbsMax(),
    AbsMax(0.75),
    AbsMax(1.5),
    Rms(2),
    AbsMean(1.5),
    *(Percentile(p) for p in (100, 90, 61.7)),
    Fixed(4),
    Fixed(-0.5, 3),
    Fixed(0, 3),
    PowerOfTwo(Rms(2)),
)
SAMPLES = [(*cut, jnp.float32) for cut in CUTS] + [(*CUTS[3], dtype) for dtype in oracle.FLOATS]


@functools.cache
def found(shape, blocks, dtype):
    """An array and the bounds of all methods."""
    x = values(shape, dtype)
    return x, all_bounds(METHODS, x, blocks)


def values(shape, dtype):
    """Numbers of many magnitudes, some zeros, one infinity and one NaN where there is room."""
    x = np.array(oracle.sample(shape, np.float32))
    flat = x.reshape(-1)
    flat[::5] = 0
    if flat.size > 12:
        flat[3], flat[8] = np.inf, np.nan
    return jnp.asarray(x, dtype)


def assert_near(got, wanted, rtol=0.0):
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=0)


samples = pytest.mark.parametrize(("shape", "blocks", "dtype"), SAMPLES)


@samples
def test_absmax_is_the_extremes(shape, blocks, dtype):
    x, ends = found(shape, blocks, dtype)
    lo = each(x, blocks, lambda block: np.min(block, initial=0))
    hi = each(x, blocks, lambda block: np.max(block, initial=0))
    assert_near(ends[AbsMax()], (lo, hi))
    assert_near(ends[AbsMax(0.75)], (lo * 0.75, hi * 0.75), 1e-7)
    assert_near(ends[AbsMax(1.5)], (lo * 1.5, hi * 1.5), 1e-7)


@samples
def test_rms(shape, blocks, dtype):
    x, ends = found(shape, blocks, dtype)
    wanted = 2 * each(x, blocks, lambda block: np.sqrt(np.mean(block**2)) if block.size else 0)
    assert_near(ends[Rms(2)], (-wanted, wanted), 3e-7)
    assert_near(ends[PowerOfTwo(Rms(2))], ends[Rms(2)])


@samples
def test_absmean_is_of_what_is_not_zero(shape, blocks, dtype):
    def mean(block):
        block = np.abs(block[block != 0])
        return block.mean() if block.size else 0

    x, ends = found(shape, blocks, dtype)
    wanted = 1.5 * each(x, blocks, mean)
    assert_near(ends[AbsMean(1.5)], (-wanted, wanted), 3e-7)


@pytest.mark.parametrize("p", [100, 90, 61.7])
@samples
def test_percentile_cuts_the_extremes(shape, blocks, dtype, p):
    def at(block):
        found = np.percentile(np.abs(block), p, method="higher") if block.size else 0
        return found or np.max(np.abs(block), initial=0)

    x, ends = found(shape, blocks, dtype)
    lo = each(x, blocks, lambda block: max(np.min(block, initial=0), -at(block)))
    hi = each(x, blocks, lambda block: min(np.max(block, initial=0), at(block)))
    assert_near(ends[Percentile(p)], (lo, hi))


@samples
def test_fixed(shape, blocks, dtype):
    ends, ones = found(shape, blocks, dtype)[1], np.ones(oracle.counts(shape, blocks))
    assert_near(ends[Fixed(4)], (-4 * ones, 4 * ones))
    assert_near(ends[Fixed(-0.5, 3)], (-0.5 * ones, 3 * ones))
    assert_near(ends[Fixed(0, 3)], (0 * ones, 3 * ones))


def test_percentile_of_many():
    x = np.random.default_rng(0).standard_normal(30011).astype(np.float32)
    wanted = np.percentile(np.abs(x), 99.9, method="higher")
    assert_near(bounds(Percentile(99.9), x, x.shape), ([-wanted], [wanted]))


def test_percentile_of_hardly_anything_but_zeros():
    x = np.zeros((2, 1000), np.float32)
    x[0, :5] = [1, -2, 3, -4, 5]
    lo, hi = bounds(Percentile(99), x, (1, 1000))
    assert (lo.tolist(), hi.tolist()) == ([[-4], [0]], [[5], [0]])


def test_power_of_two_rounds_scales_up():
    scale = np.float32([1, 1.0000001, 0.75, 2, 3, -3, -4, 1e-38, 2.0**-126, 2.0**127, 3e38])
    wanted = [1, 2, 1, 2, 4, -4, -4, 2.0**-126, 2.0**-126, 2.0**126, 2.0**126]
    assert PowerOfTwo().rescale(jnp.asarray(scale)).tolist() == wanted
    assert AbsMax().rescale(jnp.asarray(scale)).tolist() == scale.tolist()


@pytest.mark.parametrize("method", [Rms(40), AbsMean(40), AbsMax(40)], ids=str)
def test_bounds_so_wide_that_all_is_lost_give_way(method):
    x = np.float32([[1, -2], [0, 0]])
    lo, hi = bounds(method, x, (1, 2), 4)
    assert (lo.tolist(), hi.tolist()) == ([[-2], [0]], [[1], [0]])
    wide = bounds(method, x, (1, 2), 8)[1]
    assert wide[0, 0] > 20
    assert wide[1, 0] == 0


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: AbsMax(0), "factor above 0 to the range 'absmax'; got 0"),
        (lambda: AbsMax("x"), "factor of the range 'absmax' as a finite number.*got 'x'"),
        (lambda: AbsMax(True), "factor of the range 'absmax' as a finite number.*got True"),
        (lambda: Rms(-1), "multiple above 0 to the range 'rms'; got -1"),
        (lambda: Rms(float("nan")), "'rms' as a finite number.*got nan"),
        (lambda: Rms(1e39), "'rms' as a finite number that float32 can hold; got 1e"),
        (lambda: Rms(1e-39), "'rms' as a finite number that float32 can hold; got 1e"),
        (lambda: AbsMean(0), "multiple above 0 to the range 'absmean'"),
        (lambda: Percentile(0.999), "from 50 to 100, such as 'percentile,99.9'; got 0.999"),
        (lambda: Percentile(101), "from 50 to 100.*got 101"),
        (lambda: Fixed(0), "hold 0 and something else.*got 0 to 0"),
        (lambda: Fixed(-4), "as 'fixed,4' or 'fixed,-1,4'; got 4 to -4"),
        (lambda: Fixed(1, 2), "bounds that hold 0.*got 1 to 2"),
        (lambda: Fixed(2, -2), "bounds that hold 0.*got 2 to -2"),
        (lambda: Fixed(-1, float("inf")), "bound of the range 'fixed' as a finite number"),
        (lambda: PowerOfTwo("absmax"), "PowerOfTwo.AbsMax.*got 'absmax'"),
        (lambda: PowerOfTwo(PowerOfTwo()), "'pow2,rms,7'; got PowerOfTwo"),
    ],
)
def test_numbers_that_make_no_range(make, text):
    with pytest.raises(RuleError, match=text):
        make()


def test_ranges_are_values():
    assert {Rms(7), Rms(7.0), Rms(np.float32(7))} == {Rms(7)}
    assert Fixed(4) == Fixed(-4, 4) != Fixed(-4, 5)
    assert {PowerOfTwo(), PowerOfTwo(AbsMax())} == {PowerOfTwo()} != {AbsMax()}


def test_a_range_of_ones_own_says_what_it_lacks():
    class Mine(Range):
        pass

    with pytest.raises(NotImplementedError, match="Mine"):
        bounds(Mine(), np.ones(3), (3,))
