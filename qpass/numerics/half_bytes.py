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
    whole = _WHOLE.get(dtype)
    if whole is None or not _comes_in_pairs(values, -1):
        return values.astype(dtype)
    # The barriers keep each step a loop over whole bytes.
    codes = lax.optimization_barrier(values.astype(whole))
    return _opened(_paired(codes, values.ndim - 1), dtype)


def transpose(codes: jax.Array, order: Sequence[int]) -> jax.Array:
    """`lax.transpose` of codes; the barrier keeps what computes them in its own order."""
    order, dtype = tuple(order), codes.dtype
    if order == tuple(range(codes.ndim)):
        return codes
    whole = _WHOLE.get(dtype, dtype)
    if whole == dtype or not _comes_in_pairs(codes, order[-1]):
        return lax.transpose(lax.optimization_barrier(codes.astype(whole)), order).astype(dtype)
    both = lax.optimization_barrier(_paired(codes.astype(whole), order[-1]))
    return _opened(lax.transpose(both, order), dtype)


def _comes_in_pairs(x: jax.Array, axis: int) -> bool:
    """Whether an axis has an even size; XLA cannot infer a symbolic one through bytes."""
    return x.ndim > 0 and all(isinstance(n, int) for n in x.shape) and x.shape[axis] % 2 == 0


def _paired(codes: jax.Array, axis: int) -> jax.Array:
    """Two neighbours along an axis in a byte, the first in its lower half."""
    n = codes.shape[axis]
    pairs = codes.reshape(*codes.shape[:axis], n // 2, 2, *codes.shape[axis + 1 :])
    low, high = (lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
    return lax.bitcast_convert_type((low & 15) | (high << 4), jnp.uint8)


def _opened(both: jax.Array, dtype: np.dtype) -> jax.Array:
    """Bytes along the last axis as twice as many elements."""
    halves = lax.bitcast_convert_type(lax.optimization_barrier(both), dtype)
    return halves.reshape(*both.shape[:-1], 2 * both.shape[-1])
