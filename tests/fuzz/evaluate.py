"""What a program of `tests.fuzz.programs` computes.

Values stay bounded: every product and every elementwise result goes through ``squash``.

`smooth`, a tanh, is for derivatives. `snap` moves each value to the nearest power of two between
2**-6 and 1, or to 0. Products and sums of a few such numbers are exact in float32 in any order, so
that nothing depends on how a compiler fuses them; fp8_e4m3 holds them exactly whatever scales they
get; and where rounding does differ (a transcendental function, a scale), the snap takes it away:
the borders between two powers of two, at their geometric mean, are met by no sum of powers of two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.fuzz import control, layout
from tests.fuzz import programs as ast
from tests.fuzz.products import contract, odd
from tests.fuzz.shapes import bounded, fit

Squash = Callable[[jax.Array], jax.Array]


def smooth(x: jax.Array) -> jax.Array:
    return jnp.tanh(x)


def snap(x: jax.Array) -> jax.Array:
    """The nearest power of two in [2**-6, 1], or 0; of float32 and bfloat16 alike."""
    y = lax.optimization_barrier(x).astype(jnp.float32)
    y = lax.reduce_precision(y * np.float32(1.5 / 2**0.5), exponent_bits=8, mantissa_bits=0)
    y = lax.select(lax.abs(y) < 2**-6, lax.full_like(y, 0), y)
    return lax.clamp(np.float32(-1), y, np.float32(1)).astype(x.dtype)


@dataclass(frozen=True)
class Env:
    """What statements read; ``index`` is the counter of the innermost loop.

    ``mapped`` says whether a `jax.vmap` is around, where JAX has no rule for every ragged product.
    """

    values: tuple[jax.Array, ...]
    weights: tuple[jax.Array, ...]
    squash: Squash
    index: Any = 0
    mapped: bool = False

    def value(self, back: int) -> jax.Array:
        return self.values[-1 - back % len(self.values)]

    def weight(self, back: int) -> jax.Array:
        return self.weights[-1 - back % len(self.weights)]

    def adding(self, values: Sequence = (), weights: Sequence = (), index: Any = None) -> "Env":
        """With new ones; never too large, never without axes."""
        return replace(
            self,
            values=(*self.values, *map(bounded, values)),
            weights=(*self.weights, *map(bounded, weights)),
            index=self.index if index is None else index,
        )

    def only(self, values: Sequence, weights: Sequence) -> "Env":
        """With these and no others."""
        return replace(self, values=tuple(values), weights=tuple(weights))

    def run(self, block: ast.Block) -> jax.Array:
        """The result of a block."""
        return execute(block, self).value(0)


def execute(block: ast.Block, env: Env) -> Env:
    """Evaluate every statement."""
    for statement in block.statements:
        env = STATEMENTS[type(statement)](statement, env)
    return env


def function(program: ast.Program, squash: Squash) -> Callable:
    """``f(params, x)``, with parameters as a dict; a tuple of arrays."""

    def f(params, x):
        weights = list(params.values())
        if program.constant:
            weights.insert(0, powers_of_two((4, 2), seed=99))
        env = execute(program.body, Env((x,), tuple(weights), squash))
        found = [env.value(k) for k in range(min(program.outputs, len(env.values)))]
        return (*found, *([env.weight(0)] if program.returned else []))

    return f


def arguments(program: ast.Program) -> tuple[dict[str, jax.Array], jax.Array]:
    """Parameters and an input that are powers of two."""
    shapes = zip(program.params, program.narrow, strict=True)
    params = {
        f"w{k}": powers_of_two(shape, seed=k).astype(jnp.bfloat16 if narrow else jnp.float32)
        for k, (shape, narrow) in enumerate(shapes)
    }
    return params, powers_of_two(program.x, seed=1000)


def powers_of_two(shape: Sequence[int], seed: int) -> jax.Array:
    """Repeatable signed powers of two from 2**-4 to 1; about one in ten is 0."""
    rng = np.random.RandomState(seed)
    size = rng.choice([1.0, 0.5, 0.25, 0.125, 0.0625], shape)
    sign = rng.choice([-1.0, 1.0, 1.0, -1.0, 0.0, 1.0, -1.0, -1.0, 1.0], shape)
    return jnp.asarray(size * sign, jnp.float32)


def _dot(s: ast.Dot, env: Env) -> Env:
    if s.style == "weights":
        return env.adding(weights=[contract(s, env.weight(s.w), env.weight(s.x))])
    x = env.value(s.x)
    w = env.value(s.w) if s.style == "values" else env.weight(s.w)
    for op, pick in s.views:
        w = bounded(layout.apply(op, w, pick, env.index))
    third = env.weight(s.w + 1) if s.style == "triple" else None
    return env.adding([env.squash(contract(s, x, w, third))])


def _layout(s: ast.Layout, env: Env) -> Env:
    if s.weight:
        return env.adding(weights=[layout.apply(s.op, env.weight(s.of), s.pick, env.index)])
    return env.adding([layout.apply(s.op, env.value(s.of), s.pick, env.index)])


def _compute(s: ast.Compute, env: Env) -> Env:
    w, other = env.weight(s.of), env.weight(s.other)
    ops = {
        "double": lambda: w * 2,
        "sum": lambda: w + fit(other, w),
        "square": lambda: w * w,
    }
    return env.adding(weights=[env.squash(ops[s.op]())])


def _elementwise(s: ast.Elementwise, env: Env) -> Env:
    x = env.value(s.of)
    ops = {
        "sin": lambda: jnp.sin(x),
        "gelu": lambda: jax.nn.gelu(x),
        "softmax": lambda: jax.nn.softmax(x),
        "add": lambda: x + fit(env.value(s.other), x),
        "multiply": lambda: x * fit(env.value(s.other), x),
        "bias": lambda: x + fit(env.weight(s.other), x),
        "where": lambda: jnp.where(fit(env.value(s.other), x) > 0.3, x, -x),
    }
    return env.adding([env.squash(ops[s.op]())])


def _reduce(s: ast.Reduce, env: Env) -> Env:
    x = env.value(s.of)
    axis = s.axis % x.ndim
    ops = {
        "sum": lambda: jnp.sum(x, axis),
        "mean": lambda: jnp.mean(x, axis, keepdims=True),
        "cumsum": lambda: lax.cumsum(x, axis, reverse=s.axis % 2 == 1),
        "logsumexp": lambda: jax.nn.logsumexp(x, axis),
    }
    return env.adding([env.squash(ops[s.op]())])


def _lookup(s: ast.Lookup, env: Env) -> Env:
    w = env.weight(s.w)
    rows = np.arange(s.pick % 3 + 1) * (s.pick // 3 + 1) % w.shape[0]
    return env.adding([jnp.take(w, jnp.asarray(rows), axis=0)])


def _odd(s: ast.Odd, env: Env) -> Env:
    op = "conv" if env.mapped and s.op == "ragged" else s.op
    return env.adding([env.squash(odd(op, env.value(s.x), env.weight(s.w)))])


STATEMENTS: dict[type, Callable[[Any, Env], Env]] = {
    ast.Dot: _dot,
    ast.Layout: _layout,
    ast.Compute: _compute,
    ast.Elementwise: _elementwise,
    ast.Reduce: _reduce,
    ast.Lookup: _lookup,
    ast.Odd: _odd,
    ast.Scan: control.scan,
    ast.Loop: control.loop,
    ast.Branch: control.branch,
    ast.Call: control.call,
    ast.Vmap: control.vmap,
}
