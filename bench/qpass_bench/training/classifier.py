"""A small vision transformer in Flax, as anybody would write it: nothing here knows of qpass."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Block(nn.Module):
    """Attention, then two dense layers."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``f32[B, T, W] -> f32[B, T, W]``."""
        width = x.shape[-1]
        x = x + nn.MultiHeadDotProductAttention(self.heads, name="attention")(nn.LayerNorm()(x))
        hidden = nn.gelu(nn.Dense(2 * width, name="up")(nn.LayerNorm()(x)))
        return x + nn.Dense(width, name="down")(hidden)


class ViT(nn.Module):
    """Patches of 7 × 7, blocks, and the mean of all positions."""

    width: int = 64
    blocks: int = 2
    heads: int = 4
    patch: int = 7
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """``f32[B, 28, 28] -> f32[B, 10]``."""
        count, side = len(images), images.shape[1] // self.patch
        cut = images.reshape(count, side, self.patch, side, self.patch).swapaxes(2, 3)
        x = nn.Dense(self.width, name="patches")(cut.reshape(count, side**2, self.patch**2))
        x = x + self.param("positions", nn.initializers.normal(0.02), x.shape[1:])
        x = _through(self, x)
        return nn.Dense(10, name="head")(nn.LayerNorm()(x).mean(1))


class Blocks(nn.Module):
    """Blocks and nothing else."""

    blocks: int = 2
    heads: int = 8
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``f32[B, T, W] -> f32[B, T, W]``."""
        return _through(self, x)


def _through(model: ViT | Blocks, x: jax.Array) -> jax.Array:
    """Apply the blocks of a model, one after the other; called in its own `__call__`."""
    block = nn.remat(Block) if model.remat else Block
    for number in range(model.blocks):
        x = block(model.heads, name=f"block{number}")(x)
    return x


def init(model: nn.Module, key: jax.Array) -> Any:
    """Random parameters, float32."""
    return model.init(key, jnp.zeros((1, 28, 28)))


def loss(model: nn.Module, params: Any, images: jax.Array, classes: jax.Array) -> jax.Array:
    """Mean over the images: nats that the class of each comes as a surprise."""
    scores: Any = model.apply(params, images)
    likely = jax.nn.log_softmax(scores)
    return -jnp.mean(jnp.take_along_axis(likely, classes[:, None], -1))
