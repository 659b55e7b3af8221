"""A QTensor as rows `[out, in]` of numpy arrays, which formats of other libraries are made of."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from qpass.errors import CheckpointError
from qpass.numerics import Packed, QTensor, QType
from qpass.numerics.packing import unpack


@dataclass(frozen=True)
class Rows:
    """A quantized weight `[out, in]`.

    Attributes:
        name: of the parameter.
        qtype: of the codes.
        codes: of the type's dtype; integers as int8.
        scale: of the shape of the grid of blocks; float32, of block formats as they store it.
        zero: int8 of that shape; None where it is the middle code.
        outer: the factor of all scales; None where there is none.
        block: how many neighbours share a scale along both axes.
    """

    name: str
    qtype: QType
    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray | None
    outer: float | None
    block: tuple[int, int]

    @property
    def bits(self) -> int:
        """Bits that a code needs: five of an int5, which has a byte in memory."""
        if self.qtype.kind != "int":
            return self.qtype.bits
        return int(self.qtype.qmax - self.qtype.qmin).bit_length()

    @property
    def strategy(self) -> str:
        """What compressed-tensors calls the granularity."""
        rows, columns = (have == n for have, n in zip(self.block, self.codes.shape, strict=True))
        if rows and columns and self.codes.shape[0] > 1:
            return "tensor"
        if self.block[0] == 1:
            return "channel" if columns else "group"
        return "block"


def rows_of(q: QTensor, name: str) -> Rows:
    """The tensor's arrays in logical order.

    Raises:
        CheckpointError: it is no matrix, or has zero points between codes.
    """
    if q.ndim != 2:
        raise CheckpointError(f"Write {name} as a matrix [out, in]; it has the shape {q.shape}.")
    if q.zero is not None and q.zero.dtype.itemsize != 1:
        raise CheckpointError(
            f"Dequantize {name} before it is written: its zero points lie between codes, as GGUF "
            "has them, and this format has no room for them."
        )
    turned = (lambda x: np.asarray(x).T) if q.physical_order != (0, 1) else np.asarray
    codes = unpack(q.codes) if isinstance(q.codes, Packed) else q.codes
    codes = codes.astype(jnp.int8) if q.qtype.dtype == jnp.int4 else codes
    outer = None if q.outer is None else np.asarray(q.outer).reshape(-1)
    if outer is not None and len(outer) != 1:
        raise CheckpointError(f"Write {name} layer by layer: it has {len(outer)} global scales.")
    return Rows(
        name,
        q.qtype,
        turned(codes),
        turned(q.scale),
        None if q.zero is None else turned(q.zero),
        None if outer is None else float(outer[0]),
        (q.blocks[0], q.blocks[1]),
    )
