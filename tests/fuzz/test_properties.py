"""What holds for every program. See `tests.fuzz.evaluate` for what `snap` and `smooth` do.

Exact, bit for bit, are: no rules at all; int8 by int8 under jit, eagerly, stored and mapped, of
programs that snap; and fp8 of programs that snap, which loses nothing, so that the transformed
program has to give the float program's very numbers. Within a tolerance (float32 roundings, or
those of bfloat16) are derivatives: those of fp8 weights that lose nothing are the float program's.
"""

import os

import jax
import jax.numpy as jnp
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import qpass
from tests.fuzz import programs as ast
from tests.fuzz.checks import (
    directions,
    inner,
    loss,
    near,
    same_bits,
    transformed,
    value_and_slopes,
)
from tests.fuzz.evaluate import arguments, function, smooth, snap
from tests.fuzz.identity import rebuilt
from tests.fuzz.strategies import programs
from tests.rewriting.oracle import compiled

pytestmark = pytest.mark.filterwarnings("ignore:.*rule 0")
many = settings(settings.get_profile(f"fuzz {os.environ.get('FUZZ_PROFILE', 'few')}"))

INT8 = qpass.Rule(path="**", weight="int8", act="int8")
INT8_EVERYWHERE = qpass.Rule(role="*", weight="int8", act="int8")
GRANULARITIES = st.sampled_from(["", "", "", " tensor", " g2", " g4"])
WITH_WEIGHT = ("forward", "weights", "constant")


def lossless(program: ast.Program, granularity: str) -> qpass.Rule:
    """Types that hold every operand of the program exactly."""
    fp8 = f"fp8_e4m3{granularity}"
    if ast.has(program, ast.Dot, style="triple"):  # reads products and sums that nothing snaps
        return qpass.Rule(role=WITH_WEIGHT, weight=fp8)
    return qpass.Rule(role="*", weight=fp8, act=fp8)


def together(one, other):
    """Both functions compiled as one: compiling takes nearly all the time."""
    return compiled(lambda *args: (one(*args), other(*args)))


def tolerance(program: ast.Program) -> float:
    return 0.1 if ast.is_narrow(program) else 1e-4


@many
@given(programs())
def test_no_rules_change_nothing(program):
    fn, args = function(program, smooth), arguments(program)
    q = transformed(fn)
    both = value_and_slopes if ast.has_backward(program) else lambda f: f
    same_bits(*together(both(q), both(fn))(*args))
    same_bits(q(*args), fn(*args))


@many
@given(programs())
def test_rebuilding_everything_changes_nothing(program):
    fn, args = function(program, smooth), arguments(program)
    q = rebuilt(transformed(fn).plan(*args), jax.eval_shape(fn, *args))
    both = value_and_slopes if ast.has_backward(program) else lambda f: f
    near(*together(both(q), both(fn))(*args), tolerance(program))


@many
@given(programs(), GRANULARITIES)
def test_lossless_types_change_nothing(program, granularity):
    fn, (params, x) = function(program, snap), arguments(program)
    q = transformed(fn, lossless(program, granularity))
    stored = q.quantize(params, x)
    wanted, got, served = compiled(lambda p, s, x: (fn(p, x), q(p, x), q(s, x)))(params, stored, x)
    same_bits(got, wanted)
    same_bits(served, wanted)


@many
@given(programs(), st.sampled_from([INT8, INT8_EVERYWHERE]))
def test_int8_is_the_same_in_every_way_to_run_it(program, rule):
    fn, (params, x) = function(program, snap), arguments(program)
    q = transformed(fn, rule)
    stored = q.quantize(params, x)
    wanted, served = jax.jit(lambda p, s, x: (q(p, x), q(s, x)))(params, stored, x)
    same_bits(served, wanted)
    same_bits(q(params, x), wanted)


@many
@given(programs(), st.booleans())
def test_int8_is_the_same_mapped(program, weights_too):
    assume(not ast.has(program, ast.Odd, op="ragged"))  # JAX cannot map every one of them
    fn, (params, x) = function(program, snap), arguments(program)
    xs = jnp.stack([x, -x[::-1]])
    stacks = jax.tree.map(lambda w: jnp.stack([w, -w[::-1]]), params) if weights_too else params
    q = transformed(fn, INT8)

    def both(stacks, xs):
        at = [jax.tree.map(lambda w, k=k: w[k], stacks) if weights_too else stacks for k in (0, 1)]
        one_by_one = [q(at[k], xs[k]) for k in (0, 1)]
        mapped = jax.vmap(q, (0 if weights_too else None, 0))(stacks, xs)
        return mapped, jax.tree.map(lambda *a: jnp.stack(a), *one_by_one)

    same_bits(*compiled(both)(stacks, xs))


@many
@given(programs(), GRANULARITIES)
def test_mapping_first_gives_the_same(program, granularity):
    assume(not ast.has(program, ast.Odd, op="ragged"))
    fn, (params, x) = function(program, snap), arguments(program)
    xs = jnp.stack([x, -x[::-1]])
    mapped = jax.vmap(fn, (None, 0))
    q = transformed(mapped, lossless(program, granularity))
    same_bits(*together(q, mapped)(params, xs))


@many
@given(programs(), GRANULARITIES)
def test_gradients_are_straight_through(program, granularity):
    assume(ast.has_backward(program))
    fn, (params, x) = function(program, smooth), arguments(program)
    rule = qpass.Rule(role=WITH_WEIGHT, weight=f"fp8_e4m3{granularity}")
    q, inside = transformed(fn, rule), transformed(jax.grad(loss(fn), (0, 1)), rule)

    def every(p, stored, x):
        served = value_and_slopes(q, (1,))(stored, x)
        return value_and_slopes(fn)(p, x), value_and_slopes(q)(p, x), served, inside(p, x)

    wanted, got, served, slopes = compiled(every)(params, q.quantize(params, x), x)
    near(got, wanted, tolerance(program))
    near(served, (wanted[0], wanted[1][1:]), tolerance(program))
    near(slopes, wanted[1], tolerance(program))


@many
@given(programs())
def test_tangents_and_cotangents_agree(program):
    assume(ast.has_backward(program) and not ast.has(program, ast.Call, kind="custom_vjp"))
    fn, args = function(program, smooth), arguments(program)
    q = transformed(fn, INT8)
    tangents = directions(args, seed=1)
    cotangents = directions(jax.eval_shape(fn, *args), seed=2)

    def both(args, tangents, cotangents):
        return jax.jvp(q, args, tangents)[1], jax.vjp(q, *args)[1](cotangents)

    pushed, pulled = compiled(both)(args, tangents, cotangents)
    size = inner(pulled, pulled) ** 0.5 * inner(tangents, tangents) ** 0.5
    difference = inner(cotangents, pushed) - inner(pulled, tangents)
    assert abs(difference) <= tolerance(program) * max(1.0, size)
