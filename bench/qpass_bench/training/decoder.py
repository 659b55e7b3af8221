"""A decoder of letters in plain JAX, as anybody would write it: nothing here knows of qpass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

type Feed = Callable[[jax.Array, Any], jax.Array]
"""What a layer adds after attention: normed ``f32[B, T, W]`` and its weights to the same."""


@dataclass(frozen=True)
class Sizes:
    """Of a decoder; all layers are stacked in one leaf for each weight."""

    layers: int = 3
    width: int = 256
    heads: int = 4
    length: int = 128
    vocabulary: int = 256
    remat: bool = False


def init(
    sizes: Sizes, key: jax.Array, feed: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, Any]:
    """Random parameters, float32; ``feed`` holds the shapes of what `logits` is given to feed."""
    w, v = sizes.width, sizes.vocabulary
    feed = {"up": (w, 4 * w), "down": (4 * w, w)} if feed is None else feed
    layer = {"qkv": (w, 3 * w), "out": (w, w), **feed}
    keys = iter(jax.random.split(key, len(layer) + 3))

    def draw(shape: tuple[int, ...]) -> jax.Array:
        return jax.random.normal(next(keys), shape) * shape[-2] ** -0.5

    return {
        "embed": draw((v, w)),
        "positions": draw((sizes.length, w)),
        "layers": {name: draw((sizes.layers, *shape)) for name, shape in layer.items()},
        "head": draw((w, v)),
    }


def dense(x: jax.Array, w: Any) -> jax.Array:
    """Two dense layers."""
    return jax.nn.gelu(x @ w["up"]) @ w["down"]


def logits(sizes: Sizes, params: Any, tokens: jax.Array, feed: Feed = dense) -> jax.Array:
    """``i32[B, T] -> f32[B, T, V]``: what comes after each token."""
    step = partial(_layer, sizes, feed)
    if sizes.remat:
        step = jax.checkpoint(step)
    start = params["embed"][tokens] + params["positions"][: tokens.shape[1]]
    x, _ = lax.scan(step, start, params["layers"])
    return _norm(x) @ params["head"]


def loss(sizes: Sizes, params: Any, windows: jax.Array, feed: Feed = dense) -> jax.Array:
    """Mean over all bytes of ``u8[B, T + 1]`` but the first: nats that each comes as a surprise."""
    tokens = windows.astype(jnp.int32)
    likely = jax.nn.log_softmax(logits(sizes, params, tokens[:, :-1], feed))
    return -jnp.mean(jnp.take_along_axis(likely, tokens[:, 1:, None], -1))


def _layer(sizes: Sizes, feed: Feed, x: jax.Array, w: Any) -> tuple[jax.Array, None]:
    q, k, v = jnp.split(_norm(x) @ w["qkv"], 3, -1)
    split = (*x.shape[:2], sizes.heads, sizes.width // sizes.heads)
    mixed = jax.nn.dot_product_attention(
        q.reshape(split), k.reshape(split), v.reshape(split), is_causal=True
    )
    x = x + mixed.reshape(x.shape) @ w["out"]
    return x + feed(_norm(x), w), None


def _norm(x: jax.Array) -> jax.Array:
    return x * lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)
