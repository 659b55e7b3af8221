"""Quantizing takes memory for less than another array, whatever its dtype and however it lies."""

import jax
import jax.numpy as jnp
import pytest

from qpass.numerics import as_quantizer, blocks, count_nonfinite, quantize

SHAPE = (2048, 2048)


@pytest.mark.parametrize("quantizer", ["int8", "int4 g32"])
@pytest.mark.parametrize("contract", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_temporaries_are_less_than_the_array(dtype, contract, quantizer):
    assert blocks.is_large(SHAPE)
    x = jax.ShapeDtypeStruct(SHAPE, dtype)
    fn = jax.jit(lambda x: quantize(x, as_quantizer(quantizer), (contract,), pack=True))
    assert temporaries(fn, x) < x.size * jnp.dtype(dtype).itemsize


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_finite_weights_are_told_by_a_look_at_them(dtype):
    x = jax.ShapeDtypeStruct(SHAPE, dtype)
    assert temporaries(count_nonfinite, x) < 0.05 * x.size


def temporaries(fn, x):
    """Bytes that the compiled function needs beside argument and result."""
    needed = fn.lower(x).compile().memory_analysis()
    assert needed is not None
    return needed.temp_size_in_bytes
