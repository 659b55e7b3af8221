"""A quantized tensor as the operand `[batch, free, contracted]` of a kernel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from qpass.numerics import layout
from qpass.numerics.axes import pick
from qpass.numerics.kernel_codes import kernel_codes

if TYPE_CHECKING:
    from qpass.numerics.qtensor import QTensor


class Operand(NamedTuple):
    """An operand `[B, N, K]` of a kernel: `(codes - zero) * scale` is its value.

    Attributes:
        codes: `[B, N, K]` in a dtype that kernels know (see `qpass.numerics.kernel_codes`).
        scale: float32 `[B, N, G]`.
        zero: float32 zero points `[B, N, G]`; None where they are zero.
        group: how many neighbours along K share a scale.
    """

    codes: jax.Array
    scale: jax.Array
    zero: jax.Array | None
    group: int


def canonical(
    q: QTensor, batch: tuple[int, ...], free: tuple[int, ...], contract: tuple[int, ...]
) -> Operand:
    """A tensor as an operand: each list of logical axes is flattened to one, in the order given.

    Nothing moves when codes lie in that order already. The contracted axis that is cut in groups is
    padded with zero codes up to whole groups (see `padded`). Scales are repeated along axes that
    share one.
    """
    q = layout.plain(q)
    batch, free, contract = (tuple(a % q.ndim for a in axes) for axes in (batch, free, contract))
    perm = tuple(q.physical(axis) for axis in (*batch, *free, *contract))
    outer = contract[: max(_last_cut(q, contract), 0)]

    def flat_scale(scale: jax.Array) -> jax.Array:
        own = layout.per_index(q, (*batch, *free, *outer), scale)
        return _flatten(lax.transpose(own, perm), len(batch), len(free))

    codes, unit, shift = kernel_codes(q.codes, q.qtype)
    scale = flat_scale(q.scale)
    zero = None if q.zero is None else flat_scale(q.zero).astype(jnp.float32) - shift
    sizes = (*pick(q.shape, batch), *pick(q.shape, free), *padded(q, contract))
    codes = _flatten(_pad(lax.transpose(codes, perm), sizes), len(batch), len(free))
    group = max(codes.shape[2] // max(scale.shape[2], 1), 1)
    return Operand(codes, scale if unit == 1 else scale * unit, zero, group)


def padded(q: QTensor, contract: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes of the contracted axes in `canonical`: whole groups along the axis that is cut.

    The other operand has to be padded with zeros alike; then every group of K lies in one scale.
    """
    contract = tuple(a % q.ndim for a in contract)
    cut = _last_cut(q, contract)
    sizes = list(pick(q.shape, contract))
    if cut >= 0:
        axis = contract[cut]
        sizes[cut] = q.scale.shape[q.physical(axis)] * q.blocks[axis]
    return tuple(sizes)


def _last_cut(q: QTensor, contract: tuple[int, ...]) -> int:
    """The place in `contract` of the last axis with more than one scale, or -1.

    All axes after it share, so that they lie inside one group of the flattened axis; those before
    it get a scale for each index.
    """
    cuts = [i for i, axis in enumerate(contract) if q.scale.shape[q.physical(axis)] > 1]
    return cuts[-1] if cuts else -1


def _pad(x: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    if x.shape == sizes:
        return x
    tail = [(0, size - n, 0) for size, n in zip(sizes, x.shape, strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), tail)


def _flatten(x: jax.Array, batch: int, free: int) -> jax.Array:
    cuts = (x.shape[:batch], x.shape[batch : batch + free], x.shape[batch + free :])
    return lax.reshape(x, tuple(math.prod(sizes) for sizes in cuts))
