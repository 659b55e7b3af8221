"""Ragged products on CPU as XLA compiles them: blocks of rows, each by the weight of one expert.

A dense product for each expert would cost so many times the work, and is what XLA makes of a ragged
product of floats. Here a loop goes over blocks of rows that belong to one expert, as many as there
are, and multiplies each by its layer of the experts' stack. The last block of an expert runs on
into the rows of the next; that one's own block, which comes later, overwrites what is wrong there.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax

from qpass_kernels.kernel import Product, dtype
from qpass_kernels.ragged import RaggedMatmul, RaggedProduct
from qpass_kernels.ragged_reference import one_expert, owners

MOST_ROWS = 256
"""Rows of a block: more no longer make the product faster."""

ROWS_OF_MANY = 16
"""Rows of a block where their number in all is not known."""


def by_blocks(
    name: str, supports: Callable[[Product], str | None], run_stacked: Callable[..., Any]
) -> RaggedMatmul:
    """The ragged product of a kernel that reads a layer of a stack in place.

    Args:
        name: the kernel's.
        supports: its `Kernel.supports`.
        run_stacked: its `Kernel.run_stacked`.
    """

    def of_block(product: RaggedProduct) -> str | None:
        return supports(one_expert(product, block_rows(product)))

    return RaggedMatmul(name, of_block, partial(_run, run_stacked), skips=True)


def block_rows(product: RaggedProduct) -> int:
    """How many rows a block has: few enough that those too many are less than a fifth of all.

    Each expert's last block may hold one row only.
    """
    return rows_of_block(product.m, product.experts)


def rows_of_block(rows: Any, experts: int) -> int:
    """The same, for so many rows of so many experts."""
    if not isinstance(rows, int):
        return ROWS_OF_MANY
    return min(1 + rows // (5 * experts), MOST_ROWS)


def _run(
    run_stacked: Callable[..., Any],
    product: RaggedProduct,
    lhs: Any,
    lhs_scale: Any,
    rhs: Any,
    rhs_scale: Any,
    group_sizes: Any,
) -> Any:
    """Compute the product of the reference, a block of rows at a time."""
    size = block_rows(product)
    dense = one_expert(product, size)
    rows = [_longer(x, size) for x in (lhs, lhs_scale) if x is not None]
    stack, stack_scale = rhs[:, None], rhs_scale[:, None]
    blocks = -(-group_sizes // size)
    last = jnp.cumsum(blocks, dtype=jnp.int32)
    begins = jnp.cumsum(group_sizes, dtype=jnp.int32) - group_sizes

    def step(number: Any, out: Any) -> Any:
        expert = jnp.searchsorted(last, number, side="right").astype(jnp.int32)
        start = begins[expert] + (number - last[expert] + blocks[expert]) * size
        some = [lax.dynamic_slice_in_dim(x, start, size, 0)[None] for x in rows]
        scale = some[1] if len(some) > 1 else None
        part = run_stacked(dense, some[0], scale, stack, stack_scale, expert)
        return lax.dynamic_update_slice_in_dim(out, part[0], start, 0)

    nothing = _zeros(product, size, *rows, rhs, group_sizes)
    out = lax.fori_loop(0, last[-1], step, nothing)[: product.m]
    mine = owners(group_sizes, product.m) < product.experts
    return jnp.where(mine[:, None], out, jnp.zeros((), out.dtype))


def _zeros(product: RaggedProduct, tail: int, *operands: Any) -> Any:
    """What the loop begins with; it varies over the axes of a shard_map as the operands do."""
    zero = jnp.zeros((), dtype(product.out))
    for x in operands:
        first = x[(0,) * x.ndim]
        zero = jnp.where(first != first, zero, zero)
    return jnp.broadcast_to(zero, (product.m + tail, product.n))


def _longer(x: Any, rows: int) -> Any:
    """Fill `[M, ...]` up so that a block may begin with any row."""
    return jnp.pad(x, ((0, rows), (0, 0)))
