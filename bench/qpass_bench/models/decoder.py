"""A Llama-style decoder in plain Flax Linen: scanned layers, KV cache, tied embedding.

Nothing in this file knows of quantization. It is the kind of model code that a user of JAX already
has. The parameters are the usual Flax tree with the layers stacked in front
(``layers/mlp/up/kernel`` is ``[L, D, F]``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Cache = dict[str, jax.Array]
"""Of every layer, each as the products with it read it: keys ``"k" f32[L, B, KV, H, S]`` and values
``"v" f32[L, B, KV, S, H]``."""


@dataclass(frozen=True)
class DecoderConfig:
    """The sizes of a decoder; ``heads`` must be a multiple of ``kv_heads``."""

    vocab: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    eps: float = 1e-5
    rope_base: float = 100_000.0
    dtype: Any = jnp.float32


def empty_cache(config: DecoderConfig, batch: int, length: int) -> Cache:
    """Zero keys and values for ``length`` positions."""
    c = config
    keys = (c.layers, batch, c.kv_heads, c.head_dim, length)
    values = (c.layers, batch, c.kv_heads, length, c.head_dim)
    return {"k": jnp.zeros(keys, c.dtype), "v": jnp.zeros(values, c.dtype)}


def rope_angles(config: DecoderConfig, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines ``f32[T, 1, H/2]`` of rotary embeddings (Su et al., RoFormer, 2021)."""
    exponents = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim
    angles = positions[:, None].astype(jnp.float32) * config.rope_base**-exponents
    return jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]


def rotate(x: jax.Array, rope: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn the halves of every head of ``x [B, T, N, H]`` by the angles of its position."""
    cos, sin = rope
    low, high = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def attend(q: jax.Array, keys: jax.Array, values: jax.Array, position: jax.Array) -> jax.Array:
    """Causal grouped-query attention: ``q [B, T, N, H]`` over a layer of the cache.

    Query t stands at ``position + t`` and sees the cache up to there, itself included. Both
    products are written as they are computed, so that no operand is turned before them.
    """
    batch, steps, heads, dim = q.shape
    groups, length = keys.shape[1], keys.shape[3]
    q = q.reshape(batch, steps, groups, heads // groups, dim).transpose(0, 2, 3, 1, 4) * dim**-0.5
    scores = jnp.einsum("bkgth,bkhs->bkgts", q, keys)
    seen = jnp.arange(length) <= position + jnp.arange(steps)[:, None]
    weights = jax.nn.softmax(jnp.where(seen, scores, -1e30), axis=-1)
    mixed = jnp.einsum("bkgts,bksh->bkgth", weights, values)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, steps, heads, dim)


def store(cache: Cache, k: jax.Array, v: jax.Array, layer: jax.Array, position: jax.Array) -> Cache:
    """Write ``k, v [B, T, KV, H]`` into a layer of the cache from ``position`` on."""
    write = jax.lax.dynamic_update_slice
    k, v = k.transpose(0, 2, 3, 1)[None], v.swapaxes(1, 2)[None]
    return {
        "k": write(cache["k"], k.astype(cache["k"].dtype), (layer, 0, 0, 0, position)),
        "v": write(cache["v"], v.astype(cache["v"].dtype), (layer, 0, 0, position, 0)),
    }


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x, cache, layer, rope, position):
        """Mix ``x [B, T, D]`` with the cache of one layer; returns both, extended."""
        c = self.config
        heads = lambda n, name: nn.DenseGeneral(  # noqa: E731
            (n, c.head_dim), use_bias=False, dtype=c.dtype, name=name
        )
        q = rotate(heads(c.heads, "q")(x), rope)
        k = rotate(heads(c.kv_heads, "k")(x), rope)
        v = heads(c.kv_heads, "v")(x)
        cache = store(cache, k, v, layer, position)
        mixed = attend(q, cache["k"][layer], cache["v"][layer], position)
        out = nn.DenseGeneral(c.width, axis=(-2, -1), use_bias=False, dtype=c.dtype, name="o")
        return out(mixed), cache


class Mlp(nn.Module):
    """SwiGLU (Shazeer, GLU Variants Improve Transformer, 2020)."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x):
        """``[B, T, D]`` in and out."""
        c = self.config
        dense = lambda n, name: nn.Dense(n, use_bias=False, dtype=c.dtype, name=name)  # noqa: E731
        return dense(c.width, "down")(
            jax.nn.silu(dense(c.hidden, "gate")(x)) * dense(c.hidden, "up")(x)
        )


class Block(nn.Module):
    """One layer, as the body of a scan.

    The caches of all layers are carried, so that a step writes its own tokens and nothing else;
    scanned over, they would be copied as a whole for each token.
    """

    config: DecoderConfig

    @nn.compact
    def __call__(self, carry, rope, position):
        """One step: ``x``, the caches and the number of the layer, of this one and of the next."""
        x, cache, layer = carry
        norm = lambda name: nn.RMSNorm(self.config.eps, dtype=self.config.dtype, name=name)  # noqa: E731
        mixed, cache = Attention(self.config, name="attention")(
            norm("attention_norm")(x), cache, layer, rope, position
        )
        x = x + mixed
        x = x + Mlp(self.config, name="mlp")(norm("mlp_norm")(x))
        return (x, cache, layer + 1), None


class Decoder(nn.Module):
    """The whole model; see :func:`forward` for the shapes."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, tokens, cache, position, at=None):
        """Logits and the extended cache."""
        c = self.config
        embed = nn.Embed(c.vocab, c.width, dtype=c.dtype, name="embed")
        rope = rope_angles(c, position + jnp.arange(tokens.shape[1]))
        axes: Any = (nn.broadcast, nn.broadcast)  # Flax declares int, and takes a tuple
        layers = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=axes,
            length=c.layers,
        )
        carry = embed(tokens), cache, jnp.int32(0)
        (x, cache, _), _ = layers(c, name="layers")(carry, rope, position)
        if at is not None:
            x = jax.lax.dynamic_slice_in_dim(x, at, 1, axis=1)
        return embed.attend(nn.RMSNorm(c.eps, dtype=c.dtype, name="norm")(x)), cache


@dataclass(frozen=True)
class Forward:
    """The model as a plain function of its parameters; equal configurations are equal functions."""

    config: DecoderConfig

    def __call__(self, params, tokens, cache, position, at=None):
        """Logits and the extended cache.

        ``tokens i32[B, T]`` stand at ``position .. position + T - 1``; the logits are ``f32[B, T,
        V]``, or ``f32[B, 1, V]`` of the one step ``at`` where that is given (a prompt needs no
        others).
        """
        return Decoder(self.config).apply({"params": params}, tokens, cache, position, at)


def init(config: DecoderConfig, seed: int = 0) -> Any:
    """Random parameters of a small model, for tests."""
    cache, tokens = empty_cache(config, 1, 2), jnp.zeros((1, 2), jnp.int32)
    return Decoder(config).init(jax.random.key(seed), tokens, cache, jnp.int32(0))["params"]
