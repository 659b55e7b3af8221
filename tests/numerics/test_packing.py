"""Packing against numpy's bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpass.errors import QuantizeError
from qpass.numerics.packing import Packed, pack, packed_length, unpack

SHAPES = [(0,), (8,), (2, 3, 17)]


@jax.jit(static_argnames="bits")
def there_and_back(codes, bits):
    packed = pack(codes, bits)
    return packed, unpack(packed)


def bits_of(codes, bits):
    """The stream of bits as numpy packs it, from one bit for each place of each code."""
    places = (codes.astype(np.int64)[..., None] >> np.arange(bits)) & 1
    stream = places.reshape(*codes.shape[:-1], codes.shape[-1] * bits).astype(np.uint8)
    return np.packbits(stream, axis=-1, bitorder="little")


def sample(shape, bits, dtype, seed=0):
    rng = np.random.default_rng([seed, bits])
    low = -(1 << bits - 1) if np.issubdtype(dtype, np.signedinteger) else 0
    return rng.integers(low, low + (1 << bits), shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("bits", range(1, 9))
def test_words_are_the_bits_in_order(bits, dtype):
    for shape in SHAPES:
        codes = sample(shape, bits, dtype)
        packed, back = there_and_back(codes, bits)
        assert packed.words.dtype == jnp.uint8
        assert packed.words.shape == (*shape[:-1], packed_length(shape[-1], bits))
        np.testing.assert_array_equal(packed.words, bits_of(codes, bits))
        assert back.dtype == dtype
        np.testing.assert_array_equal(back, codes)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple),
    st.sampled_from([2, 3, 4, 5, 6, 7]),
    st.sampled_from([np.int8, np.uint8]),
    st.integers(0, 99),
)
def test_any_shape_comes_back(shape, bits, dtype, seed):
    codes = sample(shape, bits, dtype, seed)
    packed, back = there_and_back(codes, bits)
    assert (packed.shape, packed.ndim, packed.size) == (codes.shape, codes.ndim, codes.size)
    assert packed.nbytes == codes.size // max(shape[-1], 1) * packed_length(shape[-1], bits)
    np.testing.assert_array_equal(packed.words, bits_of(codes, bits))
    np.testing.assert_array_equal(back, codes)


@pytest.mark.parametrize("dtype", [jnp.int4, jnp.uint4, jnp.int2, jnp.uint2])
def test_narrow_dtypes(dtype):
    bits = jnp.iinfo(dtype).bits
    codes = jnp.asarray(sample((3, 11), bits, np.uint8), jnp.uint8)
    codes = jax.lax.bitcast_convert_type(codes << (8 - bits), jnp.int8) >> (8 - bits)
    codes = codes.astype(dtype)
    packed = pack(codes, bits)
    assert packed.dtype == dtype
    assert unpack(packed).dtype == dtype
    np.testing.assert_array_equal(unpack(packed).astype(jnp.int8), codes.astype(jnp.int8))


def test_three_bits_take_three_eighths():
    assert pack(jnp.zeros((4, 64), jnp.int8), 3).words.nbytes == 4 * 24
    assert packed_length(9, 3) == 4


def test_is_a_pytree_of_one_array():
    packed = pack(sample((4, 3, 5), 3, np.int8), 3)
    assert len(jax.tree.leaves(packed)) == 1
    layer = jax.tree.map(lambda words: words[2], packed)
    assert layer.shape == (3, 5)
    np.testing.assert_array_equal(unpack(layer), unpack(packed)[2])


def test_under_jit_vmap_and_scan():
    codes = jnp.asarray(sample((4, 3, 5), 3, np.int8))
    packed = jax.jit(jax.vmap(lambda c: pack(c, 3)))(codes)
    assert isinstance(packed, Packed)
    np.testing.assert_array_equal(jax.jit(unpack)(packed), codes)
    np.testing.assert_array_equal(jax.vmap(unpack)(packed), codes)
    _, layers = jax.lax.scan(lambda carry, layer: (carry, unpack(layer)), 0, packed)
    np.testing.assert_array_equal(layers, codes)


@pytest.mark.parametrize(
    ("codes", "bits"),
    [
        (jnp.zeros((3,), jnp.float32), 2),
        (jnp.zeros((3,), jnp.int32), 2),
        (jnp.zeros((), jnp.int8), 2),
        (jnp.zeros((3,), jnp.int8), 0),
        (jnp.zeros((3,), jnp.int8), 9),
    ],
)
def test_what_cannot_be_packed(codes, bits):
    with pytest.raises(QuantizeError, match="at most 8 bits"):
        pack(codes, bits)
