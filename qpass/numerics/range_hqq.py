"""HQQ: a range that fits most values of a block well, whatever becomes of a few."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from qpass.errors import RuleError
from qpass.numerics.range_base import Bounds, Range, Sample, settled
from qpass.numerics.sums import block_exponents, scale_down, total

_BELOW_ONE = 1 - 2.0**-24
# How an error e and its cost sqrt(|e|) are weighed against each other, for errors as a part of
# four times the block's largest magnitude: what is larger than about a twentieth of that is taken
# for an outlier.
_SHARPNESS = 100.0


@dataclass(frozen=True)
class Hqq(Range):
    """Bounds with the least sum of square roots of errors, as half-quadratic steps find them.

    Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023): errors
    to a power below 1 let few be large and most be small, and no data is needed. Each step takes
    the largest errors out of the block, and fits the scale to the rest by least squares; of all
    steps the best one counts. The authors fit the zero point, here it is the scale, which every
    type has; torchao does so for symmetric types.

    Raises:
        RuleError: `steps` is not an int of 1 or more.
    """

    steps: int = 20

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise RuleError(
                f"Give the range 'hqq' an int of 1 or more as the number of steps, such as "
                f"'hqq,20'; got {self.steps!r}."
            )

    def bounds(self, sample: Sample) -> Bounds:
        """Those of the best step; the extremes where none is better."""
        lo, hi = sample.extremes()
        values, blocks = sample.values, sample.blocks
        exponent = block_exponents(values, blocks)

        def unit(x: jax.Array) -> jax.Array:
            return jnp.clip(scale_down(x, exponent, blocks), -_BELOW_ONE, _BELOW_ONE)

        def step(state, _):
            factor, best, least = state
            # The barriers keep products from being fused with what follows, as in a search.
            back = lax.optimization_barrier(
                sample.trial(*settled(sample, lo * factor, hi * factor))
            )
            error = unit(values - back)
            cost = total(jnp.minimum(jnp.sqrt(jnp.abs(error)), _BELOW_ONE), blocks)
            better = cost < least
            kept = jnp.where(better, factor, best), jnp.where(better, cost, least)
            rest = unit(values) - _outliers(error)
            y = unit(back)
            fitted = _sum(rest * y, blocks) / jnp.maximum(_sum(y * y, blocks), 2.0**-48)
            return (factor * jnp.clip(fitted, 0.5, 2.0), *kept), None

        shape = sample.finite.shape
        one = jnp.ones(shape, jnp.float32)
        first = (one, one, jnp.full(shape, jnp.inf, jnp.float32))
        (_, best, _), _ = lax.scan(step, first, length=self.steps)
        return settled(sample, lo * best, hi * best)

    def __str__(self) -> str:
        return "hqq" if self.steps == Hqq.steps else f"hqq,{self.steps}"


def _outliers(error: jax.Array) -> jax.Array:
    """The part of errors that is better taken for an outlier: the shrinkage for square roots."""
    size = jnp.abs(error)
    price = lax.optimization_barrier(1 / (_SHARPNESS * jnp.sqrt(jnp.maximum(size, 2.0**-48))))
    return jnp.sign(error) * jnp.maximum(size - price, 0)


def _sum(y: jax.Array, blocks: tuple[int, ...]) -> jax.Array:
    """Sum over each block of values in (-1, 1), in no order."""
    y = lax.optimization_barrier(y)
    return total(jnp.maximum(y, 0), blocks) - total(jnp.maximum(-y, 0), blocks)
