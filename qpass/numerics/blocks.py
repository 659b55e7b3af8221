"""Blocks: which neighbours share a scale, and reductions over them.

`blocks` is one block size for each axis, as from `qpass.numerics.block_sizes`: how many neighbours
along that axis share a scale. An array of n elements along an axis has `count_blocks(n, block)`
scales there; "of the shape of the scales" means that along every axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qpass.numerics.axes import count_blocks
from qpass.numerics.casts import as_f32, held, widened

type Reduction = Callable[..., jax.Array]
type Pair = tuple[jax.Array, jax.Array]

_LARGE = 2**22
_SLICES = 32


def reduce_blocks(
    x: jax.Array, blocks: tuple[int, ...], op: Reduction, fill: float = 0
) -> jax.Array:
    """Reduce every block of an array to one number.

    Args:
        x: array.
        blocks: one block size for each axis.
        op: `jnp.max`, `jnp.min` or `jnp.sum`; anything that takes `axis`, `keepdims`, `initial`.
        fill: what an empty block has and a short last block is filled up with; it must not change
            the result of a block that has elements.

    Returns:
        array of the dtype of x and the shape of the scales.
    """
    pairs = enumerate(zip(x.shape, blocks, strict=True))
    shared = tuple(axis for axis, (n, block) in pairs if n == block)
    cut = cut_axes(x.shape, blocks)
    for axis in reversed(cut):
        x = op(split_axis(x, axis, blocks[axis], fill), axis=axis + 1, initial=fill)
    return op(x, axis=shared, keepdims=True, initial=fill) if shared else x


def extremes(x: jax.Array, blocks: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """The least and the greatest of the finite elements of every block and 0.

    The same as two calls of `reduce_blocks`. But those read an array that XLA CPU computes and
    stores beforehand: in memory that is new every time, which takes longer than all else. What does
    not, XLA cannot split over devices. So it goes over parts of blocks that lie on one device, and
    `reduce_blocks` over the parts.

    Args:
        x: array of any float dtype.
        blocks: one block size for each axis.

    Returns:
        two float32 arrays of the shape of the scales.
    """
    local = tuple(map(_local, x.shape, blocks))
    if x.ndim and blocks[-1] != 1:
        least, greatest = _in_one_pass(finite_or_zero(as_f32(x)), local)
    elif is_large(x.shape):
        least, greatest = _by_slices(held(x), local)
    else:
        least = greatest = finite_or_zero(as_f32(x))
        local = (1,) * x.ndim
    rest = tuple(map(count_blocks, blocks, local))
    least, greatest = reduce_blocks(least, rest, jnp.min), reduce_blocks(greatest, rest, jnp.max)
    return jnp.minimum(least, 0), jnp.maximum(greatest, 0)


# Jitted: step by step, each step would be an array as large as x.
@jax.jit
def count_nonfinite(x: jax.Array) -> jax.Array:
    """How many elements of x are NaN or infinite: an int32 scalar. Stores nothing of the size of x.

    NaN and infinities are counted apart for the same reason that `extremes` finds two at once.
    """
    parts = split_blocks(x, tuple(_local(n, n) for n in x.shape))
    both = tuple(of(parts).astype(jnp.int32) for of in (jnp.isnan, jnp.isinf))
    zeros, axes = (np.zeros((), np.int32),) * 2, tuple(range(1, parts.ndim, 2))
    nans, infinities = lax.reduce(both, zeros, _add, axes)
    return jnp.sum(nans + infinities)


def finite_or_zero(x: jax.Array) -> jax.Array:
    """Replace by 0 what is not finite."""
    return jnp.where(jnp.isfinite(x), x, 0)


def is_large(shape: tuple[int, ...]) -> bool:
    """Whether an array repays a program that takes longer to compile; not of symbolic shapes."""
    return all(isinstance(n, int) for n in shape) and math.prod(shape) >= _LARGE


def split_blocks(x: jax.Array, blocks: tuple[int, ...], fill: float = 0) -> jax.Array:
    """Cut every axis in its blocks, for what needs all elements of a block at once.

    Returns:
        array with twice the axes of x: for each axis the number of blocks, then the block size.
        A short last block is filled up with `fill`.
    """
    for axis in reversed(range(x.ndim)):
        x = split_axis(x, axis, blocks[axis], fill)
    return x


def split_axis(x: jax.Array, axis: int, block: int, fill: float = 0) -> jax.Array:
    """One axis as two: the blocks, and the elements of a block; `fill` where the last is short."""
    n = x.shape[axis]
    count = count_blocks(n, block)
    if count * block != n:
        tail = [(0, count * block - n if d == axis else 0, 0) for d in range(x.ndim)]
        x = lax.pad(x, jnp.asarray(fill, x.dtype), tail)
    return x.reshape(*x.shape[:axis], count, block, *x.shape[axis + 1 :])


def expand(scale: jax.Array, shape: tuple[int, ...], blocks: tuple[int, ...]) -> jax.Array:
    """Repeat scales along the axes that are cut in groups, so that they broadcast to `shape`.

    Along the last of several first, and stored so: it is small, and a loop along a row that has to
    look scales up in it is not vectorized.
    """
    cut = cut_axes(shape, blocks)
    for axis in reversed(cut):
        scale = jnp.repeat(scale, blocks[axis], axis)
        scale = lax.slice_in_dim(scale, 0, shape[axis], axis=axis)
        scale = scale if axis == cut[0] else lax.optimization_barrier(scale)
    return scale


def cut_axes(shape: tuple[int, ...], blocks: tuple[int, ...]) -> tuple[int, ...]:
    """The axes that are cut in groups: neither one scale for all nor one for each index."""
    pairs = enumerate(zip(shape, blocks, strict=True))
    return tuple(axis for axis, (n, block) in pairs if block != n and block != 1)


def _in_one_pass(x: jax.Array, local: tuple[int, ...]) -> Pair:
    """One reduction with two results, in whose loop XLA also computes its operand."""
    parts, zero = split_blocks(x, local), np.zeros((), x.dtype)
    least, greatest = lax.reduce(
        (parts, parts), (zero, zero), _widen, tuple(range(1, parts.ndim, 2))
    )
    return least, greatest


def _widen(found: Pair, more: Pair) -> Pair:
    return lax.min(found[0], more[0]), lax.max(found[1], more[1])


def _add(found: Pair, more: Pair) -> Pair:
    return found[0] + more[0], found[1] + more[1]


def _by_slices(x: jax.Array, local: tuple[int, ...]) -> Pair:
    """Reduce axes before the last one, many slices at a time.

    XLA CPU reduces such an axis column by column; of an expression of slices it makes a loop along
    the rows. It takes longer to compile, which only large arrays repay. Slices are cast to float32
    one by one: it would store an array that is cast before it is cut.
    """
    shape = tuple(map(count_blocks, x.shape, local))
    x = split_blocks(x, local)
    for axis in range(1, x.ndim, 2):
        while (n := x.shape[axis]) > 1:
            parts = split_axis(x, axis, min(n, _SLICES))
            x = _ends([lax.index_in_dim(parts, i, axis + 1, False) for i in range(min(n, _SLICES))])
    return _least(x).reshape(shape), _greatest(x).reshape(shape)


def _ends(slices: list[jax.Array]) -> jax.Array:
    """The least and the greatest as the two parts of a complex number.

    XLA CPU has a loop for every result. Of this it makes one, which reads the slices once.
    """
    least, greatest = reduce(lax.min, map(_least, slices)), reduce(lax.max, map(_greatest, slices))
    return lax.optimization_barrier(lax.complex(least, greatest))


def _least(x: jax.Array) -> jax.Array:
    """The least of what x was made of; x itself is looked at slice by slice, not stored before."""
    return lax.real(x) if jnp.iscomplexobj(x) else finite_or_zero(widened(x))


def _greatest(x: jax.Array) -> jax.Array:
    return lax.imag(x) if jnp.iscomplexobj(x) else finite_or_zero(widened(x))


def _local(n: int, block: int) -> int:
    """A part of a block that does not lie on two devices, however many up to 64 share the axis."""
    return n // math.gcd(n, 64) if n == block and isinstance(n, int) and n else block
