"""Blocks and whole transformers for the benchmark, of the layers that the demo's models have.

Layers are stacked in front and run by a scan, as in the demo. Weights lie ``[in, out]``, or turned,
``[out, in]``: then each layer turns its own back, which the compiler makes a part of its products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qpass_bench.cases.catalogue import Sizes, Transformer
from qpass_bench.cases.schemes import Variant
from qpass_bench.cases.setup import Setup
from qpass_bench.models import decoder, fetch, minilm, smollm
from qpass_bench.models.generate import NEVER, make_generator

TWO_CONTRACTED = ("o", "out")
"""Weights ``[heads, head_dim, width]``, which contract their first two axes; others the first."""


def decoder_config(sizes: Sizes, dtype: Any = jnp.float32) -> decoder.DecoderConfig:
    """The sizes as the demo's decoder takes them."""
    c = sizes
    shape = c.layers, c.width, c.heads, c.kv_heads, c.head_dim, c.hidden
    return decoder.DecoderConfig(c.vocab, *shape, dtype=jnp.dtype(dtype))


def encoder_config(sizes: Sizes) -> minilm.EncoderConfig:
    """The sizes as the demo's encoder takes them."""
    c = sizes
    return minilm.EncoderConfig(layers=c.layers, width=c.width, heads=c.heads, hidden=c.hidden)


def turn(params: Any, back: bool = False) -> Any:
    """Put the contracted axes of every weight last, or first again."""

    def swap(path: tuple[Any, ...], leaf: Any) -> Any:
        names = [getattr(key, "key", key) for key in path]
        if names[-1] != "kernel":
            return leaf
        contracted = (leaf.ndim - 1) if names[-2] in TWO_CONTRACTED else 1
        first = leaf.ndim - contracted if back else contracted
        axes = range(leaf.ndim)
        return leaf.transpose(*axes[first:], *axes[:first])

    return jax.tree_util.tree_map_with_path(swap, params)


@dataclass(frozen=True)
class Decoder:
    """Layers with a cache, and a head where there is a vocabulary: the demo's model, spelled out.

    ``__call__(params, tokens, cache, position, at)`` is `decoder.Forward`'s; without a vocabulary
    ``tokens`` are vectors ``[B, T, D]``, and so is the result.
    """

    config: decoder.DecoderConfig
    turned: bool = False

    def __call__(self, params, tokens, cache, position, at=None):
        """Logits (or vectors) and the extended cache."""
        c = self.config
        x = params["embed"]["embedding"][tokens] if c.vocab else tokens
        rope = decoder.rope_angles(c, position + jnp.arange(x.shape[1]))

        def layer(carry, weights):
            weights = turn(weights, back=True) if self.turned else weights
            return decoder.Block(c).apply({"params": weights}, carry, rope, position)

        (x, cache, _), _ = jax.lax.scan(layer, (x, cache, jnp.int32(0)), params["layers"])
        if at is not None:
            x = jax.lax.dynamic_slice_in_dim(x, at, 1, axis=1)
        return self._head(params, x), cache

    def _head(self, params, x):
        if not self.config.vocab:
            return x
        square = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
        x = (x * jax.lax.rsqrt(square + self.config.eps)).astype(x.dtype)
        return (x * params["norm"]["scale"]) @ params["embed"]["embedding"].T


@dataclass(frozen=True)
class Encoder:
    """Layers over vectors ``[B, T, D]``, all tokens seen; without embeddings and head."""

    config: minilm.EncoderConfig
    turned: bool = False

    def __call__(self, params, x):
        """``[B, T, D]`` in and out."""
        mask = jnp.ones(x.shape[:2], jnp.int32)

        def layer(x, weights):
            weights = turn(weights, back=True) if self.turned else weights
            return minilm.Block(self.config).apply({"params": weights}, x, mask), None

        return jax.lax.scan(layer, x, params["layers"])[0]


def draw(case: Transformer, cache: Path | None = None) -> Any:
    """Real weights where the case is the demo's whole model, else random ones: numpy, float32.

    Raises:
        FetchError: the demo's model could not be had.
    """
    if case.sizes.vocab:
        model = smollm.load(fetch.fetch(fetch.SMOLLM2, cache))
        return smollm.permute(model.params, model.config)
    rng: Any = np.random.default_rng(0)
    return {"layers": jax.tree_util.tree_map_with_path(_Fill(rng), _layer_shapes(case.sizes))}


@dataclass(frozen=True)
class _Fill:
    """Normal values, as large as keeps a layer's results in bounds; gains of one."""

    rng: Any

    def __call__(self, path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        if path[-1].key == "scale":
            return np.ones(leaf.shape, np.float32)
        return self.rng.standard_normal(leaf.shape, np.float32) * np.float32(leaf.shape[-1] ** -0.5)


def _layer_shapes(sizes: Sizes) -> Any:
    """The tree of all layers, stacked, by shape."""

    def init(key: jax.Array) -> Any:
        if not sizes.decoder:
            mask = jnp.ones((1, 2), jnp.int32)
            return minilm.Block(encoder_config(sizes)).init(key, x, mask)["params"]
        c = decoder_config(sizes)
        carry = x, decoder.empty_cache(c, 1, 2), jnp.int32(0)
        rope = decoder.rope_angles(c, jnp.arange(2))
        return decoder.Block(c).init(key, carry, rope, jnp.int32(0))["params"]

    x = jnp.zeros((1, 2, sizes.width))
    return jax.eval_shape(jax.vmap(init), jax.random.split(jax.random.key(0), sizes.layers))


def setup(case: Transformer, variant: Variant, drawn: Any) -> Setup:
    """The layers of a case with the dtype and the layout of a variant."""
    params = {**drawn, "layers": jax.vmap(turn)(drawn["layers"])} if variant.turned else drawn
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, variant.dtype), params)
    if case.kind == "encode":
        x = _vectors(case, variant.dtype)
        return Setup(Encoder(encoder_config(case.sizes), variant.turned), params, (x,))
    forward = Decoder(decoder_config(case.sizes, variant.dtype), variant.turned)
    return _generating(case, forward, params) if case.sizes.vocab else _once(case, forward, params)


def _once(case: Transformer, forward: Decoder, params: Any) -> Setup:
    """One call on vectors behind a context."""
    cache = decoder.empty_cache(forward.config, case.batch, case.context + case.length)
    x = _vectors(case, forward.config.dtype)
    return Setup(forward, params, (x, cache, jnp.int32(case.context)))


def _generating(case: Transformer, forward: Decoder, params: Any) -> Setup:
    """The loop that decodes, or the call that reads a prompt."""
    config = forward.config
    tokens = jnp.ones((case.batch, case.length), jnp.int32)
    example = tokens, decoder.empty_cache(config, case.batch, case.length), jnp.int32(0)
    if case.kind == "prefill":
        args = tokens, jnp.int32(case.length - 1)
        return Setup(forward, params, example, args, _Prefill(config, case.length))
    cache = decoder.empty_cache(config, case.batch, case.context + case.steps)
    args = tokens[:, 0], cache, jnp.int32(case.context), jnp.int32(case.steps), jnp.int32(NEVER)
    return Setup(forward, params, example, args, lambda f: make_generator(f, config).decode)


@dataclass(frozen=True)
class _Prefill:
    """From a function to the call that reads a prompt of ``length`` tokens."""

    config: decoder.DecoderConfig
    length: int

    def __call__(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        generator = make_generator(forward, self.config)
        return lambda *args: generator.prefill(*args, length=self.length)


def _vectors(case: Transformer, dtype: Any) -> jax.Array:
    rng: Any = np.random.default_rng(1)
    shape = case.batch, case.length, case.sizes.width
    return jnp.asarray(rng.standard_normal(shape, np.float32), dtype)
