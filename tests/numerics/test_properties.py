"""What holds for every type and granularity, tried on random arrays.

``FUZZ_PROFILE=many`` tries more of them. All arrays have one shape, so that operations are compiled
once; hypothesis draws granularities too.
"""

import os

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qpass.numerics import QTYPES, as_quantizer, block_sizes, find_range, quantize
from qpass.numerics.packing import pack, unpack
from tests.numerics.grids import values_of
from tests.numerics.oracle import middle

many = os.environ.get("FUZZ_PROFILE") == "many"
tried = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "500")) if many else 4,
    derandomize=not many,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
SHAPE = (4, 20)
# An int8 reaches one step further below zero than above; its scales change sign with the array.
SYMMETRIC = {t.name for t in QTYPES if t.qmin < 0 and t.name != "nf4"}
TYPES = [t.name for t in QTYPES] + [f"{t.name} asym" for t in QTYPES if t.kind == "int"]
every_type = pytest.mark.parametrize("qtype", TYPES)
granularities = st.sampled_from(["", "tensor", "g8", "g1/3", "b3x8"])
ROWS_TOGETHER = ("b3x8",)


@st.composite
def arrays(draw):
    """Rows of different magnitudes, with zeros, ties and powers of two among the numbers."""
    whole = st.integers(-8, 8).map(float)
    numbers = st.one_of(st.floats(-4, 4, width=32, allow_subnormal=False), whole)
    x = draw(hnp.arrays(np.float32, SHAPE, elements=numbers, fill=st.nothing()))
    exponents = draw(hnp.arrays(np.int32, (SHAPE[0], 1), elements=st.integers(-12, 12)))
    return np.where(np.abs(x) < 1e-6, 0, np.ldexp(x, exponents)).astype(np.float32)


def quantizer(qtype, granularity):
    name, *words = qtype.split()
    return as_quantizer(" ".join(filter(None, (name, granularity, *words))))


def back(x, by, **options):
    return np.asarray(quantize(jnp.asarray(x), by, (1,), **options).dequantize())


def full(part, q):
    """A scale or zero point for each element, in float64."""
    at = np.ix_(*(np.arange(n) // b for n, b in zip(q.shape, q.blocks, strict=True)))
    return np.float64(np.asarray(part))[at]


@every_type
@tried
@given(x=arrays(), granularity=granularities)
def test_no_other_value_of_the_type_is_nearer(qtype, granularity, x):
    """So inside the range an error is at most half of the gap between the values around it.

    That is half a scale for integers, half a unit in the last place times the scale for floats.
    """
    q = quantize(jnp.asarray(x), quantizer(qtype, granularity), (1,)).plain()
    scale = full(q.scale, q)
    zero = middle(q) if q.zero is None else full(q.zero, q)
    values = values_of(q.qtype)
    grid = np.sort((values[:, None, None] - zero) * scale, axis=0)
    error = np.abs(np.float64(q.dequantize()) - x)
    slack = 4e-7 * (np.abs(x) + np.abs(scale * zero))
    assert np.all(error <= np.abs(grid - x).min(axis=0) + slack)
    inside = (grid[0] <= x) & (x <= grid[-1])
    below = np.clip((grid <= x).sum(axis=0) - 1, 0, len(values) - 2)
    gap = np.take_along_axis(np.diff(grid, axis=0), below[None], 0)[0]
    assert np.all(error[inside] <= (gap / 2 + slack)[inside])
    if q.qtype.kind == "int":
        np.testing.assert_allclose(gap, np.abs(scale), rtol=1e-6)


@every_type
@tried
@given(x=arrays(), granularity=granularities)
def test_quantizing_what_came_back_changes_nothing(qtype, granularity, x):
    """With the bounds of the first time, as a static range has them."""
    by = quantizer(qtype, granularity)
    bounds = find_range(jnp.asarray(x), block_sizes(SHAPE, by.granularity, (1,)), by)
    once = back(x, by, bounds=bounds)
    np.testing.assert_array_equal(back(once, by, bounds=bounds), once)


@every_type
@tried
@given(
    x=arrays(),
    granularity=granularities,
    exponent=st.integers(-20, 20),
    order=st.permutations(range(SHAPE[0])),
)
def test_powers_of_two_and_permutations_pass_through(qtype, granularity, x, exponent, order):
    """So do signs, where the type is symmetric; of permutations those of axes not contracted."""
    by = quantizer(qtype, granularity)
    plain = back(x, by)
    np.testing.assert_array_equal(back(np.ldexp(x, exponent), by), np.ldexp(plain, exponent))
    if granularity not in ROWS_TOGETHER:
        np.testing.assert_array_equal(back(x[order], by), plain[order])
    if qtype in SYMMETRIC:
        np.testing.assert_array_equal(back(-x, by), -plain)


@every_type
@tried
@given(x=arrays(), granularity=granularities)
def test_storing_codes_in_another_order_changes_nothing(qtype, granularity, x):
    """Contracted axes last, and densely packed where the type is."""
    by = quantizer(qtype, granularity)
    packed = np.asarray(quantize(jnp.asarray(x.T), by, (0,), pack=True).dequantize())
    plain = np.asarray(quantize(jnp.asarray(x.T), by, (0,)).dequantize())
    np.testing.assert_array_equal(packed, plain)


shapes = st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple)
few_shapes = st.sampled_from([(9,), (2, 13), (3, 0)])


@tried
@given(
    data=st.data(),
    bits=st.integers(1, 8),
    signed=st.booleans(),
    shape=shapes if many else few_shapes,
)
def test_packing_brings_back_every_code(data, bits, signed, shape):
    dtype = np.int8 if signed else np.uint8
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    codes = data.draw(hnp.arrays(dtype, shape, elements=st.integers(low, high)))
    packed = pack(jnp.asarray(codes), bits)
    assert packed.nbytes == codes[..., :1].size * -(-shape[-1] * bits // 8) or not codes.size
    np.testing.assert_array_equal(unpack(packed), codes)
