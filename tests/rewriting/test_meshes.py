"""Meshes: automatic sharding (collectives stay few and cheap), explicit sharding in types."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import qpass
from tests.rewriting.oracle import INT8, close, plain, quantized, random

P = PartitionSpec
W = {"up": random(8, 16, seed=1), "down": random(16, 8, seed=2)}
X = random(4, 8, seed=3)


def mlp(dot):
    return lambda p, x: dot(jnp.tanh(dot(x, p["up"])), p["down"])


def collectives(fn, *args):
    text = jax.jit(fn).lower(*args).compile().as_text()
    kinds = r"(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)"
    return sorted(re.findall(rf"= (\w+)\[.*? {kinds}(?:-start)?\(", text))


@pytest.fixture
def placed():
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)

    def put(a, *spec):
        return jax.device_put(a, NamedSharding(mesh, P(*spec)))

    params = {"up": put(W["up"], None, "y"), "down": put(W["down"], "y", None)}
    return mesh, params, put(X, "x", None)


def test_automatic_sharding_keeps_the_outputs_and_the_collectives(placed):
    mesh, params, x = placed
    q = qpass.transform(mlp(plain), INT8)
    wanted = NamedSharding(mesh, P("x"))
    assert jax.jit(q)(params, x).sharding.is_equivalent_to(wanted, 2)
    close(jax.jit(q)(params, x), mlp(quantized)(W, X))
    assert collectives(mlp(plain), params, x) == [("f32", "all-reduce")]
    stored = q.quantize(params, x)
    # Over devices: the sum, and the least and the greatest activation.
    assert collectives(q, stored, x) == [*[("f32", "all-reduce")] * 2, ("s32", "all-reduce")]


def test_stored_weights_are_sharded_like_the_float_ones(placed):
    _mesh, params, x = placed
    stored = qpass.transform(mlp(plain), INT8).quantize(params, x)
    for name in params:
        codes = stored[name].codes
        assert codes.sharding.shard_shape(codes.shape)[::-1] == params[name].sharding.shard_shape(
            params[name].shape
        )


def test_constraints_inside_are_kept(placed):
    mesh, params, x = placed

    def f(p, x):
        h = lax.with_sharding_constraint(plain(x, p["up"]), NamedSharding(mesh, P("x", "y")))
        return lax.with_sharding_constraint(plain(h, p["down"]), NamedSharding(mesh, P(None, "x")))

    out = jax.jit(qpass.transform(f, INT8))(params, x)
    assert out.sharding.is_equivalent_to(NamedSharding(mesh, P(None, "x")), 2)


def test_explicit_sharding():
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)

    def f(p, x):
        h = jnp.tanh(plain(x, p["up"]))
        return lax.dot_general(h, p["down"], (((1,), (0,)), ((), ())), out_sharding=P("x", None))

    with jax.set_mesh(mesh):
        params = {
            "up": jax.device_put(W["up"], P(None, "y")),
            "down": jax.device_put(W["down"], P("y", None)),
        }
        x = jax.device_put(X, P("x", None))
        q = qpass.transform(f, INT8)
        for given in (params, q.quantize(params, x)):
            for run in (q, jax.jit(q)):
                out = run(given, x)
                assert jax.typeof(out).sharding.spec == P("x", None)
                close(np.asarray(out), np.asarray(mlp(quantized)(W, X)))
        slope = jax.jit(jax.grad(lambda p: q(p, x).sum()))(params)
        wanted = jax.grad(lambda p: f(p, x).sum())(params)
        assert [jax.typeof(a) for a in jax.tree.leaves(slope)] == [
            jax.typeof(a) for a in jax.tree.leaves(wanted)
        ]


def test_explicit_sharding_in_a_scan():
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    layers = random(3, 8, 8, seed=4)

    def f(w, x):
        def step(c, w):
            dims = (((1,), (0,)), ((), ()))
            return jnp.tanh(lax.dot_general(c, w, dims, out_sharding=P("x", None))), None

        return lax.scan(step, x, w)[0]

    wanted = X
    for w in layers:
        wanted = jnp.tanh(quantized(wanted, w))
    with jax.set_mesh(mesh):
        w, x = jax.device_put(layers, P(None, None, "y")), jax.device_put(X, P("x", None))
        q = qpass.transform(f, INT8)
        close(np.asarray(jax.jit(q)(w, x)), np.asarray(wanted))
        close(np.asarray(jax.jit(q)(q.quantize(w, x), x)), np.asarray(wanted))
