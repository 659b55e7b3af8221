"""Rounding: from a quotient `x / scale` to the values that codes can hold.

Stochastic rounding takes the upper of the two neighbouring values with the probability that makes
the mean right: `P(upper) = (y - lower) / (upper - lower)` (Gupta et al., "Deep Learning with
Limited Numerical Precision", 2015). It needs a key, given explicitly by the caller.

Random numbers of few bits are cheaper to draw. With b bits a probability is a multiple of
`2^-b`: the uniform number is the centre of one of `2^b` equal cells, so each probability is
rounded to the nearest multiple, the mean of one value is off by at most `2^-(b+1)` of the distance
between its neighbours, and the error is zero on average over values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from qpass.errors import QuantizeError, RuleError

if TYPE_CHECKING:
    from qpass.numerics.qtypes import QType

# A centre `(k + 1/2) * 2^-23` of a cell is the finest that is exact in float32.
FULL_BITS = 23
FEW_BITS = 16


@dataclass(frozen=True)
class Nearest:
    """To the nearest value; ties to the even code."""

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True)
class Stochastic:
    """To one of the two neighbouring values at random, right in the mean.

    Attributes:
        bits: random bits for each element, 1 to 16; None draws 23, as many as float32 can use.

    Raises:
        RuleError: `bits` is not an integer from 1 to 16.
    """

    bits: int | None = None

    def __post_init__(self) -> None:
        if self.bits is None:
            return
        if type(self.bits) is not int or not 1 <= self.bits <= FEW_BITS:
            raise RuleError(
                f"Give stochastic rounding 1 to {FEW_BITS} random bits, or none for "
                f"{FULL_BITS}; got {self.bits!r}."
            )

    def __str__(self) -> str:
        return f"sr{self.bits or ''}"


type Rounding = Nearest | Stochastic

NEAREST = Nearest()


def round_codes(
    y: jax.Array, qtype: QType, rounding: Rounding = NEAREST, key: jax.Array | None = None
) -> jax.Array:
    """Round quotients to values that codes of a type can hold, before they are clipped and cast.

    Values that are representable already stay exactly as they are, whatever the key.

    Args:
        y: float32 array of any shape: the quotients `x / scale`.
        qtype: the type of the codes.
        rounding: to the nearest value or to a random one of the two neighbours.
        key: a `jax.random` key, for stochastic rounding only.

    Returns:
        integer types: float32 whole numbers, NaN as 0. Float types: float32; rounded to the grid of
        the type where rounding is stochastic, as they came where it is to the nearest, because the
        cast does that; NaN stays. Values beyond the type's bounds are left to the clip. Table
        types: float32 entries of the table, NaN as 0, for `encode_table` to look up; as they came
        where rounding is to the nearest, because the look-up does that.

    Raises:
        QuantizeError: rounding is stochastic and there is no key.
    """
    if qtype.kind != "float":
        y = jnp.where(jnp.isnan(y), 0, y)
    if isinstance(rounding, Nearest):
        return jnp.rint(y) if qtype.kind == "int" else y
    if key is None:
        raise QuantizeError(
            f"Give a key: {qtype.name} with stochastic rounding was asked for and no random key "
            "came. Pass key=jax.random.key(seed), another one for each call."
        )
    lower, upper, fraction = _neighbours(y, qtype)
    return jnp.where(_uniform(key, y.shape, rounding.bits) < fraction, upper, lower)


def _uniform(key: jax.Array, shape: tuple[int, ...], bits: int | None) -> jax.Array:
    """Centres of `2^bits` equal cells of (0, 1), each as likely: never 0, never 1."""
    wanted = bits or FULL_BITS
    width = next(w for w in (8, 16, 32) if w >= wanted)
    drawn = jax.random.bits(key, shape, jnp.dtype(f"uint{width}")) >> (width - wanted)
    return (drawn.astype(jnp.float32) + 0.5) * 2.0**-wanted


def _neighbours(y: jax.Array, qtype: QType) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The values around y, and how far between them it lies: 0 (on the lower) to 1."""
    if qtype.kind == "table":
        return _table_neighbours(y, qtype)
    if qtype.kind == "int":
        lower = jnp.floor(y)
        return lower, lower + 1, y - lower
    step, per_step = _steps(y, qtype)
    steps = y * per_step
    lower = jnp.floor(steps)
    return lower * step, (lower + 1) * step, steps - lower


def _steps(y: jax.Array, qtype: QType) -> tuple[jax.Array, jax.Array]:
    """The distance of neighbouring values of a float type around y, a power of two; its inverse.

    `2^(max(floor(log2|y|), least exponent) - mantissa bits)`: subnormals of the type lie as far
    apart as its least normal numbers. Read from the exponent field of the float32, and exact. Kept
    within the type's exponents above too, so that infinities stay infinite.
    """
    info = jnp.finfo(qtype.dtype)
    field = (lax.bitcast_convert_type(y, jnp.int32) >> 23) & 0xFF
    exponent = jnp.clip(field - 127, info.minexp, info.maxexp) - info.nmant
    return _power_of_two(exponent), _power_of_two(-exponent)


def _power_of_two(exponent: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)


def _table_neighbours(y: jax.Array, qtype: QType) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Selects over all entries: fused to one loop, where a gather would be slow on CPU."""
    values = sorted(set(qtype.table))
    y = jnp.clip(y, values[0], values[-1])

    def raise_to(bounds: tuple[jax.Array, ...], pair: tuple[float, float]):
        above = y >= pair[0]
        return tuple(jnp.where(above, v, b) for v, b in zip(pair, bounds, strict=True))

    first = tuple(jnp.full_like(y, v) for v in values[:2])
    lower, upper = reduce(raise_to, list(pairwise(values))[1:], first)
    return lower, upper, (y - lower) / (upper - lower)
