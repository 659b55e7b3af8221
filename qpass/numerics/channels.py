"""What is known of each channel of an activation: sums over the rows that a weight multiplies.

A channel is an index of the axes that activation and weight sum over, flattened to K. An error e of
a weight's row changes its products by ``x @ e``, whose square summed over rows is ``e' H e`` with
``H = sum(x x')``: the Hessian, of which the sums of squares are the diagonal.
"""

from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qpass.numerics.statistics import State

KINDS = ("square", "absmax", "hessian")
# Squares of float32 must not overflow when they are summed; nothing is that large on purpose.
_LARGEST = 1e15

type Axes = tuple[int, ...]


def as_rows(x: jax.Array, batch: Axes, contract: Axes) -> jax.Array:
    """An operand as ``f32[*batch, M, K]``; what is not finite as 0."""
    free = tuple(d for d in range(x.ndim) if d not in (*batch, *contract))
    x = lax.transpose(x.astype(jnp.float32), (*batch, *free, *contract))
    sizes = [x.shape[d] for d in range(len(batch))]
    m = int(np.prod(x.shape[len(batch) : x.ndim - len(contract)]))
    x = x.reshape(*sizes, m, int(np.prod(x.shape[x.ndim - len(contract) :])))
    return jnp.clip(jnp.where(jnp.isfinite(x), x, 0), -_LARGEST, _LARGEST)


def by_channel(
    rows: jax.Array, kinds: Collection[str], sizes: jax.Array | None = None
) -> dict[str, State]:
    """What rows show of each channel, by how several runs are merged.

    Args:
        rows: ``f32[*batch, M, K]``.
        kinds: of `KINDS`.
        sizes: of a ragged product, integers ``[*batch, E]`` (or ``[E]``), how many of the M rows
            each expert has; the fields then have a leading axis, one entry for each.

    Returns:
        ``"sum"``: ``rows`` (how many), ``squares [*batch, K]``, ``hessian [*batch, K, K]``;
        ``"max"``: ``absmax [*batch, K]``.
    """
    if sizes is None:
        count = jnp.full((), np.float32(rows.shape[-2]))
        return _fields(rows, kinds, count)
    owned = _owned(jnp.broadcast_to(sizes, (*rows.shape[:-2], sizes.shape[-1])), rows.shape[-2])
    # One expert after the other: together they would be as many copies of the rows.
    return lax.map(lambda own: _fields(rows * own[..., None], kinds, jnp.sum(own, -1)), owned)


def _owned(sizes: jax.Array, m: int) -> jax.Array:
    """For each expert, 1 at the rows that it has: ``f32[E, *batch, M]``."""
    ends = jnp.cumsum(sizes, axis=-1)
    row = jnp.arange(m)
    owned = (row < ends[..., None]) & (row >= (ends - sizes)[..., None])
    return jnp.moveaxis(owned.astype(jnp.float32), -2, 0)


def _fields(rows: jax.Array, kinds: Collection[str], count: jax.Array) -> dict[str, State]:
    sums, most = {"rows": count}, {}
    if "square" in kinds:
        sums["squares"] = jnp.sum(rows**2, axis=-2)
    if "hessian" in kinds:
        sums["hessian"] = hessian(rows)
    if "absmax" in kinds:
        most["absmax"] = jnp.max(jnp.abs(rows), axis=-2, initial=0)
    return {"sum": sums, "max": most}


def hessian(rows: jax.Array) -> jax.Array:
    """``sum(x x')`` over rows ``f32[*batch, M, K]``: ``f32[*batch, K, K]``."""
    return jnp.einsum("...mk,...ml->...kl", rows, rows, precision=lax.Precision.HIGHEST)
