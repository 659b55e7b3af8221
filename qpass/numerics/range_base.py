"""What every range is given and gives, and what is made sure of all bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from qpass.numerics.blocks import extremes, finite_or_zero, reduce_blocks
from qpass.numerics.casts import as_f32

type Bounds = tuple[jax.Array, jax.Array]

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Sample:
    """What a range looks at.

    Attributes:
        x: the array to be quantized, of any float dtype.
        finite: float32 of the shape of the scales, how many finite elements each block has.
        blocks: one block size for each axis.
        importance: float32 that broadcasts to `values`, how much an error in each element counts,
            as `E[x^2]` along the contracted axis of a weight; None where it is not known.
        trial: from two bounds, the values that come back when `values` is quantized with them and
            dequantized, in float32.
        rounded: rounds float32 to what the dialect computes scales in.
    """

    x: jax.Array
    finite: jax.Array
    blocks: tuple[int, ...]
    importance: jax.Array | None
    trial: Callable[[jax.Array, jax.Array], jax.Array]
    rounded: Callable[[jax.Array], jax.Array] = lambda y: y

    @property
    def values(self) -> jax.Array:
        """The elements of x in float32, and 0 for those that are not finite."""
        return finite_or_zero(as_f32(self.x))

    def extremes(self) -> Bounds:
        """The least and the greatest finite value of each block and 0."""
        return extremes(self.x, self.blocks)

    def times(self, y: jax.Array, factor: float) -> jax.Array:
        """`y * factor`, both factor and product as the dialect rounds them."""
        return self.rounded(y * self.rounded(jnp.full((), factor, jnp.float32)))


class Range:
    """Base class of ranges: frozen dataclasses whose text is what rules call them."""

    def bounds(self, sample: Sample) -> Bounds:
        """The bounds of every block.

        Args:
            sample: the values, and how they are cut in blocks.

        Returns:
            `(lo, hi)`, float32 of the shape of the scales, `lo <= 0 <= hi`.

        Raises:
            QuantizeError: the sample lacks what the method needs.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how bounds are found")

    def rescale(self, scale: jax.Array) -> jax.Array:
        """The scales that are used, from those that follow from the bounds; both float32."""
        return scale


def settled(sample: Sample, lo: jax.Array, hi: jax.Array) -> Bounds:
    """Finite bounds on both sides of 0.

    A block with values has bounds: where both were rounded to zero, or a statistic of mostly zeros
    is zero, they are the extremes.
    """
    lo, hi = jnp.clip(lo, -_LARGEST, 0), jnp.clip(hi, 0, _LARGEST)
    least, greatest = sample.extremes()
    gone = (lo == 0) & (hi == 0)
    return jnp.where(gone, least, lo), jnp.where(gone, greatest, hi)


def not_too_wide(sample: Sample, lo: jax.Array, hi: jax.Array) -> Bounds:
    """Bounds with which some code of a block with values is not zero.

    Where bounds lie so far outside that everything is rounded to zero, they give way to the
    extremes. It depends on the type which these are: 3 times the largest magnitude is harmless for
    int8 and too wide for int2.
    """
    back = jnp.abs(sample.trial(lo, hi))
    lost = reduce_blocks(back, sample.blocks, jnp.max) == 0
    least, greatest = sample.extremes()
    return jnp.where(lost, least, lo), jnp.where(lost, greatest, hi)
