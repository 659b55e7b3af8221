"""Codes of four bits, made of bytes.

Two elements of int4 or uint4 lie in one byte. A program that casts to such a dtype writes them one
by one on XLA CPU: it reads a byte, puts the four bits in and writes it back, and nothing in the
same loop is vectorized. Here whole bytes are put together from two codes, and then looked at as
pairs of elements. The result is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_WHOLE = {jnp.dtype(jnp.int4): jnp.int8, jnp.dtype(jnp.uint4): jnp.uint8}


def cast(values: jax.Array, dtype: np.dtype) -> jax.Array:
    """`values.astype(dtype)`, for values that the dtype can hold."""
    if (whole := _WHOLE.get(dtype)) is None:
        return values.astype(dtype)
    # The barriers keep each step a loop over whole bytes.
    return _halves(lax.optimization_barrier(values.astype(whole)), dtype)


def transpose(codes: jax.Array, order: Sequence[int]) -> jax.Array:
    """`lax.transpose` of codes; the barrier keeps what computes them in its own order."""
    if tuple(order) == tuple(range(codes.ndim)):
        return codes
    dtype = codes.dtype
    codes = codes.astype(_WHOLE.get(dtype, dtype))
    return cast(lax.transpose(lax.optimization_barrier(codes), tuple(order)), dtype)


def _halves(codes: jax.Array, dtype: np.dtype) -> jax.Array:
    """Bytes as elements of half a byte; pairs along the last axis share one, the first below."""
    if codes.ndim == 0 or codes.shape[-1] % 2:
        return codes.astype(dtype)
    pairs = codes.reshape(*codes.shape[:-1], codes.shape[-1] // 2, 2)
    both = (pairs[..., 0] & 15) | (pairs[..., 1] << 4)
    both = lax.optimization_barrier(lax.bitcast_convert_type(both, jnp.uint8))
    return lax.bitcast_convert_type(both, dtype).reshape(codes.shape)
