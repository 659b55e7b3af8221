"""Codes of four bits are those of a cast."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass.numerics import half_bytes

SHAPES = [(), (3,), (4,), (2, 6), (6, 3), (2, 3, 4), (0, 4), (4, 0)]
DTYPES = [jnp.dtype(jnp.int4), jnp.dtype(jnp.uint4), jnp.dtype(jnp.int8)]


def codes(shape, dtype):
    low = 0 if dtype == jnp.uint4 else -8
    return np.random.default_rng(0).integers(low, low + 16, shape).astype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cast(shape, dtype):
    values = codes(shape, dtype)
    made = jax.jit(lambda x: half_bytes.cast(x, dtype))(values)
    assert made.dtype == dtype
    np.testing.assert_array_equal(np.asarray(made).astype(np.float32), values)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)], ids=str)
def test_transpose(order, dtype):
    values = codes((2, 3, 4), dtype)
    made = jax.jit(lambda x: half_bytes.transpose(x.astype(dtype), order))(values)
    assert made.dtype == dtype
    np.testing.assert_array_equal(np.asarray(made).astype(np.float32), values.transpose(order))


def test_cast_is_mapped_over_and_two_codes_take_a_byte():
    values = codes((2, 6), DTYPES[0])
    made = jax.jit(jax.vmap(lambda x: half_bytes.cast(x, DTYPES[0])))(values)
    np.testing.assert_array_equal(np.asarray(made).astype(np.float32), values)
    assert made.on_device_size_in_bytes() == 6
