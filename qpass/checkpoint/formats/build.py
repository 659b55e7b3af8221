"""QTensors `[out, in]` from codes, scales and zero points as numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from qpass.errors import CheckpointError, CorruptTensorError
from qpass.numerics import QTensor, QType, qtypes
from qpass.numerics.packing import pack

_SIGNED = ("int2", "int3", "int4", "int5", "int6", "int7", "int8")
INTEGERS = {int(name[3:]): qtypes.find_qtype(name) for name in _SIGNED}
"""Types of signed codes by their bits."""


@dataclass(frozen=True)
class Scales:
    """How codes `[out, in]` are scaled.

    Attributes:
        scale: `[out or fewer, in or fewer]`, any float dtype; of block formats as they store it.
        rows: how many neighbours along `out` share one.
        columns: how many neighbours along `in` share one.
        zero: of the shape of `scale`: what code stands for zero; None where that is the middle one.
        outer: float32 factor of all scales; None for most formats.
    """

    scale: np.ndarray
    rows: int
    columns: int
    zero: np.ndarray | None = None
    outer: float | None = None


def from_unsigned(
    codes: np.ndarray, bits: int, scales: Scales, dtype: np.dtype, where: str
) -> QTensor:
    """Codes 0 to `2**bits - 1` as signed ones: they and their zero points are moved down by half.

    Args:
        codes: uint8 `[out, in]`.
        bits: of a code.
        scales: with `zero` among the codes, or None for the middle one.
        dtype: that the tensor stands for.
        where: the tensor and its file.

    Raises:
        CheckpointError: a zero point that no byte holds, or see `quantized`.
    """
    half = 1 << (bits - 1)
    zero = None if scales.zero is None else scales.zero.astype(np.int32) - half
    signed = codes.astype(np.int8) - np.int8(half) if bits < 8 else (codes ^ 0x80).view(np.int8)
    moved = Scales(scales.scale, scales.rows, scales.columns, _bytes(zero, where))
    return quantized(signed, INTEGERS[bits], moved, dtype, where)


def quantized(
    codes: np.ndarray, qtype: QType, scales: Scales, dtype: np.dtype, where: str
) -> QTensor:
    """A QTensor of these codes.

    Args:
        codes: `[out, in]`, of the type's dtype or one that casts to it exactly.
        qtype: their type.
        scales: `zero` is int8, or float32 where it lies between codes.
        dtype: that the tensor stands for.
        where: the tensor and its file.

    Raises:
        CheckpointError: scales that are not finite, or whose shape does not fit.
    """
    _check_finite(scales, where)
    block = zip((-2, -1), (scales.rows, scales.columns), codes.shape, strict=True)
    stored = jnp.asarray(codes.astype(qtype.dtype))
    narrow = scales.scale.dtype == qtype.scale_format.dtype
    q = QTensor(
        codes=pack(stored, qtype.packed) if qtype.packed else stored,
        scale=jnp.asarray(scales.scale if narrow else scales.scale.astype(np.float32)),
        zero=None if scales.zero is None else jnp.asarray(scales.zero),
        outer=None if scales.outer is None else jnp.full((1, 1), scales.outer, jnp.float32),
        latent=None,
        qtype=qtype,
        dtype=np.dtype(dtype),
        groups=tuple((axis, size) for axis, size, n in block if 1 < size < n),
    )
    try:
        q.check(where)
    except CorruptTensorError as error:
        raise CheckpointError(f"Mend {where}: its parts contradict each other. {error}") from error
    return q


def float_dtype(scale: np.ndarray) -> np.dtype:
    """The dtype that weights with such scales stand for: theirs, where it is a float's."""
    wide = scale.dtype in (np.float16, np.float32, np.dtype(ml_dtypes.bfloat16))
    return scale.dtype if wide else np.dtype(np.float32)


def check_shape(array: np.ndarray, wanted: tuple[int, ...], where: str) -> None:
    """Hold the shape of a tensor in a file against what the others ask for.

    Raises:
        CheckpointError: naming the tensor, its file and both shapes.
    """
    if array.shape != wanted:
        raise CheckpointError(
            f"Mend {where}: it is {array.dtype}{list(array.shape)}, and the tensors beside it and "
            f"the configuration ask for the shape {list(wanted)}."
        )


def _bytes(zero: np.ndarray | None, where: str) -> np.ndarray | None:
    if zero is None or not zero.any():
        return None
    if zero.min() < -128 or zero.max() > 127:
        raise CheckpointError(
            f"Mend {where}: its zero points lie up to {int(np.abs(zero).max())} codes from the "
            "middle one, which is more than a byte holds."
        )
    return zero.astype(np.int8)


def _check_finite(scales: Scales, where: str) -> None:
    for array in (scales.scale, scales.zero, scales.outer):
        if array is None:
            continue
        bad = int(np.sum(~np.isfinite(np.asarray(array).astype(np.float32))))
        if bad:
            raise CheckpointError(f"Mend {where}: {bad} of its scales are NaN or infinite.")
