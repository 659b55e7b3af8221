"""Ranges: from which to which value the codes of a block reach.

A range is a value that finds two bounds for every block of elements that share a scale. What lies
beyond them is clipped. Narrow bounds make small steps, wide ones clip little; the methods differ in
how they weigh the two. How bounds become scale and zero point is up to `qpass.numerics.formulas`.

Bounds always have `lo <= 0 <= hi`, are finite, and those of a block that holds a finite value other
than zero are not both zero. All sums are such that the bounds have the same bits wherever they are
computed (`qpass.numerics.sums`).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from qpass.errors import RuleError
from qpass.numerics.blocks import reduce_blocks
from qpass.numerics.range_base import Bounds, Range, Sample, not_too_wide, settled
from qpass.numerics.range_numbers import assign, number, positive, shown
from qpass.numerics.range_percentile import percentile
from qpass.numerics.sums import (
    block_exponents,
    exponents,
    power_of_two,
    scale_down,
    scale_up,
    total,
)

__all__ = [
    "AbsMax",
    "AbsMean",
    "Fixed",
    "Percentile",
    "PowerOfTwo",
    "Range",
    "Rms",
    "Sample",
]


@dataclass(frozen=True)
class AbsMax(Range):
    """All finite values of the block: its minimum and maximum, times a factor.

    A symmetric quantizer has the larger magnitude of the two, an asymmetric one both. A factor
    below 1 clips. Qwix 0.1.8 has it as `absmax` and `minmax`.

    Raises:
        RuleError: the factor is not a finite number above 0.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        assign(self, factor=positive("absmax", "factor", self.factor))

    def bounds(self, sample: Sample) -> Bounds:
        """The extremes of the block, times the factor."""
        lo, hi = sample.extremes()
        if self.factor == 1:
            return lo, hi
        bounds = settled(sample, sample.times(lo, self.factor), sample.times(hi, self.factor))
        return not_too_wide(sample, *bounds) if self.factor > 1 else bounds

    def __str__(self) -> str:
        return "absmax" if self.factor == 1 else f"absmax,{shown(self.factor)}"


@dataclass(frozen=True)
class Rms(Range):
    """`k` times the root of the mean square of the block's finite values, to both sides.

    Qwix 0.1.8 has it as `rms`.

    Raises:
        RuleError: `k` is not a finite number above 0.
    """

    k: float

    def __post_init__(self) -> None:
        assign(self, k=positive("rms", "multiple", self.k))

    def bounds(self, sample: Sample) -> Bounds:
        """`k * sqrt(mean(x^2))` to both sides."""
        exponent = block_exponents(sample.values, sample.blocks)
        y = scale_down(sample.values, exponent, sample.blocks)
        mean = total(y * y, sample.blocks) * (1 / jnp.maximum(sample.finite, 1))
        bound = scale_up(jnp.sqrt(mean) * self.k, exponent)
        return not_too_wide(sample, *settled(sample, -bound, bound))

    def __str__(self) -> str:
        return f"rms,{shown(self.k)}"


@dataclass(frozen=True)
class AbsMean(Range):
    """`k` times the mean magnitude of the block's finite values other than zero, to both sides.

    AQT (aqtp 0.9.0) has it as `AbsMeanCalibration` with `p=1`.

    Raises:
        RuleError: `k` is not a finite number above 0.
    """

    k: float

    def __post_init__(self) -> None:
        assign(self, k=positive("absmean", "multiple", self.k))

    def bounds(self, sample: Sample) -> Bounds:
        """`k * sum(|x|) / count(x != 0)` to both sides."""
        exponent = block_exponents(sample.values, sample.blocks)
        y = scale_down(jnp.abs(sample.values), exponent, sample.blocks)
        present = (sample.values != 0).astype(jnp.int32)
        count = reduce_blocks(present, sample.blocks, jnp.sum).astype(jnp.float32)
        mean = total(y, sample.blocks) * (1 / jnp.maximum(count, 1))
        bound = scale_up(mean * self.k, exponent)
        return not_too_wide(sample, *settled(sample, -bound, bound))

    def __str__(self) -> str:
        return f"absmean,{shown(self.k)}"


@dataclass(frozen=True)
class Percentile(Range):
    """The extremes of the block, but neither beyond the p-th percentile of its magnitudes.

    It is one of the magnitudes of the block's finite values: at most 100 - p in a hundred are
    clipped (`numpy.percentile` calls this method "higher").
    A block whose percentile is zero, because it holds hardly anything but zeros, is not clipped.

    Raises:
        RuleError: `p` is not a number from 50 to 100.
    """

    p: float

    def __post_init__(self) -> None:
        p = positive("percentile", "percentile", self.p)
        if not 50 <= p <= 100:
            raise RuleError(
                "Give a percentile from 50 to 100, such as 'percentile,99.9'; "
                f"got {shown(p)}. It says how many of a hundred magnitudes are not clipped."
            )
        assign(self, p=p)

    def bounds(self, sample: Sample) -> Bounds:
        """The extremes, cut at the percentile of the magnitudes."""
        at = percentile(sample, self.p)
        lo, hi = sample.extremes()
        return settled(sample, jnp.maximum(lo, -at), jnp.minimum(hi, at))

    def __str__(self) -> str:
        return f"percentile,{shown(self.p)}"


@dataclass(frozen=True)
class Fixed(Range):
    """The same two bounds for every block, whatever it holds.

    `Fixed(4)` is from -4 to 4, `Fixed(-1, 4)` from -1 to 4. Qwix 0.1.8 has it as `fixed`. Values
    that are small against the bounds become zeros.

    Raises:
        RuleError: the bounds are not finite numbers with `lo <= 0 <= hi` and `lo < hi`.
    """

    lo: float
    hi: float | None = None

    def __post_init__(self) -> None:
        hi = number("fixed", "bound", self.lo if self.hi is None else self.hi)
        lo = -hi if self.hi is None else number("fixed", "bound", self.lo)
        if not (lo <= 0 <= hi and lo < hi):
            raise RuleError(
                "Give fixed bounds that hold 0 and something else, as 'fixed,4' or 'fixed,-1,4'; "
                f"got {shown(lo)} to {shown(hi)}."
            )
        assign(self, lo=lo, hi=hi)

    @property
    def ends(self) -> tuple[float, float]:
        """The two bounds, of which `hi` is never None once the range is made."""
        return self.lo, self.lo if self.hi is None else self.hi

    def bounds(self, sample: Sample) -> Bounds:
        """The two bounds."""
        lo, hi = (jnp.full(sample.finite.shape, end, jnp.float32) for end in self.ends)
        return lo, hi

    def __str__(self) -> str:
        lo, hi = self.ends
        return f"fixed,{shown(hi)}" if lo == -hi else f"fixed,{shown(lo)},{shown(hi)}"


@dataclass(frozen=True)
class PowerOfTwo(Range):
    """The bounds of another range, and scales rounded up to powers of two.

    Rounded up, so that nothing is clipped that the bounds let in. AQT (aqtp 0.9.0) has it as
    `po2_scale`.

    Raises:
        RuleError: the other range is none, or has powers of two itself.
    """

    inner: Range = AbsMax()

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Range) or isinstance(self.inner, PowerOfTwo):
            raise RuleError(
                "Give a range whose scales are rounded to powers of two, as "
                f"PowerOfTwo(AbsMax()) or 'pow2,rms,7'; got {self.inner!r}."
            )

    def bounds(self, sample: Sample) -> Bounds:
        """Those of the other range; `sample.trial` already rounds the scales."""
        return self.inner.bounds(sample)

    def rescale(self, scale: jax.Array) -> jax.Array:
        """The next power of two away from zero, at most 2**126; the sign stays."""
        scale = self.inner.rescale(scale)
        below = power_of_two(jnp.clip(exponents(scale), -126, 125))
        up = jnp.where(jnp.abs(scale) > below, below * 2, below)
        return jnp.where(scale < 0, -up, up)

    def __str__(self) -> str:
        return "pow2" if self.inner == AbsMax() else f"pow2,{self.inner}"
