"""Scales, codes and values back: the one place of the formulas.

Every step is a multiplication, a rounding, a clip, a cast or a maximum, each of which XLA computes
the same way eagerly, inside a larger program, under `vmap` and inside `scan`. That is what makes
the quantization-aware forward (codes computed in the program) equal the served forward (codes
stored) bit for bit. There is no division by a broadcast value anywhere: XLA rewrites `x / c` to
`x * (1 / c)` depending on the context, which moves codes that lie on a tie. Nor is a product added
to anything before it is rounded: on some backends that is one operation, on others two.

Scales are float32 here, whatever they are stored as (`qpass.numerics.scale_formats`); so are zero
points. For `blocks` see `qpass.numerics.blocks`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qpass.numerics.blocks import expand
from qpass.numerics.casts import as_f32, rounded
from qpass.numerics.dialects import Dialect
from qpass.numerics.qtypes import QType
from qpass.numerics.quantizer import Quantizer
from qpass.numerics.rounding import round_codes
from qpass.numerics.stored_codes import stored
from qpass.numerics.tables import decode_table, encode_fp4, encode_table

type Parameters = tuple[jax.Array, jax.Array | None]


def parameters(lo: jax.Array, hi: jax.Array, quantizer: Quantizer, dtype: np.dtype) -> Parameters:
    """The scale and the zero point of every block whose codes are to cover `lo` to `hi`.

    In the dialect `qpass` a symmetric integer scale is the least with which nothing is clipped:
    the side of the larger magnitude lies on the longer side of the range of codes (-128 of int8),
    so the scale is negative where that is the positive side. `max(a * f32(1 / 128), b * f32(1 /
    127))` for the larger magnitude a and the smaller one b. A scale is at least the least normal
    float32, and a block of zeros has scale 1.

    Args:
        lo: least value of every block, float32, of the shape of the scales.
        hi: greatest value.
        quantizer: type, symmetry and dialect.
        dtype: of the array that is quantized.

    Returns:
        float32 scale, and float32 zero point (integers); None where it is `qtype.middle`, as in
        every symmetric range.
    """
    qtype, dialect = quantizer.qtype, quantizer.spoken
    kept = dialect.precision(dtype)
    if not quantizer.symmetric:
        return _asymmetric(lo, hi, quantizer, kept)
    return quantizer.range.rescale(_symmetric(lo, hi, qtype, dialect, kept)), None


def encode(
    x: jax.Array,
    scale: jax.Array,
    zero: jax.Array | None,
    blocks: tuple[int, ...],
    quantizer: Quantizer,
    key: jax.Array | None = None,
    order: tuple[int, ...] = (),
) -> jax.Array:
    """The codes of x: `clip(rint(f32(x) * (1 / scale)) + zero, least, greatest)`, ties to even.

    The reciprocal is taken of the small array of scales and then multiplied, never `x / scale` on a
    broadcast scale: XLA rewrites that division depending on the context. That codes computed inside
    a training step equal codes stored beforehand, bit for bit, rests on it.

    Float types are rounded by the cast, table types to the nearest value. Infinities saturate. NaN
    becomes the code of 0, and stays NaN in a type that has one.

    Args:
        x: array of any float dtype.
        scale: float32, as from `parameters`.
        zero: float32, as from `parameters`, or None.
        blocks: one block size for each axis.
        quantizer: type, symmetry, rounding and dialect.
        key: for stochastic rounding.
        order: the axes of x in the order in which codes are to have them; as they are by default.

    Returns:
        array of the dtype of the type, transposed to that order.

    Raises:
        QuantizeError: stochastic rounding without a key.
    """
    y = places(x, scale, zero, blocks, quantizer, key)
    y = jnp.clip(y, *quantizer.spoken.limits(quantizer.qtype, quantizer.symmetric))
    return stored(bits_of_values(y, quantizer.qtype), quantizer.qtype.dtype, order or range(y.ndim))


def bits_of_values(y: jax.Array, qtype: QType) -> jax.Array:
    """The bits of the codes that stand for values: one code in each byte.

    Args:
        y: float32 array of what codes of the type stand for by themselves; numbers that a cast or a
            look-up still has to round of other types than integers.
        qtype: the type of the codes.

    Returns:
        uint8 array of the shape of y.
    """
    if qtype.kind == "table":
        return encode_table(y, qtype)
    if qtype.dtype == jnp.float4_e2m1fn:
        return encode_fp4(y)
    small = {jnp.dtype(jnp.int4): jnp.int8, jnp.dtype(jnp.uint4): jnp.uint8}
    codes = y.astype(small.get(qtype.dtype, qtype.dtype))
    return lax.bitcast_convert_type(codes, jnp.uint8)


def places(
    x: jax.Array,
    scale: jax.Array,
    zero: jax.Array | None,
    blocks: tuple[int, ...],
    quantizer: Quantizer,
    key: jax.Array | None = None,
) -> jax.Array:
    """Where x lies among the codes, before it is clipped to them; arguments as of `encode`.

    Returns:
        float32 array of the shape of x: codes of integer types that may lie beyond the range, and
        numbers that a cast or a look-up still has to round of other types.
    """
    qtype, dialect = quantizer.qtype, quantizer.spoken
    y = _quotient(x, scale, blocks, dialect)
    if qtype.kind == "float" and not qtype.has_nan:
        y = jnp.where(jnp.isnan(y), 0, y)
    spread = _zeros(zero, x.shape, blocks, qtype)
    if spread is not None and dialect.zero_first:
        kept = dialect.quotient_precision(x.dtype)
        y = rounded(jnp.where(jnp.isnan(y), 0, y) + spread, kept)
    y = round_codes(y, qtype, quantizer.rounding, key)
    return y if spread is None or dialect.zero_first else y + spread


def decode(
    codes: jax.Array,
    scale: jax.Array,
    zero: jax.Array | None,
    blocks: tuple[int, ...],
    qtype: QType,
    dtype: np.dtype,
) -> jax.Array:
    """The values that codes stand for: `(f32(codes) - zero) * scale`, cast to `dtype`.

    Args:
        codes: array of codes.
        scale: float32, of the shape of the scales.
        zero: zero points, integers of any dtype; None: `qtype.middle`.
        blocks: one block size for each axis.
        qtype: the type of the codes.
        dtype: a float dtype.

    Returns:
        array of the shape of codes and that dtype.
    """
    values = values_of(codes, qtype)
    spread = _zeros(zero, codes.shape, blocks, qtype)
    values = values if spread is None else values - spread
    return (values * expand(scale, codes.shape, blocks)).astype(dtype)


def values_of(codes: jax.Array, qtype: QType) -> jax.Array:
    """The float32 values of codes by themselves, exactly."""
    return decode_table(codes, qtype) if qtype.kind == "table" else codes.astype(jnp.float32)


def _zeros(
    zero: jax.Array | None, shape: tuple[int, ...], blocks: tuple[int, ...], qtype: QType
) -> Any:
    """What code stands for zero at each element, float32; None where it is code 0 at all."""
    if zero is None:
        return np.float32(qtype.middle) if qtype.middle else None
    return expand(zero.astype(jnp.float32), shape, blocks)


def _symmetric(
    lo: jax.Array, hi: jax.Array, qtype: QType, dialect: Dialect, kept: np.dtype
) -> jax.Array:
    below, above = qtype.middle - qtype.qmin, qtype.qmax - qtype.middle
    amax = jnp.maximum(-lo, hi)
    if not (dialect.signed and qtype.kind == "int" and below > above):
        if dialect.of_zeros:
            amax = jnp.where(amax == 0, dialect.of_zeros, amax)
        scale = _parted(amax, dialect.bound(qtype), qtype, dialect, kept)
        return dialect.guard(amax, scale, kept, True)
    rest = jnp.minimum(-lo, hi)
    scale = jnp.maximum(amax * np.float32(1 / below), rest * np.float32(1 / above))
    scale = dialect.guard(amax, scale, kept, True)
    return jnp.where(hi > -lo, -scale, scale)


def _asymmetric(lo: jax.Array, hi: jax.Array, quantizer: Quantizer, kept: np.dtype) -> Parameters:
    """`scale = (hi - lo) / (qmax - qmin)` over a range that holds 0; `zero = qmin - lo / scale`.

    Rounded before `qmin` is added where codes are rounded before the zero point is.
    """
    qtype, dialect = quantizer.qtype, quantizer.spoken
    lo, hi = jnp.minimum(lo, 0), jnp.maximum(hi, 0)
    half = _half_span(lo, hi, kept)
    scale = _parted(half, (qtype.qmax - qtype.qmin) / 2, qtype, dialect, kept)
    # Not `half`, which is zero for the least number.
    scale = dialect.guard(jnp.maximum(-lo, hi), scale, kept, False)
    scale = quantizer.range.rescale(scale)
    if dialect.true_scales or dialect.divides:
        below = rounded(-lo / scale, kept)
    else:
        below = rounded(-lo * _inverse(scale, kept), kept)
    if dialect.zero_first:
        zero = jnp.rint(rounded(below + qtype.qmin, kept))
    else:
        zero = jnp.rint(below) + qtype.qmin
    return scale, jnp.clip(zero, qtype.qmin, qtype.qmax)


def _half_span(lo: jax.Array, hi: jax.Array, kept: np.dtype) -> jax.Array:
    """`(hi - lo) / 2`, whose rounding to `kept` is that of `hi - lo`; finite.

    In float32 the span of the widest range would overflow, half of it does not.
    """
    half = hi * 0.5 - lo * 0.5
    if kept == jnp.float32:
        return half
    return jnp.minimum(rounded(half * 2, kept), float(jnp.finfo(kept).max)) * 0.5


def _parted(
    span: jax.Array, steps: float, qtype: QType, dialect: Dialect, kept: np.dtype
) -> jax.Array:
    """`span / steps`: the scale with which that many steps reach over the span."""
    if dialect.true_scales:
        # XLA makes a product of a division by one number wherever it can tell that it is one, under
        # vmap even behind an optimization barrier. It does keep a number times 0.
        return rounded(span / (span * 0 + steps), kept)
    wide = dialect.wide_floats and qtype.kind == "float"
    inverse = _inverse(np.float32(steps), jnp.dtype(jnp.float32) if wide else kept)
    return rounded(span * inverse, kept)


def _quotient(
    x: jax.Array, scale: jax.Array, blocks: tuple[int, ...], dialect: Dialect
) -> jax.Array:
    kept = dialect.quotient_precision(x.dtype)
    if dialect.divides and scale.shape == x.shape:
        return rounded(as_f32(x) / scale, kept)
    inverse = _inverse(scale, kept) if dialect.divides else _reciprocal(scale, dialect, kept)
    return rounded(as_f32(x) * expand(inverse, x.shape, blocks), kept)


def _reciprocal(scale: jax.Array, dialect: Dialect, kept: np.dtype) -> jax.Array:
    """`1 / scale`, rounded; 1 where a dialect lets scales become too small to have one."""
    inverse = rounded(1 / scale, kept)
    return jnp.where(jnp.isinf(inverse), 1, inverse) if dialect.of_zeros else inverse


def _inverse(y: Any, dtype: np.dtype) -> Any:
    """`1 / y` as XLA has it for arrays of that dtype: f16 is computed in f16, bf16 in float32."""
    return rounded(jnp.asarray(1 / y), dtype) if dtype == jnp.float16 else 1 / y
