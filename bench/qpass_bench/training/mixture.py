"""The decoder of letters with a mixture of experts in each layer, as anybody would write it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass_bench.training import decoder


@dataclass(frozen=True)
class Sizes(decoder.Sizes):
    """Of the decoder, and of the experts in each of its layers."""

    layers: int = 2
    width: int = 128
    experts: int = 8
    chosen: int = 2
    hidden: int = 256


def init(sizes: Sizes, key: jax.Array) -> dict[str, Any]:
    """Random parameters, float32."""
    e, w, h = sizes.experts, sizes.width, sizes.hidden
    feed = {"router": (w, e), "gate": (e, w, h), "up": (e, w, h), "down": (e, h, w)}
    return decoder.init(sizes, key, feed)


def loss(sizes: Sizes, params: Any, windows: jax.Array) -> jax.Array:
    """See `decoder.loss`."""
    return decoder.loss(sizes, params, windows, partial(mixed, sizes))


def mixed(sizes: Sizes, x: jax.Array, w: Any) -> jax.Array:
    """Each token by the experts that the router scores highest, by its scores of them."""
    rows = x.reshape(-1, x.shape[-1])
    shares, order, counts = route(sizes, rows, w)
    own = rows[order // sizes.chosen]
    gate = jax.nn.silu(lax.ragged_dot(own, w["gate"], counts))
    out = lax.ragged_dot(gate * lax.ragged_dot(own, w["up"], counts), w["down"], counts)
    each = out[jnp.argsort(order)].reshape(*shares.shape, -1)
    return jnp.sum(each * shares[..., None], 1).reshape(x.shape)


def route(sizes: Sizes, rows: jax.Array, w: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which experts see which rows.

    Returns:
        the share ``[R, C]`` of each chosen expert, the order that sorts pairs of row and expert by
        expert ``[R * C]``, and how many pairs each expert has ``[E]``.
    """
    scores = jax.nn.softmax(rows @ w["router"])
    shares, chosen = lax.top_k(scores, sizes.chosen)
    shares = shares / jnp.sum(shares, -1, keepdims=True)
    counts = jnp.bincount(chosen.ravel(), length=sizes.experts)
    return shares, jnp.argsort(chosen.ravel()), counts
