"""Arrays as safetensors files hold them, and back: what those have no dtype for is kept as bytes.

Codes of less than a byte are packed, the first one in the lowest bits.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from qpass.errors import CheckpointError
from qpass.numerics.packing import Packed, pack, packed_length, unpack

_FLOATS = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
NATIVE = frozenset(
    {np.dtype(np.bool_)}
    | {np.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
    | {np.dtype(f"float{bits}") for bits in (16, 32, 64)}
    | {np.dtype(getattr(ml_dtypes, name)) for name in _FLOATS}
)
"""Dtypes that safetensors files have."""

PACKED_AT_ONCE = 2**22
"""Codes; a multiple of 8, so that parts fill whole bytes."""


def to_file(x: Any, where: str) -> np.ndarray:
    """The array that is written.

    Args:
        x: an array all of which this process can read.
        where: its path, for errors.

    Returns:
        x itself where its dtype is one of `NATIVE`, else uint8 `[bytes]`.

    Raises:
        CheckpointError: x is no array of numbers, or other processes hold parts of it.
    """
    if not hasattr(x, "dtype") or not hasattr(x, "shape"):
        raise CheckpointError(f"Save arrays and QTensors only; {where} is a {type(x).__name__}.")
    if jnp.issubdtype(x.dtype, jax.dtypes.extended):
        raise CheckpointError(f"Save jax.random.key_data of {where}: a key is no array of numbers.")
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        raise CheckpointError(
            f"Save {where} with Orbax, which writes from many processes (QTensors are pytrees of "
            "arrays to it): other processes hold parts of it."
        )
    array = np.ascontiguousarray(x)
    if array.dtype in NATIVE:
        return array.reshape(np.shape(x))
    bits = jax.dtypes.itemsize_bits(array.dtype)
    raw = array.reshape(-1).view(np.uint8)
    return raw if bits >= 8 else _packed(raw, bits)


def _packed(raw: np.ndarray, bits: int) -> np.ndarray:
    """`pack` of many codes, a part at a time: it takes several times their bytes on the way."""
    words = np.empty(packed_length(raw.size, bits), np.uint8)
    for first in range(0, raw.size, PACKED_AT_ONCE):
        part = np.asarray(pack(jnp.asarray(raw[first : first + PACKED_AT_ONCE]), bits).words)
        words[first * bits // 8 :][: part.size] = part
    return words


def from_file(stored: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The array that `to_file` was given; a view of what is stored wherever it can be one."""
    if dtype in NATIVE:
        return stored.reshape(shape)
    bits = jax.dtypes.itemsize_bits(dtype)
    if bits >= 8:
        return stored.view(dtype).reshape(shape)
    signed = jnp.issubdtype(dtype, jnp.signedinteger)
    packed = Packed(jnp.asarray(stored), math.prod(shape), bits, np.dtype("i1" if signed else "u1"))
    return np.asarray(unpack(packed)).view(np.uint8).view(dtype).reshape(shape)


def stored_form(dtype: np.dtype, shape: tuple[int, ...]) -> tuple[np.dtype, tuple[int, ...]]:
    """Dtype and shape of what `to_file` gives for such an array."""
    if dtype in NATIVE:
        return dtype, shape
    bits, count = jax.dtypes.itemsize_bits(dtype), math.prod(shape)
    return np.dtype(np.uint8), (packed_length(count, bits),)
