"""Greedy text with a KV cache: the prompt in one call, then all tokens in one compiled loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qpass_bench.models.decoder import Cache, DecoderConfig, empty_cache

NEVER = -1
"""A stop token that no model says."""


@dataclass(frozen=True)
class Generator:
    """A forward function compiled for generation.

    The parameters are arguments of the compiled functions, so one generator serves float and
    quantized trees.
    """

    config: DecoderConfig
    prefill: Callable[..., tuple[jax.Array, Cache]]
    decode: Callable[..., tuple[jax.Array, jax.Array, Cache]]


def make_generator(forward: Callable, config: DecoderConfig) -> Generator:
    """Compile ``forward(params, tokens, cache, position, at)`` for prompts and for loops."""
    return Generator(
        config,
        jax.jit(partial(_prefill, forward, config), static_argnames="length"),
        jax.jit(partial(_decode, forward)),
    )


def _prefill(
    forward: Callable,
    config: DecoderConfig,
    params: Any,
    tokens: jax.Array,
    last: jax.Array,
    length: int,
) -> tuple[jax.Array, Cache]:
    """The likeliest token ``i32[B]`` after ``tokens[:, last]``, and a cache ``length`` long.

    ``tokens i32[B, T]`` may be padded behind ``last``: later tokens overwrite what padding wrote.
    """
    cache = empty_cache(config, tokens.shape[0], length)
    logits, cache = forward(params, tokens, cache, jnp.int32(0), last)
    return _best(logits), cache


def _decode(
    forward: Callable,
    params: Any,
    token: jax.Array,
    cache: Cache,
    position: jax.Array,
    steps: jax.Array,
    stop: jax.Array,
) -> tuple[jax.Array, jax.Array, Cache]:
    """Up to ``steps`` more tokens after ``token i32[B]``, which stands at ``position``.

    Returns:
        ``i32[B, S]`` for a cache of S positions (``NEVER`` behind the last step), how many steps
        ran, and the cache. A row that has said ``stop`` repeats it; the loop ends when every row
        has.
    """
    start = jnp.full((token.shape[0], cache["v"].shape[3]), NEVER, jnp.int32)

    def going(state):
        step, token, *_ = state
        return (step < steps) & jnp.any(token != stop)

    def advance(state):
        step, token, cache, said = state
        logits, cache = forward(params, token[:, None], cache, position + step, jnp.int32(0))
        token = jnp.where(token == stop, stop, _best(logits))
        return step + 1, token, cache, said.at[:, step].set(token)

    step, _, cache, said = jax.lax.while_loop(going, advance, (jnp.int32(0), token, cache, start))
    return said, step, cache


def _best(logits: jax.Array) -> jax.Array:
    """The first of the likeliest tokens. XLA CPU runs `jnp.argmax` without vectors: 8x as long."""
    last = logits[:, -1]
    tokens = jnp.arange(last.shape[1], dtype=jnp.int32)
    likeliest = last == jnp.max(last, axis=1, keepdims=True)
    return jnp.min(jnp.where(likeliest, tokens, last.shape[1] - 1), axis=1)


def complete(
    generator: Generator, params: Any, prompt: list[int], steps: int, stop: int, padded: int
) -> list[int]:
    """The prompt's ids and up to ``steps`` more, greedily; ``padded`` is the length of the prefill.

    Raises:
        ValueError: the prompt is empty or longer than ``padded``.
    """
    if not 0 < len(prompt) <= padded:
        raise ValueError(f"Give a prompt of 1 to {padded} tokens; this one has {len(prompt)}.")
    tokens = np.zeros((1, padded), np.int32)
    tokens[0, : len(prompt)] = prompt
    length = padded + steps
    first, cache = generator.prefill(params, tokens, np.int32(len(prompt) - 1), length=length)
    said, _, _ = generator.decode(
        params, first, cache, np.int32(len(prompt)), np.int32(steps - 1), np.int32(stop)
    )
    ids = [int(first[0]), *(int(token) for token in said[0])]
    ends = [i for i, token in enumerate(ids) if token in (stop, NEVER)]
    return prompt + ids[: ends[0]] if ends else prompt + ids
