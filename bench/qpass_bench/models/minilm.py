"""all-MiniLM-L6-v2: a BERT sentence encoder in plain Flax Linen, with its loader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

LONGEST = 32
"""Tokens of a text that are read."""


@dataclass(frozen=True)
class EncoderConfig:
    """The sizes of a BERT encoder; the defaults are MiniLM-L6's."""

    vocab: int = 30522
    positions: int = 512
    layers: int = 6
    width: int = 384
    heads: int = 12
    hidden: int = 1536
    eps: float = 1e-12


class Block(nn.Module):
    """One post-norm BERT layer over ``x [B, T, D]``; ``mask [B, T]`` is 1 where a token is."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x, mask):
        """``[B, T, D]`` in and out."""
        c = self.config
        norm = lambda name: nn.LayerNorm(c.eps, use_fast_variance=False, name=name)  # noqa: E731
        mixed = self.attention(x, mask)
        x = norm("attention_norm")(x + mixed)
        hidden = jax.nn.gelu(nn.Dense(c.hidden, name="up")(x), approximate=False)
        return norm("mlp_norm")(x + nn.Dense(c.width, name="down")(hidden))

    def attention(self, x, mask):
        """Every token looks at every token that is there."""
        c = self.config
        dim = c.width // c.heads
        split = lambda name: nn.DenseGeneral((c.heads, dim), name=name)(x)  # noqa: E731
        scores = jnp.einsum("bthd,bshd->bhts", split("query"), split("key")) * dim**-0.5
        scores = jnp.where(mask[:, None, None] > 0, scores, -1e30)
        mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores, axis=-1), split("value"))
        return nn.DenseGeneral(c.width, axis=(-2, -1), name="out")(mixed)


class Encoder(nn.Module):
    """Token ids to one vector of unit length: mean over the tokens of the last layer."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, ids, mask):
        """``ids, mask [B, T]`` to ``f32[B, D]``."""
        c = self.config
        embed = lambda n, name: nn.Embed(n, c.width, name=name)  # noqa: E731
        x = embed(c.vocab, "words")(ids) + embed(c.positions, "positions")(jnp.arange(ids.shape[1]))
        x = x + embed(2, "segments")(jnp.zeros_like(ids))
        x = nn.LayerNorm(c.eps, use_fast_variance=False, name="norm")(x)
        for i in range(c.layers):
            x = Block(c, name=f"layer_{i}")(x, mask)
        weight = mask[..., None].astype(x.dtype)
        mean = jnp.sum(x * weight, axis=1) / jnp.sum(weight, axis=1)
        return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Encode:
    """The encoder as a plain function: ``(params, ids i32[B, T], mask i32[B, T]) -> f32[B, D]``."""

    config: EncoderConfig

    def __call__(self, params, ids, mask):
        """Embed the texts; rows have unit length."""
        return Encoder(self.config).apply({"params": params}, ids, mask)


@dataclass(frozen=True)
class MiniLM:
    """A loaded encoder."""

    config: EncoderConfig
    params: dict
    tokenizer: Tokenizer


def load(weights: Path) -> MiniLM:
    """Read ``model.safetensors`` and the ``tokenizer.json`` beside it."""
    config = EncoderConfig()
    tokenizer = Tokenizer.from_file(str(weights.with_name("tokenizer.json")))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding()
    return MiniLM(config, to_tree(load_file(weights), config), tokenizer)


def to_tree(weights: dict[str, np.ndarray], config: EncoderConfig) -> dict:
    """The Flax tree of a BERT checkpoint: ``[out, in]`` becomes ``[in, out]``, heads split."""
    c, heads = config, (config.heads, config.width // config.heads)

    def norm(name: str) -> dict:
        return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}

    def dense(
        name: str, shape: tuple[int, ...] | None = None, bias: tuple[int, ...] = (-1,)
    ) -> dict:
        kernel = weights[f"{name}.weight"].T
        kernel = kernel if shape is None else kernel.reshape(shape)
        return {"kernel": kernel, "bias": weights[f"{name}.bias"].reshape(bias)}

    def layer(prefix: str) -> dict:
        split = lambda n: dense(f"{prefix}.attention.self.{n}", (c.width, *heads), heads)  # noqa: E731
        return {
            **{name: split(name) for name in ("query", "key", "value")},
            "out": dense(f"{prefix}.attention.output.dense", (*heads, c.width)),
            "attention_norm": norm(f"{prefix}.attention.output.LayerNorm"),
            "up": dense(f"{prefix}.intermediate.dense"),
            "down": dense(f"{prefix}.output.dense"),
            "mlp_norm": norm(f"{prefix}.output.LayerNorm"),
        }

    embed = lambda n: {"embedding": weights[f"embeddings.{n}_embeddings.weight"]}  # noqa: E731
    names = {"words": "word", "positions": "position", "segments": "token_type"}
    return {
        **{ours: embed(theirs) for ours, theirs in names.items()},
        "norm": norm("embeddings.LayerNorm"),
        **{f"layer_{i}": layer(f"encoder.layer.{i}") for i in range(c.layers)},
    }


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], multiple: int = 8) -> np.ndarray:
    """Ids and mask of texts padded to the longest, rounded up to ``multiple``: ``i32[2, n, T]``."""
    tokenizer.enable_padding(pad_to_multiple_of=multiple)
    rows = tokenizer.encode_batch(list(texts))
    return np.asarray([[r.ids for r in rows], [r.attention_mask for r in rows]], np.int32)


def embed(
    encode: Callable[..., jax.Array],
    params: Any,
    tokens: np.ndarray,
    batch: int = 50,
    tick: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Vectors ``f32[n, D]`` of ``tokens i32[2, n, T]``, ``batch`` rows at a time."""
    parts = []
    for start in range(0, tokens.shape[1], batch):
        ids, mask = tokens[:, start : start + batch]
        parts.append(np.asarray(encode(params, ids, mask)))
        tick()
    return np.concatenate(parts)
