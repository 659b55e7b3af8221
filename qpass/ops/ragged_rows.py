"""Sums over the rows of each expert: the gradient of experts, ``out[e] = lhs[:, rows of e] @ ...``.

As XLA computes it on CPU, it is a dense product of all rows for each expert. Here a loop goes over
blocks of rows of one expert and adds up what each gives; other platforms have their own form.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass_kernels.ragged_cpu import rows_of_block
from qpass_kernels.reference import is_safe

NUMBERS = lax.RaggedDotDimensionNumbers((((1,), (1,)), ((), ())), [1], [])


def sum_rows(lhs: jax.Array, rhs: jax.Array, group_sizes: jax.Array) -> jax.Array:
    """Products of codes, summed over the rows of each expert.

    Args:
        lhs: codes ``[R, M]``.
        rhs: codes ``[C, M]``.
        group_sizes: int32 ``[E]``, how many of the M rows each expert has.

    Returns:
        float32 ``[E, R, C]``; of integer codes the exact sums, rounded once.
    """
    integers = all(jnp.issubdtype(x.dtype, jnp.integer) for x in (lhs, rhs))
    exact = integers and is_safe(lhs.shape[1])
    kind, total = (jnp.int8, jnp.int32) if exact else (jnp.float32, jnp.float32)
    operands = (lhs.astype(kind), rhs.astype(kind), group_sizes)
    forms = {"cpu": partial(_by_blocks, total), "default": partial(_by_xla, total)}
    return lax.platform_dependent(*operands, **forms).astype(jnp.float32)


def _by_xla(total: Any, lhs: jax.Array, rhs: jax.Array, group_sizes: jax.Array) -> jax.Array:
    return lax.ragged_dot_general(
        lhs,
        rhs,
        group_sizes,
        NUMBERS,
        precision=lax.Precision.HIGHEST,
        preferred_element_type=total,
    )


def _by_blocks(total: Any, lhs: jax.Array, rhs: jax.Array, group_sizes: jax.Array) -> jax.Array:
    size = rows_of_block(lhs.shape[1], group_sizes.shape[0])
    rows = [jnp.pad(x, ((0, 0), (0, size))) for x in (lhs, rhs)]
    ends = jnp.cumsum(group_sizes, dtype=jnp.int32)
    blocks = -(-group_sizes // size)
    last = jnp.cumsum(blocks, dtype=jnp.int32)

    def step(number: Any, sums: Any) -> Any:
        expert = jnp.searchsorted(last, number, side="right").astype(jnp.int32)
        block = number - last[expert] + blocks[expert]
        start = ends[expert] - group_sizes[expert] + block * size
        left, right = (lax.dynamic_slice_in_dim(x, start, size, 1) for x in rows)
        mine = start + jnp.arange(size) < ends[expert]
        left = jnp.where(mine, left, jnp.zeros((), left.dtype))
        part = lax.dot_general(left, right, (((1,), (1,)), ((), ())), preferred_element_type=total)
        return sums.at[expert].add(part)

    zero = jnp.zeros((), total)
    for x in (lhs, rhs, group_sizes):  # in a shard_map the sums vary as the operands do
        first = x[(0,) * x.ndim]
        zero = jnp.where(first != first, zero, zero)
    nothing = jnp.broadcast_to(zero, (group_sizes.shape[0], lhs.shape[0], rhs.shape[0]))
    return lax.fori_loop(0, last[-1], step, nothing)
