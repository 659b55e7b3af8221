"""Column sums of a weight, which zero points of an activation multiply (see `QTensor.sums`)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from qpass.numerics.blocks import reduce_blocks
from qpass.numerics.kernel_codes import kernel_codes
from qpass.numerics.layout import finer

if TYPE_CHECKING:
    from qpass.numerics.qtensor import QTensor


def with_sums(q: QTensor, contract: tuple[int, ...]) -> QTensor:
    """The same tensor with its column sums; as it is where codes are no integers.

    Codes that share a scale are summed as integers. What these sums are with their scales is added
    in an order of its own, not XLA's, so that it has the same bits wherever it is computed.

    Args:
        q: the tensor.
        contract: the logical axes that products contract.
    """
    if q.qtype.kind != "int" or not all(isinstance(n, int) for n in q.shape):
        return q
    known = q.plain()
    summed = [known.physical(axis) for axis in contract]
    own = {axis: 1 for axis in range(q.ndim) if known.physical(axis) not in summed}
    blocks = tuple(n if axis in summed else 1 for axis, n in enumerate(known.physical_blocks))
    codes = kernel_codes(known.codes, q.qtype).codes.astype(jnp.int32)
    parts = reduce_blocks(codes, blocks, jnp.sum).astype(jnp.float32)
    # Behind a barrier, or a product would run into an addition without being rounded.
    sums = lax.optimization_barrier(parts * finer(known, known.scale, own))
    for axis in summed:
        sums = _folded(sums, axis)
    return replace(q, sums=sums)


def _folded(x: jax.Array, axis: int) -> jax.Array:
    """Sum along an axis, which stays with size 1: its second half is added to the first, again."""
    while (n := x.shape[axis]) != 1:
        x = _even(x, axis, n)
        low, high = jnp.split(x, 2, axis)
        x = low + high
    return x


def _even(x: jax.Array, axis: int, n: int) -> jax.Array:
    """With a zero at the end of an axis of odd size; two where it is empty."""
    more = 2 if n == 0 else n % 2
    return jnp.pad(x, [(0, more if a == axis else 0) for a in range(x.ndim)]) if more else x
