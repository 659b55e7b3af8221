"""Making any array fit: to a shape that is asked for, or to one that is small enough."""

from collections.abc import Sequence
from math import prod

import jax
import jax.numpy as jnp
from jax import lax

LARGEST = 72  # elements of any value: compiling takes the time, not computing
RANK = 4
AXIS = 6


def fit(x: jax.Array, like: jax.Array) -> jax.Array:
    """The elements of ``x``, repeated or cut, in the shape and dtype of ``like``."""
    return reshaped(x, like.shape).astype(like.dtype)


def reshaped(x: jax.Array, shape: Sequence[int]) -> jax.Array:
    """The elements of ``x``, repeated or cut, in another shape."""
    if x.shape == tuple(shape):
        return x
    n, flat = prod(shape), x.reshape(-1)
    if flat.size < n:
        flat = jnp.concatenate([flat] * -(-n // flat.size))
    return flat[:n].reshape(shape)


def bounded(x: jax.Array) -> jax.Array:
    """``x`` with at least one and at most four axes, none longer than six, cut where it is more."""
    if x.ndim == 0:
        return x.reshape(1)
    limit = [min(n, AXIS) for n in x.shape]
    for axis in range(x.ndim):
        while prod(limit) > LARGEST and limit[axis] > 1:
            limit[axis] -= 1
    if tuple(limit) != x.shape:
        x = lax.slice(x, [0] * x.ndim, limit)
    return x if x.ndim <= RANK else bounded(x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]))
