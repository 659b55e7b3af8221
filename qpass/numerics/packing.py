"""Codes of fewer bits than a byte as a dense stream of bits along the last axis.

Little-endian: code i takes the bits `i * bits` to `(i + 1) * bits` of the stream, and bit b of the
stream is bit `b % 8` of byte `b // 8`. As many codes as fill whole bytes make a period (four of two
bits in one byte, eight of three bits in three bytes), so that every byte of a period is put
together from the same places of its codes, for all periods at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qpass.errors import QuantizeError


@partial(
    jax.tree_util.register_dataclass, data_fields=["words"], meta_fields=["n", "bits", "dtype"]
)
@dataclass(frozen=True, eq=False)
class Packed:
    """An array of codes of `bits` bits each, `[..., n]`, stored without gaps.

    Leading axes may be indexed, sliced, scanned or mapped over through the pytree; the last axis
    can not, since codes straddle bytes.

    Attributes:
        words: uint8 `[..., ceil(n * bits / 8)]`, the stream of bits; those beyond the last code
            are zero.
        n: the length of the last axis of codes.
        bits: bits of a code, 1 to 8.
        dtype: the dtype that codes are unpacked to.
    """

    words: jax.Array
    n: int
    bits: int
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the codes."""
        return (*self.words.shape[:-1], self.n)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.words.shape)

    @property
    def size(self) -> int:
        """Number of codes."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the codes take in memory."""
        return math.prod(self.words.shape)


def packed_length(n: int, bits: int) -> int:
    """How many bytes n codes of that many bits take."""
    return -(-n * bits // 8)


def pack(codes: jax.Array, bits: int) -> Packed:
    """Store the lowest `bits` bits of every code, densely along the last axis.

    Args:
        codes: array `[..., n]` of an integer dtype of at most 8 bits.
        bits: 1 to 8. A signed code is kept in two's complement and comes back with its sign.

    Returns:
        Packed of the shape and the dtype of codes.

    Raises:
        QuantizeError: codes are no small integers or have no axis, or `bits` is out of range.
    """
    codes = jnp.asarray(codes)
    _check(codes, bits)
    period, size = _period(bits)
    n = codes.shape[-1]
    rows = _cut(codes.astype(jnp.uint8) & _ones(bits), -(-n // period), period)
    words = _joined([_byte(rows, j, bits) for j in range(size)], packed_length(n, bits))
    return Packed(words, n, bits, jnp.dtype(codes.dtype))


def unpack(packed: Packed) -> jax.Array:
    """The codes `[..., n]` of their dtype; signed ones with their sign."""
    n, bits, dtype = packed.n, packed.bits, packed.dtype
    period, size = _period(bits)
    rows = _cut(packed.words, -(-n // period), size)
    codes = _joined([_code(rows, i, bits) for i in range(period)], n)
    return (_signed(codes, bits) if jnp.issubdtype(dtype, jnp.signedinteger) else codes).astype(
        dtype
    )


def _check(codes: jax.Array, bits: int) -> None:
    small = jnp.issubdtype(codes.dtype, jnp.integer) and codes.dtype.itemsize == 1
    if not small or not codes.ndim or bits not in range(1, 9):
        raise QuantizeError(
            "Pack codes of an integer dtype of at most 8 bits, with one axis or more, in 1 to 8 "
            f"bits each; got {codes.dtype}{list(codes.shape)} and {bits!r} bits."
        )


def _period(bits: int) -> tuple[int, int]:
    """The fewest codes that fill whole bytes, and how many bytes."""
    common = math.gcd(bits, 8)
    return 8 // common, bits // common


def _ones(bits: int) -> np.uint8:
    return np.uint8((1 << bits) - 1)


def _cut(x: jax.Array, periods: int, size: int) -> jax.Array:
    """The last axis as `[periods, size]`, with zeros behind it."""
    tail = [(0, 0, 0)] * (x.ndim - 1) + [(0, periods * size - x.shape[-1], 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), tail).reshape(*x.shape[:-1], periods, size)


def _joined(columns: list[jax.Array], n: int) -> jax.Array:
    """The first n of the elements that the columns of all periods hold, in order."""
    x = jnp.stack(columns, axis=-1)
    return x.reshape(*x.shape[:-2], math.prod(x.shape[-2:]))[..., :n]


def _byte(codes: jax.Array, j: int, bits: int) -> jax.Array:
    """Byte j of every period, from the codes that reach into it."""
    parts = [
        _shifted(codes[..., i], i * bits - 8 * j)
        for i in range(codes.shape[-1])
        if -bits < i * bits - 8 * j < 8
    ]
    return reduce(lax.bitwise_or, parts)


def _code(words: jax.Array, i: int, bits: int) -> jax.Array:
    """Code i of every period, from the one or two bytes that it lies in."""
    parts = [
        _shifted(words[..., j], 8 * j - i * bits)
        for j in range(words.shape[-1])
        if -8 < 8 * j - i * bits < bits
    ]
    return reduce(lax.bitwise_or, parts) & _ones(bits)


def _shifted(x: jax.Array, by: int) -> jax.Array:
    """Bits moved up, or down where `by` is negative; those that leave the byte are lost."""
    return x << np.uint8(by) if by >= 0 else x >> np.uint8(-by)


def _signed(codes: jax.Array, bits: int) -> jax.Array:
    """Bytes whose sign is that of the code's highest bit."""
    free = np.int8(8 - bits)
    return (lax.bitcast_convert_type(codes, jnp.int8) << free) >> free
