"""Layout operations, each for any array: a number picks axes and places."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def apply(op: str, x: jax.Array, pick: int, index: Any) -> jax.Array:
    """Apply ``op`` to ``x`` (at least one axis); ``index`` is a counter, possibly traced."""
    return LAYOUT[op](x, pick % x.ndim, pick // x.ndim, index)


def _transpose(x, axis, pick, index):
    order = list(np.roll(np.arange(x.ndim), axis + 1))
    if pick % 2:
        order.reverse()
    return x.transpose(order)


def _merge(x, axis, pick, index):
    if x.ndim == 1:
        return x
    axis = min(axis, x.ndim - 2)
    return x.reshape(*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])


def _split(x, axis, pick, index):
    n = x.shape[axis]
    factors = [k for k in range(2, n) if n % k == 0] or [1]
    first = factors[pick % len(factors)]
    return x.reshape(*x.shape[:axis], first, n // first, *x.shape[axis + 1 :])


def _mix(x, axis, pick, index):
    """A reshape that lets no axis be: to the reversed shape."""
    return x.reshape(x.shape[::-1])


def _flatten(x, axis, pick, index):
    return x.reshape(-1)


def _slice(x, axis, pick, index):
    n = x.shape[axis]
    start = pick % n
    return lax.slice_in_dim(x, start, n, stride=1 + pick // n % 2, axis=axis)


def _dynamic_slice(x, axis, pick, index):
    size = 1 + pick % x.shape[axis]
    return lax.dynamic_slice_in_dim(x, index + pick % 3, size, axis)


def _row(x, axis, pick, index):
    row = lax.dynamic_index_in_dim(x, index + pick % x.shape[axis], axis, keepdims=False)
    return row if row.ndim else row[None]


def _squeeze(x, axis, pick, index):
    cut = lax.slice_in_dim(x, 0, 1, axis=axis)
    return lax.squeeze(cut, [axis]) if x.ndim > 1 else cut


def _expand(x, axis, pick, index):
    return lax.expand_dims(x, [axis])


def _broadcast(x, axis, pick, index):
    return jnp.broadcast_to(jnp.expand_dims(x, axis), (*x.shape[:axis], 2, *x.shape[axis:]))


def _reverse(x, axis, pick, index):
    return lax.rev(x, [axis])


def _concatenate(x, axis, pick, index):
    return lax.concatenate([x, x if pick % 2 else -x], axis)


def _gather(x, axis, pick, index):
    rows = (np.arange(1 + pick % 3) * 2 + pick) % x.shape[axis]
    return jnp.take(x, jnp.asarray(rows), axis=axis)


def _narrow(x, axis, pick, index):
    return x.astype(jnp.bfloat16)


def _widen(x, axis, pick, index):
    return x.astype(jnp.float32)


def _barrier(x, axis, pick, index):
    return lax.optimization_barrier(x)


def _stop(x, axis, pick, index):
    return lax.stop_gradient(x)


LAYOUT: dict[str, Callable] = {
    "transpose": _transpose,
    "merge": _merge,
    "split": _split,
    "mix": _mix,
    "flatten": _flatten,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "row": _row,
    "squeeze": _squeeze,
    "expand": _expand,
    "broadcast": _broadcast,
    "reverse": _reverse,
    "concatenate": _concatenate,
    "gather": _gather,
    "narrow": _narrow,
    "widen": _widen,
    "barrier": _barrier,
    "stop": _stop,
}
