"""Types whose codes are indices in a table of values.

A small table is searched by comparing with the places halfway between its values, and read by a
tree of selections: both are vectorized on every platform, which a gather is not.

The six-bit floats of the OCP Microscaling specification (v1.0, section 5.3.2) are tables, too,
whose indices are their bit patterns. Each is a part of an eight-bit float with as many mantissa
bits, times a power of two, so that its codes are rounded and read by a cast to that one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, reduce
from itertools import pairwise
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax

if TYPE_CHECKING:
    from qpass.numerics.qtypes import QType

# The quantiles of the normal distribution that QLoRA (Dettmers et al. 2023, appendix E) lists.
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)  # fmt: skip


def _patterns(dtype: type) -> tuple[float, ...]:
    """What the bit patterns of a dtype of six bits stand for."""
    return tuple(np.arange(64, dtype=np.uint8).view(dtype).astype(float).tolist())


FP6_E2M3 = _patterns(ml_dtypes.float6_e2m3fn)
FP6_E3M2 = _patterns(ml_dtypes.float6_e3m2fn)
_FP4_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # the magnitudes, in the order of their bits


@dataclass(frozen=True)
class _Carrier:
    """An eight-bit float that holds a table's values times `factor`, at the same bits."""

    dtype: np.dtype
    factor: float


_CARRIERS = {
    FP6_E2M3: _Carrier(jnp.dtype(jnp.float8_e4m3fn), 2.0**-6),
    FP6_E3M2: _Carrier(jnp.dtype(jnp.float8_e5m2), 2.0**-12),
}
_SELECTED = 16  # A tree of more selections is slower than a gather.


def encode_table(y: jax.Array, qtype: QType) -> jax.Array:
    """The index of the value of `qtype.table` that is nearest to each element.

    Of two that are equally near, the one with the even index is taken; numbers beyond the ends of
    the table go to its ends; NaN goes to the value nearest to zero.

    Args:
        y: float32 array of any shape.
        qtype: a type of kind "table".

    Returns:
        uint8 array of the shape of y.
    """
    y = jnp.where(jnp.isnan(y), 0, y)
    if carrier := _CARRIERS.get(qtype.table):
        return _to_pattern(jnp.clip(y, qtype.qmin, qtype.qmax), carrier)
    order, last = _thresholds(qtype.table)
    rank = _rank(y, last)
    if order != tuple(range(len(order))):
        rank = decode_values(rank, order).astype(jnp.uint8)
    return rank


def encode_fp4(y: jax.Array) -> jax.Array:
    """The bits of the float4_e2m1fn nearest to each element, ties to even, with its sign.

    The same as a cast, which XLA CPU computes by way of a long expression for every rounding.

    Args:
        y: float32 array of any shape, without NaN and within -6 to 6.

    Returns:
        uint8 array of the shape of y.
    """
    magnitude = _rank(jnp.abs(y), _thresholds(_FP4_E2M1)[1])
    sign = lax.bitcast_convert_type(y, jnp.uint32) >> np.uint32(28) & np.uint32(8)
    return magnitude | sign.astype(jnp.uint8)


def decode_table(indices: jax.Array, qtype: QType) -> jax.Array:
    """The value of `qtype.table` at each index: float32, exact.

    Args:
        indices: array of any shape and the dtype of `qtype`.
        qtype: a type of kind "table".
    """
    if carrier := _CARRIERS.get(qtype.table):
        return _from_pattern(indices, carrier)
    return decode_values(indices, qtype.table)


def carried(indices: jax.Array, qtype: QType) -> tuple[jax.Array, float] | None:
    """Codes of an eight-bit float that hold the values of a six-bit one, and the factor to values.

    None for a table that no eight-bit float holds.
    """
    carrier = _CARRIERS.get(qtype.table)
    return carrier and (_as_carrier(indices, carrier), 1 / carrier.factor)


def decode_values(indices: jax.Array, table: tuple[float, ...]) -> jax.Array:
    """`table[indices]` in float32."""
    values = np.asarray(table, np.float32)
    indices = indices.astype(jnp.int32)
    if len(values) > _SELECTED:
        return jnp.asarray(values)[indices]
    return _select(indices, values, 0)


def _select(indices: jax.Array, values: np.ndarray, bit: int) -> jax.Array:
    """A tree: the lowest bit halves the candidates, the next one halves the rest, and so on."""
    if len(values) == 1:
        return jnp.full(indices.shape, values[0])
    even, odd = (_select(indices, part, bit + 1) for part in (values[::2], values[1::2]))
    return jnp.where(indices & (1 << bit) == 0, even, odd)


def _rank(y: jax.Array, edges: tuple[np.float32, ...]) -> jax.Array:
    """How many of the rising numbers each element exceeds, bit by bit from the highest one."""
    places = len(edges).bit_length()
    edges = (*edges, *[np.float32(np.inf)] * (2**places - 1 - len(edges)))
    above: list[jax.Array] = []
    for place in reversed(range(places)):
        above.append(y > _chosen(above, edges[2**place - 1 :: 2 ** (place + 1)]))
    return reduce(lambda rank, bit: 2 * rank + bit, above, jnp.int32(0)).astype(jnp.uint8)


def _chosen(above: list[jax.Array], edges: tuple[np.float32, ...]) -> jax.Array:
    """The edge that splits what is left when those bits of the rank are known."""
    if not above:
        return jnp.asarray(edges[0])
    half = len(edges) // 2
    upper, lower = (_chosen(above[1:], part) for part in (edges[half:], edges[:half]))
    return jnp.where(above[0], upper, lower)


@cache
def _thresholds(table: tuple[float, ...]) -> tuple[tuple[int, ...], tuple[np.float32, ...]]:
    """Indices by rising value, and the greatest float32 that goes to each of them but the last."""
    order = tuple(np.argsort(np.asarray(table, np.float32), kind="stable").tolist())
    return order, tuple(_edge(table, low, high) for low, high in pairwise(order))


def _edge(table: tuple[float, ...], low: int, high: int) -> np.float32:
    """The greatest float32 that is nearer to the lower of two neighbours, or as near and even."""
    middle = (float(np.float32(table[low])) + float(np.float32(table[high]))) / 2
    edge = np.float32(middle)
    beyond = float(edge) > middle or (float(edge) == middle and low % 2)
    return np.nextafter(edge, np.float32(-np.inf)) if beyond else edge


def _to_pattern(y: jax.Array, carrier: _Carrier) -> jax.Array:
    bits = lax.bitcast_convert_type((y * carrier.factor).astype(carrier.dtype), jnp.uint8)
    return (bits & np.uint8(31)) | ((bits >> np.uint8(2)) & np.uint8(32))


def _from_pattern(indices: jax.Array, carrier: _Carrier) -> jax.Array:
    return _as_carrier(indices, carrier).astype(jnp.float32) * (1 / carrier.factor)


def _as_carrier(indices: jax.Array, carrier: _Carrier) -> jax.Array:
    """The carrier's codes: the sign moves from bit 5 to bit 7."""
    bits = indices.astype(jnp.uint8)
    bits = (bits & np.uint8(31)) | ((bits & np.uint8(32)) << np.uint8(2))
    return lax.bitcast_convert_type(bits, carrier.dtype)
