"""Edge values for every range: never NaN, nothing lost as zeros, the same bits in any program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass.numerics.range_hqq import Hqq
from qpass.numerics.range_search import Mse, Snr, WeightedMse
from qpass.numerics.ranges import AbsMax, AbsMean, Fixed, Percentile, PowerOfTwo, Rms
from tests.numerics import oracle
from tests.numerics.range_samples import CUTS, all_bounds, sample

METHODS = (
    AbsMax(),
    AbsMax(0.9),
    AbsMax(30),
    Rms(3),
    Rms(30),
    AbsMean(2),
    AbsMean(30),
    Percentile(50),
    Percentile(99.9),
    Mse(),
    WeightedMse(),
    Snr(),
    Hqq(8),
    PowerOfTwo(Mse(6)),
)
TINY, LARGEST = np.finfo(np.float32).tiny, np.finfo(np.float32).max
ROWS = {
    "zeros": np.zeros(6),
    "constant": np.full(6, 3.25),
    "negative": np.full(6, -1e-3),
    "one value": [0, 0, 0, -7, 0, 0],
    "an outlier": [1, -1, 0.5, 1e6, -0.25, 1],
    "infinities": [np.inf, 1, -np.inf, -2, 3, np.inf],
    "NaN": [np.nan, 1, -1, np.nan, 2, 0],
    "nothing finite": [np.nan, np.inf, -np.inf, np.nan, np.nan, np.inf],
    "the least": [TINY, 0, 0, 0, 0, 0],
    "small": np.array([1, -2, 3, 1, 1, 1]) * TINY,
    "the largest": np.array([1, -1, 1, 1, 1, 1]) * LARGEST,
    "all magnitudes": [TINY, 1e-20, 1, -1e20, LARGEST, -1e-3],
    "subnormal": np.full(6, TINY / 8),
}
HALVES = {
    "the largest half": [65504, -65504, 1, 0, 0, 0],
    "the least half": [6e-8, 0, 0, 0, 0, 0],
    "small halves": [6e-5, -6e-5, 6e-8, 0, 0, 0],
    "infinite half": [np.inf, 65504, -1, np.nan, 0, 0],
}


def lost(x, method, ends, bits, symmetric, blocks):
    """Blocks with normal values that come back as zeros."""
    given = sample(x, blocks, bits, symmetric)
    back = given.trial(*(jnp.asarray(end, jnp.float32) for end in ends))
    assert jnp.isfinite(back).all(), method
    kept = jnp.any(back != 0, axis=1)
    present = jnp.any(jnp.abs(given.values) >= TINY, axis=1)
    return np.flatnonzero(present & ~kept)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_no_block_is_lost(bits, symmetric):
    x = np.asarray(list(ROWS.values()), np.float32)
    # The scales of the tests' own quantizer are not kept normal and finite, so stay clear of that.
    x = x.clip(-LARGEST / 4, LARGEST / 4)
    x = x + np.where(np.abs(x) < 1e-30, x, 0) * 9999
    found = all_bounds(
        METHODS, x, (1, 6), bits, symmetric=symmetric, importance=np.float32([1] * 6)
    )
    for method, ends in found.items():
        rows = lost(x, method, ends, bits, symmetric, (1, 6))
        assert [list(ROWS)[row] for row in rows] == [], method


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
def test_bounds_of_edge_values(dtype):
    """`all_bounds` checks that they are finite and on both sides of zero."""
    rows = (ROWS if dtype == jnp.float32 else HALVES).values()
    with np.errstate(over="ignore"):
        x = jnp.asarray(np.asarray(list(rows)), dtype)
    found = all_bounds(METHODS, x, (1, 6), 8, importance=np.float32([1] * 6))
    for method, (lo, hi) in found.items():
        empty = (lo == 0) & (hi == 0)
        wanted = np.isfinite(oracle.widen(x)) & (np.abs(oracle.widen(x)) >= TINY)
        np.testing.assert_array_equal(empty[:, 0], ~wanted.any(axis=1), err_msg=str(method))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (1,), (1, 1), (2, 1)])
def test_empty_and_tiny_arrays(shape):
    x = jnp.full(shape, -2.5)
    for blocks in {shape, (1,) * len(shape), (*shape[:-1], 1), (1, *shape[1:])}:
        importance = jnp.ones(shape)
        found = all_bounds((*METHODS, Fixed(4)), x, blocks, 4, importance=importance)
        for method, (lo, _) in found.items():
            if x.size and method != Fixed(4):
                assert (lo < 0).all(), method


def test_a_fixed_range_does_not_look_at_the_block():
    x = np.asarray(list(ROWS.values()), np.float32)
    lo, hi = all_bounds((Fixed(-1, 4),), x, (1, 6))[Fixed(-1, 4)]
    assert (lo == -1).all()
    assert (hi == 4).all()


STATISTICS = (
    *(AbsMax(0.9), Rms(3), AbsMean(2), Percentile(90), Mse(8)),
    *(WeightedMse(8), Snr(), Hqq(8)),
)


def test_bounds_have_the_same_bits_in_every_program():
    """Computed eagerly, under jit, vmap and scan; then of the array in another layout."""
    shape, blocks = (6, 50), (2, 16)
    x = np.random.default_rng(0).standard_t(3, (3, *shape)).astype(np.float32)
    importance = jnp.asarray(np.random.default_rng(1).exponential(size=shape), jnp.float32)

    def ends(x):
        given = sample(x, blocks, 4, importance=importance)
        return [method.bounds(given) for method in STATISTICS]

    def turned(x):
        given = sample(x.T, blocks[::-1], 4, importance=importance.T)
        return [tuple(end.T for end in method.bounds(given)) for method in STATISTICS]

    found = {name: run(x) for name, run in oracle.eager_jit_vmap_scan(ends).items()}
    found["turned"] = jax.jit(jax.vmap(turned))(x)
    wanted = found.pop("eager")
    for name, got in found.items():
        for method, one, other in zip(STATISTICS, got, wanted, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=f"{method} under {name}")


def test_every_cut_takes_every_method():
    for shape, blocks in CUTS[3:6]:
        x = oracle.sample(shape)
        found = all_bounds((Mse(4), PowerOfTwo(Snr())), x, blocks, 4, importance=jnp.ones(shape))
        assert len(found) == 2
