"""Codes in the dtypes that kernels multiply, holding the same values.

Kernels know int8, int4, the 8-bit floats and plain floats. What a type's codes become, with what
its scales and zero points have to be multiplied by and shifted for it:

* integers of fewer bits are int8 (int4 stays); unsigned ones are shifted down by half their range;
* fp4 e2m1 and fp6 e2m3 are multiples of 1/2 and 1/8, so they are int8 too: products add up exactly;
* tables without a unit (nf4) and fp8 that kernels do not know are the float32 they stand for.

Kernels that look codes of up to four bits up in a table take them as they are stored instead.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qpass.numerics.formulas import values_of
from qpass.numerics.packing import Packed, unpack

if TYPE_CHECKING:
    from qpass.numerics.qtypes import QType


_EIGHT_BITS = ("float8_e4m3fn", "float8_e5m2")


class KernelCodes(NamedTuple):
    """Codes that a kernel takes: `(codes - (zero - shift)) * (scale * unit)` is the value.

    Without zero points it is `codes * (scale * unit)`: the middle code, which is zero, becomes 0.
    """

    codes: jax.Array
    unit: float = 1.0
    shift: int = 0


def kernel_codes(codes: jax.Array, qtype: QType) -> KernelCodes:
    """The codes (unpacked) of a tensor of that type as kernels take them."""
    if qtype.kind == "int":
        return _integers(codes, qtype)
    unit = unit_of(qtype)
    if unit is not None:
        return KernelCodes((values_of(codes, qtype) * (1 / unit)).astype(jnp.int8), unit)
    return KernelCodes(codes if qtype.dtype.name in _EIGHT_BITS else values_of(codes, qtype))


def from_stored(codes: jax.Array, qtype: QType, k: int) -> KernelCodes:
    """The same from the array that codes lie in, dense where the type is `packed`.

    Args:
        codes: `[..., k]`, or the bytes of `Packed`.
        qtype: the type.
        k: codes along the last axis.
    """
    if qtype.packed:
        codes = unpack(Packed(codes, k, qtype.packed, qtype.dtype))
    return kernel_codes(codes, qtype)


@cache
def table_of(qtype: QType) -> tuple[float, ...] | None:
    """What the bit patterns of codes stand for, before zero points are taken off and shifted.

    None for types that kernels take as they are, those of more than four bits, and of four bits
    that are packed into bytes by `Packed` and not by their dtype. Patterns that no code has stand
    for what the last code does.
    """
    if qtype.bits > 4 or qtype.packed == 4 or qtype.dtype == jnp.int4:
        return None
    patterns = np.arange(2**qtype.bits)
    if qtype.kind != "int":
        values = _values(qtype)
        return tuple(np.pad(values, (0, len(patterns) - len(values)), "edge").tolist())
    # Two's complement where there are negative numbers, counted from the middle where not.
    signs = patterns ^ int(-qtype.qmin)
    return tuple((signs - int(qtype.middle or -qtype.qmin)).astype(float).tolist())


@cache
def dtype_of(qtype: QType) -> str:
    """The name of the dtype in which kernels take decoded codes."""
    codes = jax.ShapeDtypeStruct((1,), qtype.dtype)
    return jax.eval_shape(lambda x: kernel_codes(x, qtype).codes, codes).dtype.name


def decoding(qtype: QType, packed: bool = False) -> str:
    """What becomes of the codes of a type on their way to a kernel, in words; "" where nothing.

    Args:
        qtype: the type.
        packed: whether codes come as `Packed` (weights do, activations do not).
    """
    if qtype.kind == "int" and qtype.qmin == 0:
        return f"{qtype.name} codes are shifted to int{qtype.bits} before the product"
    if qtype.kind == "int":
        unpacked = f"{qtype.name} codes are unpacked to int8 before the product"
        return unpacked if packed and qtype.packed else ""
    if unit_of(qtype) is not None:
        return f"{qtype.name} codes are turned into int8 before the product"
    known = qtype.dtype.name in _EIGHT_BITS
    return "" if known else f"{qtype.name} codes are turned into float32 before the product"


def unit_of(qtype: QType) -> float | None:
    """The power of two that all values of a small float or table type are int8 multiples of.

    None where there is none, and for the 8-bit floats, which kernels take as they are.
    """
    values = _values(qtype)
    for exponent in range(8):
        scaled = values * 2**exponent
        if len(values) and np.all(scaled == np.rint(scaled)):
            return 2.0**-exponent if np.abs(scaled).max() <= 127 else None
    return None


def _values(qtype: QType) -> np.ndarray:
    if qtype.kind == "table":
        return np.asarray(qtype.table, np.float64)
    if qtype.bits > 4:
        return np.empty(0)
    return np.arange(2**qtype.bits, dtype=np.uint8).view(np.dtype(qtype.dtype)).astype(np.float64)


def _integers(codes: jax.Array, qtype: QType) -> KernelCodes:
    if qtype.qmin < 0:
        return KernelCodes(codes)
    shift = int(qtype.middle)
    signed = jnp.int4 if qtype.bits == 4 else jnp.int8
    return KernelCodes((codes.astype(jnp.int16) - shift).astype(signed), shift=shift)
