"""Sums over blocks that come out the same in whatever order they are taken.

A sum of floats depends on the order of its terms, and XLA chooses that order by the layout of the
array and by what it fuses. A range that rests on such a sum would differ in its last bit between a
training step and a stored checkpoint, and so would codes. Here every block is scaled by a power of
two to magnitudes below 1 and cut into integer digits, which are summed: integer sums have no order.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from qpass.numerics.blocks import expand, reduce_blocks

# How many bits after the point of every term count. Terms are often squares of small errors.
_BITS = 48
# Assumed of a block whose size is not known when the program is traced.
_MANY = 2**27


def block_exponents(x: jax.Array, blocks: tuple[int, ...]) -> jax.Array:
    """An `e` for every block, int32 from -126 to 126, with all its magnitudes below `4 * 2**e`."""
    # Within these limits 2**e and 2**-e are normal numbers; 4 is what the greatest float32 needs.
    return jnp.clip(exponents(reduce_blocks(jnp.abs(x), blocks, jnp.max)), -126, 126)


def scale_down(x: jax.Array, exponent: jax.Array, blocks: tuple[int, ...]) -> jax.Array:
    """`x / (4 * 2**exponent)`, exact but for what is too small to count beside the largest."""
    return x * expand(power_of_two(-exponent), x.shape, blocks) * 0.25


def scale_up(y: jax.Array, exponent: jax.Array) -> jax.Array:
    """`y * 4 * 2**exponent`, for statistics of what `scale_down` gave."""
    return y * 4 * power_of_two(exponent)


def total(y: jax.Array, blocks: tuple[int, ...]) -> jax.Array:
    """Sum over each block of an array with values in [0, 1).

    Args:
        y: float32 array, 0 <= y < 1; what lies more than 48 bits after the point may be cut off.
        blocks: one block size for each axis.

    Returns:
        float32 array of the shape of the scales, the same bits for every order of the elements.
    """
    width = 31 - (_elements(blocks) - 1).bit_length()  # so that the sum of digits fits int32
    result = jnp.zeros((), jnp.float32)
    for place in range(1, -(-_BITS // width) + 1):
        y = y * 2.0**width
        digit = jnp.floor(y)
        y = y - digit
        count = reduce_blocks(digit.astype(jnp.int32), blocks, jnp.sum)
        result = result + count.astype(jnp.float32) * 2.0 ** (-width * place)
    return result


def exponents(x: jax.Array) -> jax.Array:
    """`floor(log2 |x|)` of a float32 array as int32, from its bits; -127 for 0 and subnormals."""
    return ((lax.bitcast_convert_type(x, jnp.int32) >> 23) & 0xFF) - 127


def power_of_two(exponent: jax.Array) -> jax.Array:
    """`2 ** exponent` as float32, exactly, for int32 from -126 to 127."""
    return lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)


def _elements(blocks: tuple[int, ...]) -> int:
    known = all(isinstance(block, int) for block in blocks)
    return max(math.prod(blocks), 1) if known else _MANY
