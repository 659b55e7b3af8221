"""Ranges that are searched for: of several bounds, those with the least error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qpass.errors import QuantizeError, RuleError
from qpass.numerics.range_base import Bounds, Range, Sample, settled
from qpass.numerics.range_numbers import assign, positive, shown
from qpass.numerics.sums import block_exponents, scale_down, total

_BELOW_ONE = 1 - 2.0**-24

type Candidate = Callable[[jax.Array], Bounds]


@dataclass(frozen=True)
class Mse(Range):
    """Of several clip factors, that with the least mean squared error in the block.

    The candidates are the extremes of the block times `steps` factors, evenly spaced from 1 down to
    `least`. The larger factor wins a tie.

    Raises:
        RuleError: `steps` is not an int of 1 or more, or `least` not a number above 0 and up to 1.
    """

    steps: int = 20
    least: float = 0.05

    word: ClassVar[str] = "mse"

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise RuleError(
                f"Give the range {self.word!r} an int of 1 or more as the number of factors that "
                f"are tried, such as '{self.word},20'; got {self.steps!r}."
            )
        least = positive(self.word, "least factor", self.least)
        if least > 1:
            raise RuleError(
                f"Give the range {self.word!r} a least factor of at most 1; got {shown(least)}."
            )
        assign(self, least=least)

    def bounds(self, sample: Sample) -> Bounds:
        """Those of the candidate with the least sum of squared errors."""
        return _search(sample, _scaled_extremes(sample), self.factors(), None)

    def factors(self) -> np.ndarray:
        """The candidates, float32, the largest first."""
        return np.linspace(1, self.least, self.steps).astype(np.float32)

    def __str__(self) -> str:
        given = [str(self.steps), shown(self.least)]
        defaults = [str(Mse.steps), shown(Mse.least)]
        while given and given[-1] == defaults[len(given) - 1]:
            given.pop()
        return ",".join((self.word, *given))


@dataclass(frozen=True)
class WeightedMse(Mse):
    """Like `Mse`, and every squared error is weighted by the importance of its element.

    With the mean square of what a weight is multiplied by, `E[x^2]` for each index of the
    contracted axis, the weighted error is the expected squared error of the product for
    uncorrelated inputs. llm-compressor has it as the observer `imatrix_mse`, after the importance
    matrices of llama.cpp.

    Raises:
        RuleError: as `Mse`.
    """

    word: ClassVar[str] = "wmse"

    def bounds(self, sample: Sample) -> Bounds:
        """Those of the candidate with the least weighted sum of squared errors.

        Raises:
            QuantizeError: the sample has no importance.
        """
        if (known := sample.importance) is None:
            raise QuantizeError(
                "The range 'wmse' needs to know how much each input of a weight counts: capture "
                "E[x^2] from data and quantize with importance=, or take the range 'mse'."
            )
        return _search(sample, _scaled_extremes(sample), self.factors(), _weights(sample, known))


@dataclass(frozen=True)
class Snr(Range):
    """Of given clip factors, that with the greatest ratio of signal to noise in the block.

    A candidate reaches from `-f * absmax` to `f * absmax`. Of equal ratios the factor that is named
    first wins. AQT (aqtp 0.9.0) has it as `SnrBasedAutoCalibration`, which compares
    `log(1 + signal / noise)`: the signal of a block is the same for all factors, so the greatest
    ratio is the least noise.

    Raises:
        RuleError: there is no factor, or one is not a number above 0.
    """

    factors: tuple[float, ...] = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)

    def __post_init__(self) -> None:
        factors = self.factors if isinstance(self.factors, tuple | list) else ()
        if not factors:
            raise RuleError(
                "Give the factors of the range 'snr' as a tuple of numbers, such as (1, 0.8, 0.6); "
                f"got {self.factors!r}."
            )
        assign(self, factors=tuple(positive("snr", "factor", f) for f in factors))

    def bounds(self, sample: Sample) -> Bounds:
        """Those of the factor with the least noise."""
        lo, hi = sample.extremes()
        largest = jnp.maximum(-lo, hi)

        def candidate(factor: jax.Array) -> Bounds:
            return settled(sample, -largest * factor, largest * factor)

        return _search(sample, candidate, np.asarray(self.factors, np.float32), None)

    def __str__(self) -> str:
        given = () if self.factors == Snr.factors else map(shown, self.factors)
        return ",".join(("snr", *given))


def _scaled_extremes(sample: Sample) -> Candidate:
    """For a factor, the extremes times the factor."""
    lo, hi = sample.extremes()
    return lambda factor: settled(sample, lo * factor, hi * factor)


def _search(
    sample: Sample, candidate: Candidate, factors: np.ndarray, weights: jax.Array | None
) -> Bounds:
    """The bounds of the factor with the least error, for each block; the first of equal ones."""
    exponent = block_exponents(sample.values, sample.blocks)

    def step(best, factor):
        error = _error(sample, candidate(factor), weights, exponent)
        better = error < best[1]
        return (jnp.where(better, factor, best[0]), jnp.where(better, error, best[1])), None

    shape = sample.finite.shape
    first = (jnp.full(shape, factors[0]), jnp.full(shape, jnp.inf, jnp.float32))
    (chosen, _), _ = lax.scan(step, first, jnp.asarray(factors))
    return candidate(chosen)


def _error(
    sample: Sample, bounds: Bounds, weights: jax.Array | None, exponent: jax.Array
) -> jax.Array:
    """The (weighted) sum of squared errors of every block, in a unit of the block's own."""
    # The barrier keeps the last product of `trial` from being fused with the difference, which
    # would be rounded once instead of twice in some programs and not in others.
    back = lax.optimization_barrier(sample.trial(*bounds))
    error = scale_down(sample.values - back, exponent, sample.blocks)
    squares = jnp.minimum(error * error, _BELOW_ONE)
    return total(squares if weights is None else squares * weights, sample.blocks)


def _weights(sample: Sample, importance: jax.Array) -> jax.Array:
    """The importances in [0, 1), relative to the largest of each block.

    One that is not a number above 0 counts nothing; where none counts, no factor is better than the
    first.
    """
    known = jnp.broadcast_to(importance, sample.values.shape)
    known = jnp.where((known > 0) & (known < jnp.inf), known, 0)
    return scale_down(known, block_exponents(known, sample.blocks), sample.blocks)
