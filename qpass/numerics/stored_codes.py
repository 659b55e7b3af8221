"""From bytes with one code in each to codes as stored: dense, and in another order of axes.

XLA CPU writes an array of four-bit elements one by one: it reads a byte, puts the four bits in and
writes it back, and nothing in the same loop is vectorized. And it transposes an array element by
element in the order of the result, so that each is read from another line of the cache, which is
gone again before the next element of that line is wanted.

Here as many codes as fill a word are put together, which is the same few operations for all words
along a row; words are moved instead of codes, tile by tile; and then they are looked at as codes
again. Each of the three is a loop of its own over whole words or bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qpass.numerics.blocks import is_large, split_axis, split_blocks

_WORD = 32  # bits
_TILE = (8, 32)
"""Words along the axis that becomes the last one, and along the one that was: a kilobyte, of which
as many lines as there are words along the former are in use at a time, few enough for any cache."""

_DEVICES = 16
"""How many devices may share an axis without a word or a tile that lies on two of them."""


def stored(codes: jax.Array, dtype: np.dtype, order: Sequence[int]) -> jax.Array:
    """Codes as elements of a dtype, transposed.

    Args:
        codes: uint8 array, the bits of one code in each element; bits beyond those are ignored.
        dtype: of four or eight bits.
        order: the axes of codes as they are to follow each other, as for `lax.transpose`.

    Returns:
        array of that dtype, whose elements have those bits.
    """
    order, bits = tuple(order), bits_of(dtype)
    if bits == 4 and not _comes_in_pairs(codes, order):
        codes = lax.transpose(lax.optimization_barrier(codes & np.uint8(15)), order)
        return lax.bitcast_convert_type(codes.astype(jnp.uint4), dtype)
    dense = _transposed(codes, order, bits)
    if bits == 8:
        return lax.bitcast_convert_type(dense, dtype)
    halves = lax.bitcast_convert_type(lax.optimization_barrier(dense), dtype)
    return halves.reshape(*dense.shape[:-1], 2 * dense.shape[-1])


def bits_of(dtype: np.dtype) -> int:
    """How many bits an element takes."""
    return (jnp.iinfo if jnp.issubdtype(dtype, jnp.integer) else jnp.finfo)(dtype).bits


def _comes_in_pairs(x: jax.Array, order: tuple[int, ...]) -> bool:
    """Whether the last axis gets an even size; XLA cannot infer a symbolic one through bytes."""
    known = all(isinstance(n, int) for n in x.shape)
    return x.ndim > 0 and known and x.shape[order[-1]] % 2 == 0


def _transposed(codes: jax.Array, order: tuple[int, ...], bits: int) -> jax.Array:
    """Transposed codes in bytes, with as many in each along the last axis as there is room for."""
    if bits == 8 and order == tuple(range(codes.ndim)):
        return codes
    if is_large(codes.shape) and order[-1] != codes.ndim - 1:
        return _in_words(codes, order, bits)
    # The barriers keep what computes codes, and each step after it, a loop over whole rows.
    both = _joined(lax.optimization_barrier(codes), order[-1], 8 // bits, bits)
    return lax.transpose(lax.optimization_barrier(both), order)


def _in_words(codes: jax.Array, order: tuple[int, ...], bits: int) -> jax.Array:
    """The same, in words and by tiles."""
    count = max(8 // bits, _part(codes.shape[order[-1]], _WORD // bits))
    words = lax.optimization_barrier(_joined(codes, order[-1], count, bits))
    return _bytes(_by_tiles(words, order))


def _by_tiles(x: jax.Array, order: tuple[int, ...]) -> jax.Array:
    """`lax.transpose`, in two steps: within tiles that stay in the cache, then whole rows of tiles.

    A tile is one axis in between, so that the compiler has no choice but to lay it out in order.
    """
    sizes, last = [1] * x.ndim, x.ndim - 1
    for axis, most in zip((order[-1], last), _TILE, strict=True):
        sizes[axis] = _part(x.shape[axis], most)
    tiles = split_blocks(x, tuple(sizes))
    counts, insides = tuple(2 * axis for axis in order), tuple(2 * axis + 1 for axis in order)
    turned = lax.transpose(tiles, (*counts, *insides))
    flat = turned.reshape(*turned.shape[: x.ndim], math.prod(sizes))
    turned = lax.optimization_barrier(flat).reshape(turned.shape)
    return _merged(lax.transpose(turned, [a for i in range(x.ndim) for a in (i, x.ndim + i)]))


def _merged(tiles: jax.Array) -> jax.Array:
    """The inverse of `split_blocks`; axis by axis, as explicit shardings want it."""
    for axis in range(tiles.ndim // 2):
        count, size = tiles.shape[axis : axis + 2]
        tiles = tiles.reshape(*tiles.shape[:axis], count * size, *tiles.shape[axis + 2 :])
    return tiles


def _joined(codes: jax.Array, axis: int, count: int, bits: int) -> jax.Array:
    """So many neighbours along an axis in a word, the first one in its lowest bits."""
    word = jnp.dtype(f"uint{count * bits}")
    parts = split_axis(codes & np.uint8(2**bits - 1), axis, count)
    each = [lax.index_in_dim(parts, i, axis + 1, keepdims=False) for i in range(count)]
    shifted = (x.astype(word) << word.type(i * bits) for i, x in enumerate(each))
    return reduce(lax.bitwise_or, shifted)


def _bytes(words: jax.Array) -> jax.Array:
    """Words along the last axis as their bytes, the lowest first."""
    if words.dtype == jnp.uint8:
        return words
    *lead, n = words.shape
    return lax.bitcast_convert_type(words, jnp.uint8).reshape(*lead, n * words.dtype.itemsize)


def _part(n: int, most: int) -> int:
    """A power of two that divides n, and what each of many devices has of it."""
    return math.gcd(n // math.gcd(n, _DEVICES), most)
