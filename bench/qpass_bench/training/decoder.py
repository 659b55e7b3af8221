"""A decoder of letters in plain JAX, as anybody would write it: nothing here knows of qpass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


@dataclass(frozen=True)
class Sizes:
    """Of a decoder; all layers are stacked in one leaf for each weight."""

    layers: int = 3
    width: int = 256
    heads: int = 4
    length: int = 128
    vocabulary: int = 256
    remat: bool = False


def init(sizes: Sizes, key: jax.Array) -> dict[str, Any]:
    """Random parameters, float32."""
    w, v = sizes.width, sizes.vocabulary
    layer = {"qkv": (w, 3 * w), "out": (w, w), "up": (w, 4 * w), "down": (4 * w, w)}
    keys = iter(jax.random.split(key, len(layer) + 3))

    def draw(shape: tuple[int, ...]) -> jax.Array:
        return jax.random.normal(next(keys), shape) * shape[-2] ** -0.5

    return {
        "embed": draw((v, w)),
        "positions": draw((sizes.length, w)),
        "layers": {name: draw((sizes.layers, *shape)) for name, shape in layer.items()},
        "head": draw((w, v)),
    }


def logits(sizes: Sizes, params: Any, tokens: jax.Array) -> jax.Array:
    """``i32[B, T] -> f32[B, T, V]``: what comes after each token."""
    step = partial(_layer, sizes)
    if sizes.remat:
        step = jax.checkpoint(step)
    start = params["embed"][tokens] + params["positions"][: tokens.shape[1]]
    x, _ = lax.scan(step, start, params["layers"])
    return _norm(x) @ params["head"]


def loss(sizes: Sizes, params: Any, windows: jax.Array) -> jax.Array:
    """Mean over all bytes of ``u8[B, T + 1]`` but the first: nats that each comes as a surprise."""
    tokens = windows.astype(jnp.int32)
    likely = jax.nn.log_softmax(logits(sizes, params, tokens[:, :-1]))
    return -jnp.mean(jnp.take_along_axis(likely, tokens[:, 1:, None], -1))


def _layer(sizes: Sizes, x: jax.Array, w: Any) -> tuple[jax.Array, None]:
    q, k, v = jnp.split(_norm(x) @ w["qkv"], 3, -1)
    split = (*x.shape[:2], sizes.heads, sizes.width // sizes.heads)
    mixed = jax.nn.dot_product_attention(
        q.reshape(split), k.reshape(split), v.reshape(split), is_causal=True
    )
    x = x + mixed.reshape(x.shape) @ w["out"]
    return x + jax.nn.gelu(_norm(x) @ w["up"]) @ w["down"], None


def _norm(x: jax.Array) -> jax.Array:
    return x * lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)
