"""Calls: jit in all its forms, calls of a jaxpr, metadata."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import qpass
from tests.rewriting.oracle import INT8, check, close, plain, quantized, random

W = {"a": random(8, 8, seed=1), "b": random(8, 8, seed=2)}
X = random(4, 8, seed=3)


def test_a_plain_product():
    check(lambda dot: lambda p, x: jnp.tanh(dot(x, p["a"])), W, X)


def test_jit_with_a_static_argument():
    def model(dot):
        @functools.partial(jax.jit, static_argnums=2, static_argnames="mode")
        def layer(x, w, power, mode="tanh"):
            y = dot(x, w)
            return (jnp.tanh(y) if mode == "tanh" else y) ** power

        return lambda p, x: layer(layer(x, p["a"], 1), p["b"], 2, mode="linear")

    check(model, W, X)


@pytest.mark.parametrize("inline", [True, False])
def test_jit_inlined_or_not(inline):
    def model(dot):
        layer = jax.jit(lambda x, w: jnp.tanh(dot(x, w)), inline=inline, keep_unused=True)
        return lambda p, x: layer(layer(x, p["a"]), p["b"])

    check(model, W, X)


def test_nested_jits_with_names_that_stay():
    @jax.jit
    def helper(x, w):
        return plain(x, w)

    q = qpass.transform(lambda p, x: jax.jit(lambda v: helper(v, p["a"]))(x), INT8)
    assert "name=helper" in str(jax.make_jaxpr(q)(W, X))


def test_a_donated_argument_of_an_inner_jit_is_deleted():
    inner = jax.jit(lambda x, w: jnp.tanh(plain(x, w)), donate_argnums=0)
    q = qpass.transform(lambda p, x: inner(x, p["a"]), INT8)
    x = jnp.array(random(8, 8))
    close(q(W, x), jnp.tanh(quantized(random(8, 8), W["a"])))
    assert x.is_deleted()


def test_a_donated_argument_of_an_outer_jit_is_deleted():
    step = qpass.jit(lambda p, x: plain(x, p["a"]), rules=INT8, donate_argnums=1)
    x = jnp.array(random(8, 8))
    step(W, x)
    assert x.is_deleted()


def test_shardings_of_an_inner_jit_are_kept():
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("d"))

    def model(dot):
        inner = jax.jit(
            lambda x, w: dot(x, w),
            in_shardings=(rows, NamedSharding(mesh, PartitionSpec(None, "d"))),
            out_shardings=rows,
        )
        return lambda p, x: inner(x, p["a"])

    q = check(model, W, X, grad=False, vmap=False)
    assert q(W, X).sharding.is_equivalent_to(rows, 2)
    assert jax.jit(q)(W, X).sharding.is_equivalent_to(rows, 2)


def test_calls_of_a_closed_jaxpr():
    def model(dot):
        def f(p, x):
            traced = jax.make_jaxpr(lambda x, w: jnp.tanh(dot(x, w)))(x, p["a"])
            call = jax.extend.core.jaxpr_as_fun(traced)
            (y,) = call(x, p["a"])
            (z,) = call(y, p["b"])
            return z

        return f

    check(model, W, X)


def test_calls_of_a_traced_function():
    def model(dot):
        traced = jax.jit(lambda x, w: jnp.tanh(dot(x, w))).trace(X, W["a"])
        return lambda p, x: jax.core.eval_jaxpr(traced.jaxpr, traced.jaxpr.consts, x, p["a"])[0]

    check(model, W, X)


def test_an_inner_function_with_array_constants():
    table = np.arange(32, dtype=np.float32).reshape(4, 8) / 32

    def model(dot):
        return lambda p, x: jax.jit(lambda v: dot(v + table, p["a"]))(x)

    check(model, W, X)


def test_results_that_are_arguments_or_literals():
    def model(dot):
        inner = jax.jit(lambda x, w: (x, dot(x, w), 3.0, w))
        return lambda p, x: inner(x, p["a"])

    check(model, W, X, stored=False)


def test_a_weight_that_passes_through_calls():
    def model(dot):
        pick = jax.jit(lambda p: (p["b"].T, p["a"]))

        def f(p, x):
            b, a = pick(p)
            return dot(dot(x, a), b.T)

        return f

    check(model, W, X)


def test_metadata_on_a_call_is_kept():
    from jax.experimental.xla_metadata import xla_metadata_call

    def model(dot):
        inner = xla_metadata_call(lambda x, w: jnp.tanh(dot(x, w)), marked="yes")
        return lambda p, x: inner(x, p["a"])

    q = check(model, W, X)
    assert 'marked = "yes"' in jax.jit(q).lower(W, X).as_text()
