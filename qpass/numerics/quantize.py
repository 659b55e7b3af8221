"""From a float array to a quantized tensor: the whole step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qpass.errors import QuantizeError
from qpass.numerics.axes import count_blocks, trim_order
from qpass.numerics.blocks import cut_axes, finite_or_zero, reduce_blocks
from qpass.numerics.casts import as_f32, rounded
from qpass.numerics.formulas import decode, encode, parameters
from qpass.numerics.granularity import block_sizes
from qpass.numerics.packing import pack as pack_bits
from qpass.numerics.qtensor import QTensor
from qpass.numerics.quantizer import Quantizer
from qpass.numerics.ranges import PowerOfTwo, Sample
from qpass.numerics.rounding import NEAREST
from qpass.numerics.sums import exponents, power_of_two

type Bounds = tuple[jax.Array, jax.Array]


@dataclass(frozen=True)
class Scales:
    """How a tensor is scaled.

    Attributes:
        stored: scales in the format of the type.
        outer: float32 factor of all scales; None for most formats.
        zero: float32 zero points; None where all are the middle code of the type.
        value: the float32 scales that `stored` and `outer` mean.
    """

    stored: jax.Array
    outer: jax.Array | None
    zero: jax.Array | None
    value: jax.Array


def quantize(
    x: jax.Array,
    quantizer: Quantizer,
    contract: tuple[int, ...],
    separate: tuple[int, ...] = (),
    pack: bool = False,
    key: jax.Array | None = None,
    importance: jax.Array | None = None,
    bounds: Bounds | None = None,
) -> QTensor:
    """Quantize an array for a contraction. No gradient flows into codes or scales.

    Args:
        x: array of any float dtype and shape.
        quantizer: type, granularity, range and dialect.
        contract: the axes of x that the contraction reduces, innermost last.
        separate: axes that always have a scale per index.
        pack: store codes as kernels read them, with the contracted axes last (and the separate
            ones first), and densely; only the metadata tells.
        key: for stochastic rounding.
        importance: of every element for the range methods that weigh errors; broadcasts to x.
        bounds: the range that codes are to cover, instead of that of x: least and greatest value
            of every block, of the shape of the scales or broadcasting to it.

    Returns:
        a QTensor without `latent`; `dataclasses.replace(q, latent=x)` makes it trainable.

    Raises:
        QuantizeError: x is not floating, an axis does not exist, the quantizer is static and no
            bounds are given, or stochastic and no key is.
    """
    _check(x, quantizer, bounds)
    blocks = block_sizes(x.shape, quantizer.granularity, contract, separate)
    x, importance, bounds = lax.stop_gradient((x, importance, bounds))
    if bounds is None:
        lo, hi = find_range(x, blocks, quantizer, importance)
    else:
        lo, hi = (_of_every_block(bound, x.shape, blocks) for bound in bounds)
    found = find_scales(lo, hi, quantizer, x.dtype, tuple(axis % x.ndim for axis in separate))
    order = _packed_order(x.ndim, contract, separate) if pack else tuple(range(x.ndim))
    codes = encode(x, found.value, found.zero, blocks, quantizer, key, order)
    qtype = quantizer.qtype
    return QTensor(
        codes=pack_bits(codes, qtype.packed) if pack and qtype.packed and x.ndim else codes,
        scale=lax.transpose(found.stored, order),
        zero=_in_order(_as_codes(found.zero, quantizer), order),
        outer=_in_order(found.outer, order),
        latent=None,
        qtype=qtype,
        dtype=jnp.dtype(x.dtype),
        groups=_groups(x.shape, blocks),
        order=trim_order(order),
    )


def find_range(
    x: jax.Array,
    blocks: tuple[int, ...],
    quantizer: Quantizer,
    importance: jax.Array | None = None,
) -> Bounds:
    """Least and greatest value that codes are to cover in every block: float32, finite.

    Args:
        x: array of any float dtype; what is not finite is left out.
        blocks: one block size for each axis.
        quantizer: its range is the method.
        importance: broadcasts to x.
    """
    values = as_f32(x)
    counts = reduce_blocks(jnp.isfinite(values).astype(jnp.float32), blocks, jnp.sum)
    trial = partial(_round_trip, finite_or_zero(values), blocks, quantizer, x.dtype)
    to_scale = partial(rounded, dtype=quantizer.spoken.precision(x.dtype))
    return quantizer.range.bounds(Sample(x, counts, blocks, importance, trial, to_scale))


def find_scales(
    lo: jax.Array,
    hi: jax.Array,
    quantizer: Quantizer,
    dtype: np.dtype,
    outer_axes: tuple[int, ...] = (),
) -> Scales:
    """Scales and zero points for those ranges, as they are stored and as they are used.

    Args:
        lo: least value of every block, float32.
        hi: greatest value.
        quantizer: type, symmetry and dialect.
        dtype: of the array that is quantized.
        outer_axes: axes along which a factor of all scales is not shared.
    """
    scale, zero = parameters(lo, hi, quantizer, dtype)
    form = quantizer.scale_format(dtype)
    most = (
        _greatest_scale(zero, quantizer, dtype)
        if quantizer.spoken.saturates
        else jnp.float32(jnp.inf)
    )
    scale = _capped(scale, most, quantizer)
    # Bounds may lie beyond the values: what codes never reach is no part of a shared scale.
    amax = jnp.minimum(jnp.maximum(-lo, hi), most * quantizer.qtype.qmax)
    stored, outer = form.make(scale, amax, quantizer.qtype, outer_axes)
    stored = form.capped(stored, most)
    return Scales(stored, outer, zero, form.read(stored, outer))


def _greatest_scale(zero: jax.Array | None, quantizer: Quantizer, dtype: np.dtype) -> jax.Array:
    """With which the outermost code means about the greatest number of the dtype.

    Beyond it a value that is rounded up, or an infinity, would come back as infinite.
    """
    qtype = quantizer.qtype
    of_zero = jnp.float32(qtype.middle) if zero is None else zero
    reach = jnp.maximum(qtype.qmax - of_zero, of_zero - qtype.qmin)
    most = np.float32(float(jnp.finfo(dtype).max) * (1 - 2**-22)) * (1 / reach)
    is_power = isinstance(quantizer.range, PowerOfTwo)
    return power_of_two(exponents(most)) if is_power else most


def _capped(scale: jax.Array, most: jax.Array, quantizer: Quantizer) -> jax.Array:
    """Scales of at most that magnitude.

    Where both sides of a range are about as large, the outermost code of the longer side is not
    reached if the scale is larger by half a step (and a little, for quotients are rounded); it may
    then be larger by a whole one.
    """
    qtype = quantizer.qtype
    size, above = jnp.abs(scale), qtype.qmax - qtype.middle
    uneven = quantizer.symmetric and qtype.kind == "int" and quantizer.spoken.signed
    if not uneven or isinstance(quantizer.range, PowerOfTwo):
        return jnp.clip(scale, -most, most)
    outside = most * np.float32((above + 1) / above)
    half = most * np.float32((above + 1) / (above + 0.5) * (1 + 2**-20))
    rounds_up = (size > most) & (size < half)
    size = jnp.where(rounds_up, most, jnp.minimum(size, outside))
    return jnp.where(scale < 0, -size, size)


def _round_trip(
    values: jax.Array,
    blocks: tuple[int, ...],
    quantizer: Quantizer,
    dtype: np.dtype,
    lo: jax.Array,
    hi: jax.Array,
) -> jax.Array:
    """What values come back as when codes cover that range, in float32."""
    nearest = quantizer if quantizer.rounding == NEAREST else quantizer.nearest()
    found = find_scales(lo, hi, nearest, dtype)
    codes = encode(values, found.value, found.zero, blocks, nearest)
    return decode(codes, found.value, found.zero, blocks, quantizer.qtype, jnp.dtype(jnp.float32))


def _check(x: jax.Array, quantizer: Quantizer, bounds: Bounds | None) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise QuantizeError(f"Only float arrays can be quantized; got {x.dtype}{list(x.shape)}.")
    if quantizer.is_static and bounds is None:
        raise QuantizeError(f"Give the range that {quantizer} is to cover: it is static.")


def _of_every_block(bound: jax.Array, shape: tuple[int, ...], blocks: tuple[int, ...]) -> jax.Array:
    return jnp.broadcast_to(bound, tuple(map(count_blocks, shape, blocks)))


def _in_order(array: jax.Array | None, order: tuple[int, ...]) -> jax.Array | None:
    return None if array is None else lax.transpose(array, order)


def _as_codes(zero: jax.Array | None, quantizer: Quantizer) -> jax.Array | None:
    """Zero points in a byte, which holds the codes of every integer type."""
    return (
        None if zero is None else zero.astype(jnp.uint8 if quantizer.qtype.qmin >= 0 else jnp.int8)
    )


def _groups(shape: tuple[int, ...], blocks: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((axis - len(shape), blocks[axis]) for axis in cut_axes(shape, blocks))


def _packed_order(ndim: int, contract: tuple[int, ...], separate: tuple[int, ...]):
    contract = tuple(a % ndim for a in contract)
    first = tuple(a for a in sorted(s % ndim for s in separate) if a not in contract)
    free = tuple(a for a in range(ndim) if a not in first and a not in contract)
    return (*first, *free, *contract)
