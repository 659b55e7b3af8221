"""Codes that are packed and moved as words are those of a cast and a transpose."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from qpass.numerics import stored_codes
from qpass.numerics.stored_codes import bits_of, stored

INT4, INT8 = jnp.dtype(jnp.int4), jnp.dtype(jnp.int8)
DTYPES = [INT4, INT8, jnp.dtype(jnp.float4_e2m1fn), jnp.dtype(jnp.float8_e5m2)]
SHAPES = [(3,), (2, 6), (6, 3), (0, 4), (4, 0)]


def bits(shape, dtype):
    return np.random.default_rng(0).integers(0, 2 ** bits_of(dtype), shape, np.uint8)


def seen(codes):
    """The bits of each element, in a byte."""
    if bits_of(codes.dtype) == 8:
        return np.asarray(codes).view(np.uint8)
    return np.asarray(jax.lax.bitcast_convert_type(codes, jnp.uint4)).astype(np.uint8)


def transposed(x, dtype, order):
    return jax.jit(lambda x: stored(x, dtype, order))(x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_elements_have_the_bits(shape, dtype):
    made = transposed(bits(shape, dtype), dtype, range(len(shape)))
    assert made.dtype == dtype
    np.testing.assert_array_equal(seen(made), bits(shape, dtype))


def test_a_scalar():
    made = stored(np.uint8(5), INT4, ())
    assert made.dtype == INT4
    assert int(made) == 5


def test_bits_beyond_the_code_are_ignored():
    codes = np.array([[0xF1, 0x52], [0xFF, 0x08]], np.uint8)
    made = stored(codes, INT4, (1, 0))
    np.testing.assert_array_equal(made.astype(jnp.int32), [[1, -1], [2, -8]])


def test_what_a_cast_to_fp4_gives():
    x = np.array([0, 0.5, -1.5, -6, -0.0, 3], np.float32)
    codes = x.astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
    made = stored(codes, jnp.dtype(jnp.float4_e2m1fn), (0,))
    np.testing.assert_array_equal(made.astype(jnp.float32), x)


@pytest.mark.parametrize("dtype", [INT4, INT8], ids=str)
@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1), (0, 2, 1)], ids=str)
def test_transpose(order, dtype):
    x = bits((2, 3, 4), dtype)
    np.testing.assert_array_equal(seen(transposed(x, dtype, order)), x.transpose(order))


@pytest.mark.parametrize("dtype", [INT4, INT8], ids=str)
@pytest.mark.parametrize("order", [(2, 0, 1), (1, 2, 0), (2, 1, 0), (0, 2, 1)], ids=str)
@pytest.mark.parametrize("shape", [(32, 48, 96), (6, 62, 14), (1, 4, 2)], ids=str)
def test_transpose_in_words(monkeypatch, shape, order, dtype):
    """Whether an axis is cut in many words and tiles, in few, or hardly in any."""
    monkeypatch.setattr(stored_codes, "is_large", lambda shape: True)
    x = bits(shape, dtype)
    np.testing.assert_array_equal(seen(transposed(x, dtype, order)), x.transpose(order))


@pytest.mark.parametrize("dtype", [INT4, INT8], ids=str)
def test_a_large_array_is_mapped_over(dtype):
    x = bits((2, 2048, 2048), dtype)
    made = jax.jit(jax.vmap(lambda x: stored(x, dtype, (1, 0))))(x)
    np.testing.assert_array_equal(seen(made), x.transpose(0, 2, 1))
    assert made.on_device_size_in_bytes() == x.size * bits_of(dtype) // 8


@pytest.mark.parametrize("spec", [P("x", "y"), P(("x", "y"), None), P(None, ("x", "y"))], ids=str)
def test_words_and_tiles_lie_on_one_device(spec):
    devices = np.array(jax.devices()[:4]).reshape(2, 2)
    sharding = NamedSharding(Mesh(devices, ("x", "y"), axis_types=(AxisType.Auto,) * 2), spec)
    x = jax.device_put(bits((2048, 2048), INT4), sharding)
    compiled = jax.jit(lambda x: stored(x, INT4, (1, 0))).lower(x).compile()
    text, moves = str(compiled.as_text()), ("all-gather", "all-to-all", "collective-permute")
    assert not any(move in text for move in moves)
    np.testing.assert_array_equal(seen(compiled(x)), np.asarray(x).T)
