"""Tables of values against ml_dtypes' casts, and against a search in float64."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from qpass.numerics.qtypes import QType, mxfp6, nf4
from qpass.numerics.tables import FP6_E3M2, carried, decode_table, encode_table

E3M2 = QType("fp6_e3m2", jnp.dtype(jnp.uint8), -28, 28, "table", table=FP6_E3M2)
TERNARY = QType("ternary", jnp.dtype(jnp.uint8), -1, 1, "table", table=(0.0, -1.0, 1.0))
LONG = QType(
    "long", jnp.dtype(jnp.uint8), -1, 1, "table", table=tuple(np.linspace(-1, 1, 33).tolist())
)
FP6 = [(mxfp6, ml_dtypes.float6_e2m3fn), (E3M2, ml_dtypes.float6_e3m2fn)]
TYPES = [nf4, mxfp6, E3M2, TERNARY, LONG]


def hard(table):
    """Every value, every place halfway between two, their neighbours, and what lies beyond."""
    values = np.unique(np.asarray(table, np.float32))
    halves = ((values[1:].astype(float) + values[:-1]) / 2).astype(np.float32)
    at = np.concatenate([values, halves])
    near = [np.nextafter(at, np.float32(to)) for to in (-np.inf, np.inf)]
    drawn = np.random.default_rng(0).standard_normal(500).astype(np.float32) * values[-1]
    y = np.concatenate([at, *near, drawn, [np.inf, -np.inf, 1e30]]).astype(np.float32)
    return y[(y == 0) | (np.abs(y) >= np.finfo(np.float32).tiny)]  # XLA takes subnormals for zero.


@pytest.mark.parametrize("qtype", TYPES, ids=str)
def test_nearest_value_and_even_index_of_two(qtype):
    y = hard(qtype.table)
    codes = np.asarray(jax.jit(lambda y: encode_table(y, qtype))(y).astype(jnp.int32))
    inside = np.clip(y.astype(float), qtype.qmin, qtype.qmax)
    distance = np.abs(np.asarray(qtype.table, np.float32).astype(float) - inside[:, None])
    least = distance.min(axis=1)
    np.testing.assert_array_equal(distance[np.arange(len(y)), codes], least)
    tied = (distance == least[:, None]).sum(axis=1) > 1
    even = (distance[:, ::2] == least[:, None]).any(axis=1)
    assert not (codes[tied & even] % 2).any()


@pytest.mark.parametrize("qtype", TYPES, ids=str)
def test_every_index_stands_for_its_value(qtype):
    indices = jnp.arange(len(qtype.table)).astype(qtype.dtype)
    values = decode_table(indices, qtype)
    assert values.dtype == jnp.float32
    np.testing.assert_array_equal(values, np.asarray(qtype.table, np.float32))
    again = decode_table(encode_table(values, qtype), qtype)
    np.testing.assert_array_equal(again, values)


@pytest.mark.parametrize(("qtype", "dtype"), FP6, ids=str)
def test_six_bit_floats_are_those_of_ml_dtypes(qtype, dtype):
    y = hard(qtype.table)
    wanted = np.clip(y, qtype.qmin, qtype.qmax).astype(dtype)
    np.testing.assert_array_equal(encode_table(y, qtype), wanted.view(np.uint8))
    codes, factor = carried(jnp.asarray(wanted.view(np.uint8)), qtype)
    np.testing.assert_array_equal(codes.astype(jnp.float32) * factor, wanted.astype(np.float32))


@pytest.mark.parametrize("qtype", TYPES, ids=str)
def test_nan_goes_to_zero(qtype):
    codes = encode_table(jnp.array([jnp.nan, 0.0]), qtype)
    assert codes.dtype == jnp.uint8
    np.testing.assert_array_equal(decode_table(codes, qtype), [0, 0])


def test_only_six_bit_floats_are_carried():
    assert carried(jnp.zeros(3, jnp.uint4), nf4) is None


def test_nf4_is_symmetric_in_nothing_but_its_ends():
    assert nf4.table[7] == 0
    assert (nf4.table[0], nf4.table[-1]) == (-1, 1)
    assert list(nf4.table) == sorted(nf4.table)
    assert len(nf4.table) == 16
