"""The plain ragged product: the oracle of every other, and the last in the table."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax

from qpass_kernels.kernel import Product, dtype
from qpass_kernels.ragged import RaggedMatmul, RaggedProduct


def by_experts(name: str, dense: Callable[..., Any]) -> RaggedMatmul:
    """The ragged product of a kernel that takes every product (`dense` is its `Kernel.run`)."""
    return RaggedMatmul(name, lambda product: None, partial(_run, dense))


def _run(
    dense: Callable[..., Any],
    product: RaggedProduct,
    lhs: Any,
    lhs_scale: Any,
    rhs: Any,
    rhs_scale: Any,
    group_sizes: Any,
) -> Any:
    """Multiply all rows by each expert in turn, and keep the rows that are its own.

    Any size, group tail and symbolic m. It does the work of a dense product for each expert;
    memory: one `[M, N]` beside the operands and the result.
    """
    asked = one_expert(product, product.m)
    lhs, lhs_scale = lhs[None], None if lhs_scale is None else lhs_scale[None]
    owner = owners(group_sizes, product.m)[:, None]

    def step(e: Any, out: Any) -> Any:
        weight, scale = (lax.dynamic_slice_in_dim(x, e, 1, 0) for x in (rhs, rhs_scale))
        return jnp.where(owner == e, dense(asked, lhs, lhs_scale, weight, scale)[0], out)

    nothing = jnp.zeros((product.m, product.n), dtype(product.out))
    # The first step starts the result: in shard_map it varies over the mesh as the rest.
    return lax.fori_loop(1, product.experts, step, step(0, nothing))


def one_expert(product: RaggedProduct, rows: Any) -> Product:
    """The product of some rows by the weight of one expert."""
    return Product(
        batch=1,
        m=rows,
        n=product.n,
        k=product.k,
        lhs=product.lhs,
        rhs=product.rhs,
        out=product.out,
        group=product.group,
        lhs_scale=product.lhs_scale,
        rhs_scale=product.rhs_scale,
        table=product.table,
    )


def owners(group_sizes: Any, m: Any) -> Any:
    """The expert of each row, int32 `[M]`; the number of experts for rows that have none."""
    ends = jnp.cumsum(group_sizes.astype(jnp.int32), dtype=jnp.int32)
    return jnp.searchsorted(ends, jnp.arange(m, dtype=jnp.int32), side="right").astype(jnp.int32)
