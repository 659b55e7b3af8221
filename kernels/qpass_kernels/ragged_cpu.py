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
from qpass_kernels.ragged_blocks import block_rows, over_blocks, zeros
from qpass_kernels.ragged_reference import one_expert, owners


def by_blocks(
    name: str,
    supports: Callable[[Product], str | None],
    run_stacked: Callable[..., Any],
    reads: Callable[[Product], bool],
) -> RaggedMatmul:
    """The ragged product of a kernel that reads a layer of a stack in place.

    Args:
        name: the kernel's.
        supports: its `Kernel.supports`.
        run_stacked: its `Kernel.run_stacked`.
        reads: its `Kernel.reads`.
    """

    def of_block(ask: Callable[[Product], Any], product: RaggedProduct) -> Any:
        return ask(one_expert(product, block_rows(product.m, product.experts)))

    asked = {"supports": partial(of_block, supports), "reads": partial(of_block, reads)}
    return RaggedMatmul(name, run=partial(_run, run_stacked), skips=True, **asked)


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
    size = block_rows(product.m, product.experts)
    dense = one_expert(product, size)
    rows = [_longer(x, size) for x in (lhs, lhs_scale) if x is not None]
    stack, stack_scale = rhs[:, None], rhs_scale[:, None]
    nothing = zeros((product.m + size, product.n), dtype(product.out), *rows, rhs, group_sizes)

    def step(expert: Any, start: Any, _: Any, out: Any) -> Any:
        some = [lax.dynamic_slice_in_dim(x, start, size, 0)[None] for x in rows]
        scale = some[1] if len(some) > 1 else None
        part = run_stacked(dense, some[0], scale, stack, stack_scale, expert)
        return lax.dynamic_update_slice_in_dim(out, part[0], start, 0)

    out = over_blocks(group_sizes, size, step, nothing)[: product.m]
    mine = owners(group_sizes, product.m) < product.experts
    return jnp.where(mine[:, None], out, jnp.zeros((), out.dtype))


def _longer(x: Any, rows: int) -> Any:
    """Fill `[M, ...]` up so that a block may begin with any row."""
    return jnp.pad(x, ((0, rows), (0, 0)))
