"""Nested control flow: statements that hold blocks."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tests.fuzz import programs as ast
from tests.fuzz.products import contract
from tests.fuzz.shapes import fit


def scan(s: ast.Scan, env: Any) -> Any:
    stacked = [env.weight(k) for k in s.stacked]
    rows = [env.value(k) for k in s.rows]
    length = next((a.shape[0] for a in (*stacked, *rows)), s.length)
    stacked, rows = ([a for a in some if a.shape[0] == length] for some in (stacked, rows))
    start = (jnp.int32(0), env.value(s.carry), tuple(env.weight(k) for k in s.held))

    def step(carry, slices):
        index, value, held = carry
        weights, inputs = slices
        inner = env.adding([*inputs, value], [*held, *weights], index)
        result = inner.run(s.body)
        return (index + 1, env.squash(fit(result, value)), _changed(held, s.update)), result

    (_, last, held), results = lax.scan(
        step, start, (stacked, rows), length, reverse=s.reverse, unroll=s.unroll
    )
    return env.adding([results, last], held)


def _changed(held: tuple, update: bool) -> tuple:
    return tuple(w * 0.5 for w in held) if update else held


def loop(s: ast.Loop, env: Any) -> Any:
    if s.kind != "fori" and s.stop:
        outer = env.only(map(lax.stop_gradient, env.values), map(lax.stop_gradient, env.weights))
    else:
        outer = env
    start = (outer.value(s.carry), tuple(outer.weight(k) for k in s.held))

    def body(index, state):
        value, held = state
        result = outer.adding([value], held, index).run(s.body)
        return env.squash(fit(result, value)), _changed(held, s.update)

    value, held = _looped(s, outer, body, start)
    return env.adding([value], held)


def _looped(s: ast.Loop, env: Any, body: Any, start: Any) -> Any:
    if s.kind == "fori":
        return lax.fori_loop(0, s.trips, body, start)
    trips = jnp.where(start[0].reshape(-1)[0] > 5, 0, s.trips)
    if s.kind == "dynamic":
        return lax.fori_loop(0, trips, body, start)

    def more(state):
        index, (value, _) = state
        asked = contract(ast.Dot(), value, env.weight(0)).sum() < 1e3 if s.asks else True
        return (index < trips) & asked

    return lax.while_loop(more, lambda c: (c[0] + 1, body(*c)), (jnp.int32(0), start))[1]


def branch(s: ast.Branch, env: Any) -> Any:
    like = env.value(s.like)
    runs = [partial(_branch, block, env, like) for block in s.branches]
    # Beyond a third, which no sum of powers of two is: rounding does not change the way taken.
    score = jnp.sum(env.value(s.of).astype(jnp.float32))
    if len(runs) == 2:
        return env.adding([lax.cond(score > 1 / 3, *runs, like)])
    choice = (score > 1 / 3).astype(jnp.int32) + (score > -1 / 3).astype(jnp.int32)
    return env.adding([lax.switch(choice, runs, like)])


def _branch(block: ast.Block, env: Any, like: jax.Array, operand: jax.Array) -> jax.Array:
    return fit(env.adding([operand]).run(block), like)


def call(s: ast.Call, env: Any) -> Any:
    values, weights = [env.value(k) for k in s.values], [env.weight(k) for k in s.weights]

    def body(values, weights):
        return env.only(values, weights).run(s.body)

    f = CALLS[s.kind](body)
    results = [f(values, weights)]
    if s.again is not None:
        other = fit(env.weight(s.again), weights[-1])
        other = env.squash(other * 2) if s.computed else other
        results.append(f(values, [*weights[:-1], other]))
    return env.adding(results)


def _half(tree: Any) -> Any:
    return jax.tree.map(lambda a: a * 0.5, tree)


def _custom_jvp(body: Any) -> Any:
    f = jax.custom_jvp(body)

    @f.defjvp
    def _(primals, tangents):
        out, dot = jax.jvp(body, primals, tangents)
        return out, _half(dot)

    return f


def _custom_vjp(body: Any) -> Any:
    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def f(factor, values, weights):
        return body(values, weights) * factor

    def fwd(factor, values, weights):
        return f(factor, values, weights), (values, weights)

    def bwd(factor, saved, cotangent):
        _, pull = jax.vjp(body, *saved)
        return _half(pull(cotangent * factor))

    f.defvjp(fwd, bwd)
    return partial(f, 1.0)


CALLS = {
    "jit": jax.jit,
    "remat": jax.checkpoint,
    "saving": partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_saveable),
    "custom_jvp": _custom_jvp,
    "custom_vjp": _custom_vjp,
}


def vmap(s: ast.Vmap, env: Any) -> Any:
    x, w = env.value(s.x), env.weight(s.w)
    mapped = s.weight_too and w.shape[0] == x.shape[0]

    def body(row, weight):
        return replace(env.adding([row], [weight]), mapped=True).run(s.body)

    return env.adding([jax.vmap(body, (0, 0 if mapped else None))(x, w)])
