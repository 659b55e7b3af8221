"""How scales are stored: as float32, as powers of two in a byte, or as fp8 under a global scale.

A format takes the float32 scales that the formulas find and gives what is stored, and reads it
back. Codes are computed with the scale as it is read back, so a format's rounding is no error that
is added to a finished tensor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

if TYPE_CHECKING:
    from qpass.numerics.qtypes import QType

_MANTISSA = 23
_BIAS = 127


class ScaleFormat:
    """The base of the formats. A format is a frozen dataclass."""

    dtype: np.dtype
    """The dtype of stored scales."""

    def make(
        self,
        scale: jax.Array,
        amax: jax.Array,
        qtype: QType,
        separate: tuple[int, ...] = (),
    ) -> tuple[jax.Array, jax.Array | None]:
        """The scales as stored, and the outer scale where the format has one.

        Args:
            scale: float32, normal numbers that are not zero: what maps each block to the codes.
            amax: float32 of the same shape: the largest magnitude that the codes have to reach.
            qtype: the type of the codes.
            separate: axes that have an outer scale for each index.

        Returns:
            an array of the shape of `scale` and dtype `self.dtype`; and None, or float32 of size 1
            along each axis that is not separate.
        """
        raise NotImplementedError

    def capped(self, stored: jax.Array, most: jax.Array) -> jax.Array:
        """Stored scales, none above `most` where storing rounds up: `make` was given none above."""
        return stored

    def read(self, stored: jax.Array, outer: jax.Array | None) -> jax.Array:
        """What stored scales stand for: `f32(stored) * outer`, float32, exact in the first step."""
        scale = stored.astype(jnp.float32)
        return scale if outer is None else scale * outer


@dataclass(frozen=True)
class Float32(ScaleFormat):
    """Scales as they are."""

    dtype = jnp.dtype(jnp.float32)

    def make(self, scale, amax, qtype, separate=()):
        """See `ScaleFormat.make`."""
        return scale, None

    def __str__(self) -> str:
        return "float32"


class PowerRounding(StrEnum):
    """How the power of two follows from the largest magnitude of a block.

    With amax the largest magnitude, max the greatest value of the codes, emax its exponent (8 for
    e4m3, 2 for e2m1) and m the codes' mantissa bits. FLOOR is what the OCP Microscaling
    specification v1.0 gives in section 6.3; the modes are those that torchao's `mx_formats` has
    (`to_mx`), and RCEIL is the rule of cuBLAS for block-scaled products.
    """

    FLOOR = "floor"  # 2^(floor(log2 amax) - emax): values above max saturate.
    CEIL = "ceil"  # 2^(ceil(log2 amax) - emax)
    EVEN = "even"  # 2^(floor(log2 of amax rounded to m mantissa bits) - emax)
    RCEIL = "rceil"  # 2^ceil(log2(amax / max)): the least with which nothing saturates.


@dataclass(frozen=True)
class E8M0(ScaleFormat):
    """Powers of two in a byte, as the MX formats have them.

    The exponent is -126 to 127. The format has -127, too, which as a float32 is subnormal and which
    XLA takes for zero on some platforms. A block of zeros has scale 1.
    """

    rounding: PowerRounding = PowerRounding.RCEIL
    dtype = jnp.dtype(jnp.float8_e8m0fnu)

    def make(self, scale, amax, qtype, separate=()):
        """See `ScaleFormat.make`."""
        exponent = _ROUNDINGS[self.rounding](scale, amax, qtype)
        return _to_e8m0(jnp.where(amax == 0, _BIAS, exponent)), None

    def capped(self, stored, most):
        """See `ScaleFormat.capped`."""
        exponent = lax.bitcast_convert_type(stored, jnp.uint8).astype(jnp.int32)
        return _to_e8m0(jnp.minimum(exponent, _bits(most) >> _MANTISSA))

    def __str__(self) -> str:
        return f"e8m0 {self.rounding.value}"


@dataclass(frozen=True)
class E8M0Logarithm(ScaleFormat):
    """Powers of two as Qwix 0.1.8 finds them: `2^ceil(log2(scale))`.

    XLA's logarithm in the dtype of the array is off by a little: close to a power of two a scale is
    now and then twice or half of what RCEIL gives.
    """

    precision: np.dtype
    dtype = jnp.dtype(jnp.float8_e8m0fnu)

    def make(self, scale, amax, qtype, separate=()):
        """See `ScaleFormat.make`."""
        exponent = jnp.ceil(jnp.log2(scale.astype(self.precision)))
        return _to_e8m0(exponent.astype(jnp.int32) + _BIAS), None

    def __str__(self) -> str:
        return f"e8m0 log2 {self.precision}"


@dataclass(frozen=True)
class E4M3(ScaleFormat):
    """fp8 e4m3 scales as they are, saturating: blocks above 448 times the type's range clip."""

    dtype = jnp.dtype(jnp.float8_e4m3fn)

    def make(self, scale, amax, qtype, separate=()):
        """See `ScaleFormat.make`."""
        return _to_e4m3(scale), None

    def __str__(self) -> str:
        return "e4m3"


@dataclass(frozen=True)
class E4M3Global(ScaleFormat):
    """fp8 e4m3 scales relative to one float32 scale for the whole tensor, as nvfp4 has them.

    `outer = amax of all blocks / (448 * max)`, so that the greatest block has scale 448; what
    checkpoints call the global scale is the reciprocal of `outer`. `outer` is at least 2^-117: then
    no product with a stored scale, which is at least 2^-9, is subnormal.

    A scale is rounded up where less than 3 % are missing to the next one, else down: to clip the
    largest magnitude of a block by a little costs less than coarser steps for all others. Against
    rounding to nearest, the mean error of nvfp4 falls by 0.3 % on normal, Laplace and Student data
    and by 1 % on uniform data.
    """

    dtype = jnp.dtype(jnp.float8_e4m3fn)

    def make(self, scale, amax, qtype, separate=()):
        """See `ScaleFormat.make`."""
        shared = tuple(axis for axis in range(amax.ndim) if axis not in separate)
        top = jnp.max(amax, axis=shared, keepdims=True, initial=0)
        outer = jnp.maximum(top * np.float32(1 / (_E4M3_MAX * qtype.qmax)), _LEAST_OUTER)
        relative = jnp.where(amax == 0, 1, scale * (1 / outer))
        return _to_e4m3(_cut_mantissa(relative * np.float32(1.03), 3)), outer

    def __str__(self) -> str:
        return "e4m3 and a global scale"


FLOAT32 = Float32()
E8M0_FLOOR = E8M0(PowerRounding.FLOOR)
E8M0_CEIL = E8M0(PowerRounding.CEIL)
E8M0_EVEN = E8M0(PowerRounding.EVEN)
E8M0_RCEIL = E8M0(PowerRounding.RCEIL)
E4M3_ALONE = E4M3()
E4M3_GLOBAL = E4M3Global()

FORMATS: tuple[ScaleFormat, ...] = (
    FLOAT32,
    E8M0_FLOOR,
    E8M0_CEIL,
    E8M0_EVEN,
    E8M0_RCEIL,
    E4M3_ALONE,
    E4M3_GLOBAL,
)

_E4M3_MAX, _E4M3_LEAST = 448.0, 2.0**-9
_LEAST_OUTER = np.float32(2.0**-117)


def _to_e8m0(exponent: jax.Array) -> jax.Array:
    exponent = jnp.clip(exponent, 1, 2 * _BIAS).astype(jnp.uint8)
    return lax.bitcast_convert_type(exponent, jnp.float8_e8m0fnu)


def _to_e4m3(scale: jax.Array) -> jax.Array:
    """Rounded to nearest even; never zero, so that what is read back can be divided by."""
    return jnp.clip(scale, _E4M3_LEAST, _E4M3_MAX).astype(jnp.float8_e4m3fn)


def _cut_mantissa(x: jax.Array, bits: int) -> jax.Array:
    """The greatest number with that many mantissa bits that is not above a positive one."""
    kept = -1 << (_MANTISSA - bits)
    return lax.bitcast_convert_type(_bits(x) & kept, jnp.float32)


def _floor(scale: jax.Array, amax: jax.Array, qtype: QType) -> jax.Array:
    return (_bits(amax) >> _MANTISSA) - _top_exponent(qtype)


def _ceil(scale: jax.Array, amax: jax.Array, qtype: QType) -> jax.Array:
    return _rounded_up(amax) - _top_exponent(qtype)


def _even(scale: jax.Array, amax: jax.Array, qtype: QType) -> jax.Array:
    half = 1 << (_MANTISSA - _mantissa_bits(qtype) - 1)
    return ((_bits(amax) + half) >> _MANTISSA) - _top_exponent(qtype)


def _rceil(scale: jax.Array, amax: jax.Array, qtype: QType) -> jax.Array:
    return _rounded_up(scale)


_ROUNDINGS = {
    PowerRounding.FLOOR: _floor,
    PowerRounding.CEIL: _ceil,
    PowerRounding.EVEN: _even,
    PowerRounding.RCEIL: _rceil,
}


def _bits(x: jax.Array) -> jax.Array:
    """The bits of magnitudes: the exponent above 23 bits of mantissa. Exact, unlike a logarithm."""
    return lax.bitcast_convert_type(jnp.abs(x), jnp.int32)


def _rounded_up(x: jax.Array) -> jax.Array:
    """The biased exponent of the least power of two that is not below."""
    return (_bits(x) + ((1 << _MANTISSA) - 1)) >> _MANTISSA


def _top_exponent(qtype: QType) -> int:
    """The exponent of the greatest value."""
    return math.frexp(qtype.qmax)[1] - 1


def _mantissa_bits(qtype: QType) -> int:
    """In how many bits the codes divide the octave of their greatest value."""
    if qtype.kind == "float":
        return int(jnp.finfo(qtype.dtype).nmant)
    if qtype.kind == "int":
        return _top_exponent(qtype)
    greatest, second = sorted(qtype.table)[:-3:-1]
    return round(_top_exponent(qtype) - math.log2(greatest - second))
