"""The weight as a kernel is handed it: where and as it is stored, if it lies as the product needs.

An operand made for one product (``QTensor.canonical``) is a layer cut out of its stack, and its
codes are decoded to a dtype that all kernels know. Neither is computed where the stored arrays can
stand in for it: nothing else reads them, and the compiler drops what nobody reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from qpass.numerics import Packed, QTensor, QType, table_of
from qpass.numerics.layout import plain_scales, stored
from qpass.ops.axes_of_product import Layout
from qpass.ops.layer import Layer


@dataclass(frozen=True)
class Right:
    """The right operand of a product, as `qpass.ops.matmul.quantized_matmul` takes it.

    Attributes:
        codes: ``[B, N, K]``; with an index ``[S, B, N, K]``; of dense codes, the bytes.
        scale: float32 ``[B, N, G]``; with an index ``[S, B, N, G]``.
        index: int32 scalar, which layer of the stacks; None where there are none.
        stored: the type of codes that are as they are stored; None for a dtype that kernels know.
    """

    codes: jax.Array
    scale: jax.Array
    index: jax.Array | None = None
    stored: QType | None = None


def right_operand(w: QTensor | Layer, layout: Layout, codes: Any, scale: Any) -> Right:
    """What stands for ``codes [B, N, K]`` and ``scale [B, N, G]``, which were made of ``w``."""
    made = Right(codes, scale)
    q, index = (w.stack, w.index) if isinstance(w, Layer) else (w, None)
    qtype = q.qtype if _has_table(q) else None
    lead = () if index is None else q.shape[:1]
    if (qtype is None and index is None) or not _lies_so(q, lead, layout, made):
        return made
    width = codes.shape[2]
    if isinstance(q.codes, Packed):
        width = math.prod(q.codes.words.shape[-len(layout.w_contract) :])
    return Right(
        jnp.reshape(stored(q.codes), (*lead, *codes.shape[:2], width)),
        jnp.reshape(plain_scales(q).scale, (*lead, *scale.shape)),
        index,
        qtype,
    )


def _has_table(q: QTensor) -> bool:
    """Whether codes, as they are, are places in the table of their type."""
    return table_of(q.qtype) is not None and isinstance(q.codes, Packed) == bool(q.qtype.packed)


def _lies_so(q: QTensor, lead: tuple[Any, ...], layout: Layout, made: Right) -> bool:
    """Whether codes and scales lie in the order of the product: none repeated, none filled up."""
    axes = (*layout.w_batch, *layout.w_free, *layout.w_contract)
    in_order = (*range(len(lead)), *(axis + len(lead) for axis in axes)) == q.physical_order
    as_many = (q.size, q.scale.size) == tuple(
        math.prod(lead) * x.size for x in (made.codes, made.scale)
    )
    return in_order and as_many and _in_whole_bytes(q, layout, made)


def _in_whole_bytes(q: QTensor, layout: Layout, made: Right) -> bool:
    """Whether rows of codes that share bytes begin with one."""
    if isinstance(q.codes, Packed):
        *outer, n = layout.w_contract and q.codes.shape[-len(layout.w_contract) :]
        return bool(layout.w_contract) and (math.prod(outer) == 1 or n * q.codes.bits % 8 == 0)
    return made.codes.dtype != jnp.int4 or _has_table(q) or made.codes.shape[2] % 2 == 0
