"""A decoder in the shape of Llama 3 8B with random weights: tokens a second, and a prompt.

Layers are written out one after another, so that every weight is an array of its own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import qpass
from qpass_bench.cases.catalogue import LLAMA_8B, Sizes
from qpass_bench.models.decoder import attend, rope_angles, rotate
from qpass_kernels import Kernel
from qpass_kernels.tuning.timing import Method, in_turns


@dataclass(frozen=True)
class Shape(Sizes):
    """Sizes of a decoder, and its rotary base, which is Llama 3's."""

    rope_base: float = 500_000.0

    def weights(self) -> dict[str, tuple[int, int]]:
        """Shapes of a layer's weights, `[in, out]`."""
        kv = self.kv_heads * self.head_dim
        mixed = self.heads * self.head_dim
        return {
            "q": (self.width, mixed),
            "k": (self.width, kv),
            "v": (self.width, kv),
            "o": (mixed, self.width),
            "gate": (self.width, self.hidden),
            "up": (self.width, self.hidden),
            "down": (self.hidden, self.width),
        }


LLAMA = Shape(**asdict(LLAMA_8B))


def draw(shape: Shape, seed: int = 0) -> dict[str, Any]:
    """Random bfloat16 parameters, made on the device."""

    def normal(key: Any, sizes: tuple[int, int]) -> Any:
        return jax.random.normal(key, sizes, jnp.bfloat16) * sizes[0] ** -0.5

    make = jax.jit(normal, static_argnums=1)
    keys = iter(jax.random.split(jax.random.key(seed), 7 * shape.layers + 2))
    layers = [
        {name: make(next(keys), size) for name, size in shape.weights().items()}
        for _ in range(shape.layers)
    ]
    embedding = make(next(keys), (shape.vocab, shape.width))
    return {
        "layers": layers,
        "embed": embedding,
        "head": make(next(keys), (shape.width, shape.vocab)),
    }


def empty_cache(shape: Shape, length: int) -> list[dict[str, Any]]:
    """Keys `[1, KV, H, length]` and values `[1, KV, length, H]` of every layer."""
    sizes = (1, shape.kv_heads, length, shape.head_dim)
    values = jnp.zeros(sizes, jnp.bfloat16)
    return [{"k": values.swapaxes(2, 3), "v": values} for _ in range(shape.layers)]


@dataclass(frozen=True)
class Decoder:
    """The model as a function: `(params, tokens [1, T], cache, position) -> (logits, cache)`.

    Logits are those of the last token, `[1, V]`.
    """

    shape: Shape

    def __call__(self, params: Any, tokens: Any, cache: Any, position: Any) -> tuple[Any, Any]:
        """Run all layers over the tokens."""
        x = params["embed"][tokens]
        sizes: Any = self.shape  # has what is asked of the configuration of another decoder
        rope = rope_angles(sizes, position + jnp.arange(tokens.shape[1]))
        kept = []
        for weights, layer in zip(params["layers"], cache, strict=True):
            x, layer = self._layer(weights, x, layer, rope, position)
            kept.append(layer)
        return _norm(x[:, -1]) @ params["head"], kept

    def _layer(self, w: Any, x: Any, cache: Any, rope: Any, position: Any) -> tuple[Any, Any]:
        s, h = self.shape, _norm(x)
        split = lambda y, heads: y.reshape(*y.shape[:2], heads, s.head_dim)  # noqa: E731
        turned = lambda y: rotate(y, rope).astype(y.dtype)  # noqa: E731
        q, k = turned(split(h @ w["q"], s.heads)), turned(split(h @ w["k"], s.kv_heads))
        v = split(h @ w["v"], s.kv_heads)
        write = lax.dynamic_update_slice
        cache = {
            "k": write(cache["k"], k.transpose(0, 2, 3, 1), (0, 0, 0, position)),
            "v": write(cache["v"], v.swapaxes(1, 2), (0, 0, position, 0)),
        }
        mixed = attend(q, cache["k"], cache["v"], position)
        x = x + mixed.reshape(*x.shape[:2], -1) @ w["o"]
        h = _norm(x)
        return x + (jax.nn.silu(h @ w["gate"]) * (h @ w["up"])) @ w["down"], cache


def _norm(x: Any) -> Any:
    square = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    return (x * lax.rsqrt(square + 1e-5)).astype(x.dtype)


DECODE = (qpass.Rule(path="**", weight="int4 g128"),)
PREFILL = (qpass.Rule(path="**", weight="fp8_e4m3", act="fp8_e4m3"),)


def time_decoding(
    shape: Shape, kernels: tuple[Kernel, ...], method: Method, context: int = 512, steps: int = 16
) -> dict[str, Any]:
    """Tokens a second of a batch of one, the weights bfloat16 and int4 in groups of 128."""
    params = draw(shape)
    cache, first = empty_cache(shape, context + steps), jnp.ones((1, 1), jnp.int32)

    def generate(forward: Any, params: Any) -> Any:
        def step(i: Any, state: Any) -> Any:
            logits, cache = forward(params, state[0], state[1], context + i)
            return jnp.argmax(logits, -1)[:, None].astype(jnp.int32), cache

        return lax.fori_loop(0, steps, step, (first, cache))[0]

    seconds = _both(Decoder(shape), DECODE, params, (first, cache, 0), generate, kernels, method)
    rates = {name: steps / each for name, each in seconds.items()}
    return {
        "name": "decode, batch 1, W4A16 g128",
        "tokens_per_second": rates,
        "speedup": seconds["bfloat16"] / seconds["quantized"],
        "target": 2.8,
    }


def time_prefill(
    shape: Shape, kernels: tuple[Kernel, ...], method: Method, length: int = 4096
) -> dict[str, Any]:
    """Seconds to read a prompt, the products bfloat16 and fp8."""
    params = draw(shape)
    tokens = jax.random.randint(jax.random.key(2), (1, length), 0, shape.vocab)
    cache = empty_cache(shape, length)

    def read(forward: Any, params: Any) -> Any:
        return forward(params, tokens, cache, 0)[0]

    seconds = _both(Decoder(shape), PREFILL, params, (tokens, cache, 0), read, kernels, method)
    return {
        "name": f"prefill, {length} tokens, fp8",
        "seconds": seconds,
        "speedup": seconds["bfloat16"] / seconds["quantized"],
        "target": 1.5,
    }


def _both(
    model: Decoder, rules: Any, params: Any, args: tuple, use: Any, kernels: Any, method: Method
) -> dict[str, float]:
    """Seconds of `use` with the model as it is, and quantized."""
    q = qpass.transform(model, rules, kernels=kernels, params=0)
    stored = q.quantize(params, *args)
    programs = {
        name: _compiled(lambda p, forward=forward: use(forward, p), p)
        for name, forward, p in (("bfloat16", model, params), ("quantized", q, stored))
    }
    return in_turns(programs, method)


def _compiled(fn: Any, params: Any) -> Any:
    program = jax.jit(fn).lower(params).compile()
    return lambda: program(params)
