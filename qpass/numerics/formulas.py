"""Scales, codes and values back: the one place of the formulas.

Every step is a multiplication, a rounding, a clip, a cast or a maximum, each of which XLA computes
the same way eagerly, inside a larger program, under `vmap` and inside `scan`. That is what makes
the quantization-aware forward (codes computed in the program) equal the served forward (codes
stored) bit for bit. There is no division by a broadcast value anywhere: XLA rewrites `x / c` to
`x * (1 / c)` depending on the context, which moves codes that lie on a tie.

`blocks` is one block size for each axis, as from `qpass.numerics.block_sizes`: how many neighbours
along that axis share a scale. Along an axis of n elements a scale has `count_blocks(n, block)`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qpass.numerics.axes import count_blocks
from qpass.numerics.dialects import QPASS, Dialect
from qpass.numerics.qtypes import QType


def scales(
    x: jax.Array, blocks: tuple[int, ...], qtype: QType, dialect: Dialect = QPASS
) -> jax.Array:
    """The symmetric scale of every block: its largest finite magnitude is mapped to the bound.

    `absmax * f32(1 / bound)`. In the dialect `qpass` the bound is `qmax`, a scale is at least the
    smallest normal f32, and a block of zeros, or without any finite value, has scale 1.

    Args:
        x: array of any float dtype.
        blocks: one block size for each axis.
        qtype: the type of the codes.
        dialect: bound, least scales, and what they are rounded to.

    Returns:
        float32 array of the rank of x, `count_blocks` elements along each axis.
    """
    magnitude = jnp.abs(_as_f32(x))
    amax = _block_max(jnp.where(magnitude < jnp.inf, magnitude, 0), blocks)
    kept = dialect.precision(x.dtype)
    scale = _rounded(amax * _inverse(np.float32(dialect.bound(qtype)), kept), kept)
    return dialect.guard(amax, scale, kept)


def encode(
    x: jax.Array,
    scale: jax.Array,
    blocks: tuple[int, ...],
    qtype: QType,
    dialect: Dialect = QPASS,
) -> jax.Array:
    """The codes of x: `clip(rint(f32(x) * (1 / scale)), least, greatest)`, ties to even.

    The reciprocal is taken of the small array of scales and then multiplied, never `x / scale` on a
    broadcast scale: XLA rewrites that division depending on the context. That codes computed inside
    a training step equal codes stored beforehand, bit for bit, rests on it.

    Float types are not rounded to integers, the cast rounds. Infinities saturate. NaN becomes 0 in
    an integer type and stays NaN in a float type.

    Args:
        x: array of any float dtype.
        scale: float32, as from `scales`.
        blocks: one block size for each axis.
        qtype: the type of the codes.
        dialect: the range of codes, and what quotients are rounded to before.

    Returns:
        array of the shape of x and the dtype of `qtype`.
    """
    kept = dialect.precision(x.dtype)
    if dialect.divides and scale.shape == x.shape:
        y = _as_f32(x) / scale
    else:
        y = _as_f32(x) * expand(_inverse(scale, kept), x.shape, blocks)
    y = _rounded(y, kept)
    if qtype.kind == "int":
        y = jnp.rint(jnp.where(jnp.isnan(y), 0, y))
    return jnp.clip(y, *dialect.limits(qtype)).astype(qtype.dtype)


def decode(
    codes: jax.Array, scale: jax.Array, blocks: tuple[int, ...], dtype: np.dtype
) -> jax.Array:
    """The values that codes stand for: `f32(codes) * scale`, cast to `dtype`.

    Args:
        codes: array of codes.
        scale: float32, with `count_blocks` elements along each axis of codes.
        blocks: one block size for each axis.
        dtype: a float dtype.

    Returns:
        array of the shape of codes and that dtype.
    """
    return (codes.astype(jnp.float32) * expand(scale, codes.shape, blocks)).astype(dtype)


def expand(scale: jax.Array, shape: tuple[int, ...], blocks: tuple[int, ...]) -> jax.Array:
    """Repeat scales along the axes that are cut in groups, so that they broadcast to `shape`."""
    for axis in cut_axes(shape, blocks):
        scale = jnp.repeat(scale, blocks[axis], axis)
        scale = lax.slice_in_dim(scale, 0, shape[axis], axis=axis)
    return scale


def cut_axes(shape: tuple[int, ...], blocks: tuple[int, ...]) -> tuple[int, ...]:
    """The axes that are cut in groups: neither one scale for all nor one for each index."""
    pairs = enumerate(zip(shape, blocks, strict=True))
    return tuple(axis for axis, (n, block) in pairs if block != n and block != 1)


def count_nonfinite(x: jax.Array) -> jax.Array:
    """How many elements of x are NaN or infinite: an int32 scalar."""
    return jnp.sum(~jnp.isfinite(x), dtype=jnp.int32)


def _as_f32(x: jax.Array) -> jax.Array:
    """Cast to float32 a value that really has been rounded to its own dtype.

    Inside a program XLA may keep the float32 result of a bf16 operation when it is cast back to
    float32 right away, so codes would differ from those of the array seen from outside. The forced
    rounding changes nothing in a value that has it already.
    """
    if x.dtype == jnp.bfloat16:
        return _rounded(x.astype(jnp.float32), x.dtype)
    # `reduce_precision` would flush the subnormals of f16, which are ordinary numbers here.
    return (lax.optimization_barrier(x) if x.dtype.itemsize < 4 else x).astype(jnp.float32)


def _rounded(y: jax.Array, dtype: np.dtype) -> jax.Array:
    """A float32 array rounded to a float dtype, still in float32; the same array for float32."""
    if dtype == jnp.bfloat16:
        return lax.reduce_precision(y, exponent_bits=8, mantissa_bits=7)
    return _as_f32(y.astype(dtype)) if dtype.itemsize < 4 else y


def _inverse(y: Any, dtype: np.dtype) -> Any:
    """`1 / y` as XLA has it for arrays of that dtype: f16 is computed in f16, bf16 in float32."""
    return _rounded(jnp.asarray(1 / y), dtype) if dtype == jnp.float16 else 1 / y


def _block_max(x: jax.Array, blocks: tuple[int, ...]) -> jax.Array:
    """The maximum of every block of a non-negative array; 0 for an empty block."""
    shared = tuple(
        d for d, (n, block) in enumerate(zip(x.shape, blocks, strict=True)) if n == block
    )
    cut = cut_axes(x.shape, blocks)
    x = jnp.max(x, axis=shared, keepdims=True, initial=0)
    for axis in cut:
        x = _cut_max(x, axis, blocks[axis])
    return x


def _cut_max(x: jax.Array, axis: int, block: int) -> jax.Array:
    """The maximum of every `block` neighbours along one axis; the last group may be short."""
    n, groups = x.shape[axis], count_blocks(x.shape[axis], block)
    tail = [(0, groups * block - n if d == axis else 0, 0) for d in range(x.ndim)]
    x = lax.pad(x, jnp.zeros((), x.dtype), tail)
    x = x.reshape(*x.shape[:axis], groups, block, *x.shape[axis + 1 :])
    return jnp.max(x, axis=axis + 1, initial=0)
