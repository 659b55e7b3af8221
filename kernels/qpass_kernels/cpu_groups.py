"""Integer products on CPU whose activations have a scale for each group of K.

XLA has no product that keeps the sums of groups apart, and a batched product per group is ten times
as slow as one product. Two forms avoid it, both with exact int32 sums:

* few rows: each group becomes a row of its own, zero outside the group, so that one product gives
  all sums. One row is sent as two anyway (see `qpass_kernels.cpu`), and the product is bound by
  reading the weight: eight rows take as long as two.
* many rows: one product for each group, on slices of both operands; copying a slice of the weight
  is small beside the product.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

from qpass_kernels import reference
from qpass_kernels.kernel import Product, dtype

ROWS = 16
"""Most rows of the first form: up to here more rows cost next to nothing."""

MOST_GROUPS = 32
"""Most groups of the second form: each is a product of its own in the program."""


def fits(product: Product) -> bool:
    """Say whether the product is int8 by int8 with grouped activations, and groups are few."""
    return (
        (product.lhs, product.rhs, product.lhs_scale) == ("int8", "int8", "group")
        and not product.symbolic
        and reference.is_safe(product.group)
        and (product.groups <= MOST_GROUPS or _as_rows(product))
    )


def _as_rows(product: Product) -> bool:
    return product.m * product.groups <= ROWS


def run(product: Product, lhs: Any, lhs_scale: Any, rhs: Any, rhs_scale: Any) -> Any:
    """Compute the product of the reference, sums of groups kept in int32; see `fits`."""
    tail = product.groups * product.group - product.k
    # Sealed: how the sum over groups rounds must not depend on what its scales are made of.
    lhs_scale, rhs_scale = reference.sealed((lhs_scale, rhs_scale))
    if tail:
        lhs, rhs = (jnp.pad(x, ((0, 0), (0, 0), (0, tail))) for x in (lhs, rhs))
    form = _by_rows if _as_rows(product) else _by_slices
    total = form(product, lhs, lhs_scale, rhs, rhs_scale)
    return reference.sealed(total.astype(dtype(product.out)))


def _by_rows(product: Product, lhs: Any, lhs_scale: Any, rhs: Any, rhs_scale: Any) -> Any:
    groups = product.groups
    inside = jnp.repeat(jnp.eye(groups, dtype=jnp.int8), product.group, axis=1)
    rows = (lhs[:, :, None, :] * inside).reshape(product.batch, product.m * groups, -1)
    if rows.shape[1] == 1:  # XLA's int8 product of one row leaves the fast library path
        rows = jnp.pad(rows, ((0, 0), (0, 1), (0, 0)))
    sums = reference.dot(product, rows, rhs)[:, : product.m * groups].astype(jnp.float32)
    sums = sums.reshape(product.batch, product.m, groups, product.n) * lhs_scale[..., None]
    scale = jnp.swapaxes(rhs_scale, 1, 2)[:, None]  # [B, 1, G or 1, N]
    if product.rhs_scale == "group":
        return jnp.sum(sums * scale, axis=2)
    return jnp.sum(sums, axis=2) * scale[:, :, 0]


def _by_slices(product: Product, lhs: Any, lhs_scale: Any, rhs: Any, rhs_scale: Any) -> Any:
    total = None
    for group in range(product.groups):
        start = group * product.group
        x, w = (lax.slice_in_dim(a, start, start + product.group, axis=2) for a in (lhs, rhs))
        w_scale = reference.pick(rhs_scale, group)
        term = reference.scaled(
            reference.dot(product, x, w), reference.pick(lhs_scale, group), w_scale
        )
        total = term if total is None else total + term
    return total
