"""How a ``dot_general`` maps to the product ``[B, M, K] x [B, N, K]`` of kernels, and back."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from qpass.graph.dimensions import Dims, remaining
from qpass.numerics import QTensor


@dataclass(frozen=True)
class Layout:
    """Axes of both operands of a product, in the order in which they are flattened."""

    x_batch: tuple[int, ...]
    x_free: tuple[int, ...]
    x_contract: tuple[int, ...]
    w_batch: tuple[int, ...]
    w_free: tuple[int, ...]
    w_contract: tuple[int, ...]


def lay_out(dims: Dims, weight: int, x_ndim: int, w: QTensor) -> Layout:
    """Choose the order of axes so that the weight's codes need not move.

    Args:
        dims: dimension numbers.
        weight: which operand ``w`` is, 0 or 1.
        x_ndim: number of axes of the other.
        w: the weight.
    """
    contract, batch = dims
    x_contract, w_contract = contract[1 - weight], contract[weight]
    x_batch, w_batch = batch[1 - weight], batch[weight]
    pair = dict(zip((*w_contract, *w_batch), (*x_contract, *x_batch), strict=True))
    w_contract, w_batch = w.operand_order(w_contract), w.operand_order(w_batch)
    return Layout(
        x_batch=tuple(pair[d] for d in w_batch),
        x_free=remaining(x_ndim, (*x_contract, *x_batch)),
        x_contract=tuple(pair[d] for d in w_contract),
        w_batch=w_batch,
        w_free=w.operand_order(remaining(w.ndim, (*w_contract, *w_batch))),
        w_contract=w_contract,
    )


def flatten(x: jax.Array, layout: Layout, sizes: tuple[int, ...]) -> jax.Array:
    """Float ``x`` as ``[B, M, K]``, contracted axes padded with zeros to ``sizes``."""
    b, f = len(layout.x_batch), len(layout.x_free)
    x = lax.transpose(x, (*layout.x_batch, *layout.x_free, *layout.x_contract))
    if x.shape[b + f :] != sizes:
        tail = [0] * (b + f) + [s - n for s, n in zip(sizes, x.shape[b + f :], strict=True)]
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, t, 0) for t in tail])
    parts = (x.shape[:b], x.shape[b : b + f], x.shape[b + f :])
    return lax.reshape(x, tuple(math.prod(part) for part in parts))


def restore(
    out: jax.Array, layout: Layout, dims: Dims, weight: int, x_shape: tuple, w_shape: tuple
) -> jax.Array:
    """``[B, M, N]`` to batch, lhs free, rhs free, each in the order of the operand."""
    names, wanted = _orders(layout, dims, weight)
    shapes = {"b": w_shape, "x": x_shape, "w": w_shape}
    full = lax.reshape(out, tuple(shapes[kind][d] for kind, d in names))
    return lax.transpose(full, tuple(names.index(name) for name in wanted))


def flatten_like_result(value: jax.Array, layout: Layout, dims: Dims, weight: int) -> jax.Array:
    """What `restore` turned back: ``[B, M, N]``, or 1 for sizes that are 1 in ``value``."""
    names, wanted = _orders(layout, dims, weight)
    value = lax.transpose(value, tuple(wanted.index(name) for name in names))
    b, f = len(layout.x_batch), len(layout.x_free)
    parts = (value.shape[:b], value.shape[b : b + f], value.shape[b + f :])
    return lax.reshape(value, tuple(math.prod(part) for part in parts))


def _orders(layout: Layout, dims: Dims, weight: int) -> tuple[list, list]:
    """Axes of a result, as a kernel gives them and as ``dot_general`` does."""
    names = [
        *(("b", d) for d in layout.w_batch),
        *(("x", d) for d in layout.x_free),
        *(("w", d) for d in layout.w_free),
    ]
    batch = [("b", d) for d in dims[1][weight]]
    free = [[("x", d) for d in sorted(layout.x_free)], [("w", d) for d in sorted(layout.w_free)]]
    return names, batch + (free[1] + free[0] if weight == 0 else free[0] + free[1])
