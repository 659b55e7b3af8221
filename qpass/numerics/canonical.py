"""A quantized tensor as the operand `[batch, free, contracted]` of a kernel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from qpass.numerics.axes import pick
from qpass.numerics.layout import per_index

if TYPE_CHECKING:
    from qpass.numerics.qtensor import QTensor


def canonical(
    q: QTensor, batch: tuple[int, ...], free: tuple[int, ...], contract: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, int]:
    """Codes `[B, N, K]`, scale `[B, N, G]`, and how many neighbours along K share a scale.

    Each list of logical axes is flattened to one axis, in the order given. Nothing moves when codes
    lie in that order already. The contracted axis that is cut in groups is padded with zero codes
    up to whole groups (see `padded`). Scales are repeated along axes that share one.
    """
    batch, free, contract = (tuple(a % q.ndim for a in axes) for axes in (batch, free, contract))
    perm = tuple(q.physical(axis) for axis in (*batch, *free, *contract))
    outer = contract[: max(_last_cut(q, contract), 0)]
    scale = lax.transpose(per_index(q, (*batch, *free, *outer)), perm)
    sizes = (*pick(q.shape, batch), *pick(q.shape, free), *padded(q, contract))
    codes = _pad(lax.transpose(q.codes, perm), sizes)
    codes, scale = (_flatten(x, len(batch), len(free)) for x in (codes, scale))
    return codes, scale, max(codes.shape[2] // max(scale.shape[2], 1), 1)


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
