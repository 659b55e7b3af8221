"""What a call of a transformed function costs beside its arithmetic.

The function is so small that its arithmetic is next to nothing. With rules that keep everything
float, transforming must leave the compiled program as it was; with quantizing rules it may add
nothing but products, and leaves to the arguments: a weight is then codes and scales.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import qpass
from qpass_bench.running.measure import Timing, interleaved

KEEP = (qpass.Rule(path="**", keep=True),)
INT8 = (qpass.Rule(path="**", weight="int8", act="int8"),)
LAYERS, WIDTH = 4, 16
BASELINE = "jax.jit(f)"
EAGER = "f, outside of jit"
COMPILED_CALLS, EAGER_CALLS = 200, 2
OPCODE = re.compile(r"= .*?[})\]] ([a-z][\w-]*)\(")


def forward(params: list[jax.Array], x: jax.Array) -> jax.Array:
    """A product and two other equations a layer."""
    for weight in params:
        x = jnp.tanh(x @ weight) + 1.0
    return x


def arguments() -> tuple[list[jax.Array], jax.Array]:
    """Weights of the layers, and one row."""
    keys = jax.random.split(jax.random.key(0), LAYERS)
    return [jax.random.normal(key, (WIDTH, WIDTH)) for key in keys], jnp.ones((1, WIDTH))


def top_equations(fn: Callable[..., Any], *args: Any) -> int:
    """Equations of the traced function; a quantized product is one."""
    return len(jax.make_jaxpr(fn)(*args).eqns)


def instructions(fn: Callable[..., Any], *args: Any) -> Counter[str]:
    """How often each operation occurs in the compiled program."""
    return Counter(OPCODE.findall(jax.jit(fn).lower(*args).compile().as_text() or ""))


def programs() -> list[dict[str, Any]]:
    """The size of the float program and of its transformed selves, a row each."""
    params, x = arguments()
    quantized = qpass.transform(forward, INT8)
    shown = {
        "f": (forward, params),
        "transform(f), all kept float": (qpass.transform(forward, KEEP), params),
        "transform(f), int8": (quantized, quantized.quantize(params, x)),
    }
    return [_program(name, fn, weights, x) for name, (fn, weights) in shown.items()]


def _program(name: str, fn: Callable[..., Any], weights: Any, x: jax.Array) -> dict[str, Any]:
    return {
        "program": name,
        "equations": top_equations(fn, weights, x),
        "instructions": sum(instructions(fn, weights, x).values()),
        "leaves": len(jax.tree.leaves((weights, x))),
    }


def contestants() -> tuple[dict[str, Callable[[], Any]], dict[str, Callable[[], Any]]]:
    """Calls of compiled functions, and calls that run equation by equation."""
    params, x = arguments()
    kept, quantized = qpass.transform(forward, KEEP), qpass.transform(forward, INT8)
    stored = quantized.quantize(params, x)
    compiled = {
        BASELINE: partial(jax.jit(forward), params, x),
        "jax.jit(transform(f)), all kept float": partial(jax.jit(kept), params, x),
        "qpass.jit(f), all kept float": partial(qpass.jit(forward, rules=KEEP), params, x),
        "jax.jit(transform(f)), int8": partial(jax.jit(quantized), stored, x),
        "qpass.jit(f), int8": partial(qpass.jit(forward, rules=INT8), stored, x),
    }
    eager = {
        EAGER: partial(forward, params, x),
        "transform(f), all kept float": partial(kept, params, x),
        "transform(f), int8": partial(quantized, stored, x),
    }
    return compiled, eager


def times(rounds: int, tick: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
    """Microseconds of a call, a row for each contestant; ratios are to the first of its kind."""
    rows = []
    for calls, count in zip(contestants(), (COMPILED_CALLS, EAGER_CALLS), strict=True):
        timed = interleaved({n: partial(_many, call, count) for n, call in calls.items()}, rounds)
        rows.extend(_time(name, timing, count) for name, timing in timed.items())
        tick()
    return rows


def _many(call: Callable[[], Any], count: int) -> Any:
    for _ in range(count - 1):
        jax.block_until_ready(call())
    return call()


def _time(name: str, timing: Timing, count: int) -> dict[str, Any]:
    return {
        "call": name,
        "us": timing.median / count * 1e6,
        "us_range": [seconds / count * 1e6 for seconds in timing.spread],
        "of_float": 1 / timing.ratio,
        "rounds": len(timing.seconds),
    }
