"""Feeds: what sites are handed from outside reaches each site, iteration and call by itself."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

import qpass
from qpass.graph._jax import bind
from qpass.graph.feeds import iterations, nest
from qpass.graph.rebuild import REBUILD
from qpass.graph.rewrite import Frame, Rewriter
from tests.fuzz.identity import Itself
from tests.rewriting.oracle import close, random

P = PartitionSpec
W = {"a": random(8, 8, seed=1), "b": random(8, 8, seed=2), "layers": random(2, 3, 8, 8, seed=4)}
X = random(4, 8, seed=3)


def dot(x, w, added):
    """The product; ``added`` is what a site is fed, and None in the program itself."""
    out = x @ w
    return out if added is None else out + added


class Adding(Itself):
    """Every site adds what it is fed; a fed key is turned into a number."""

    def contraction(self, decision: Any, eqn: Any, operands: Any, fed: Any = None) -> Any:
        (out,) = bind(eqn, operands)
        if jnp.issubdtype(fed.dtype, jax.dtypes.prng_key):
            fed = jax.random.normal(fed, ())
        return out + fed


def fed(fn, values, *args):
    """``fn`` rewritten so that its sites add ``values``, one for each in program order."""
    plan = qpass.transform(fn, []).plan(*args)
    jaxpr = plan.program.jaxpr
    keys = [d.site.key for d in plan.decisions]

    def run(values, *args):
        feeds = nest(dict(zip(keys, values, strict=True)))
        decisions = dict.fromkeys(keys, "add")
        rewriter = Rewriter(decisions, plan.dataflow.derivatives, Adding(), REBUILD)
        (out,), _ = rewriter.run(jaxpr, jax.tree.leaves(args), Frame(feeds=feeds))
        return out

    shapes = [iterations(jaxpr, plan.dataflow.derivatives, path) for path, _ in keys]
    assert shapes == [np.shape(value) for value in values]
    return run


def check(model, *values, grad=True):
    """The rewritten program and its gradients are those of a program written with the values."""
    nothing = jax.tree.map(lambda _: None, list(values))
    values = [jnp.asarray(value, jnp.float32) for value in values]
    run = fed(lambda p, x: model(p, x, *nothing), values, W, X)
    close(jax.jit(run)(values, W, X), model(W, X, *values))
    close(run(values, W, X), model(W, X, *values))
    if grad:
        got = jax.jit(jax.grad(lambda p, x: jnp.sum(run(values, p, x) ** 2)))(W, X)
        close(got, jax.grad(lambda p, x: jnp.sum(model(p, x, *values) ** 2))(W, X))


def layer(h, w, added=None):
    return jnp.tanh(dot(h, w, added))


def stack(h, w, added=None):
    if added is None:
        return lax.scan(lambda h, w: (layer(h, w), None), h, w)[0]
    return lax.scan(lambda h, wa: (layer(h, *wa), None), h, (w, added))[0]


def test_sites_of_a_plain_function():
    def model(p, x, one, two):
        return dot(jnp.tanh(dot(x, p["a"], one)), p["b"], two)

    check(model, 1.0, 2.0)


def test_each_iteration_of_nested_scans_gets_its_own():
    def model(p, x, added):
        if added is None:
            return lax.scan(lambda h, w: (stack(h, w), None), x, p["layers"])[0]
        return lax.scan(lambda h, wa: (stack(h, *wa), None), x, (p["layers"], added))[0]

    check(model, np.arange(6.0).reshape(2, 3))


def test_call_sites_of_one_jitted_body_get_each_their_own():
    body = jax.jit(layer)

    def model(p, x, one, two):
        return body(body(x, p["a"], one), p["b"], two)

    check(model, 0.5, -0.25)


def test_a_shared_body_is_traced_once_all_the_same():
    inner = jax.jit(layer)
    plan = qpass.transform(lambda p, x: inner(inner(x, p["a"]), p["b"]), []).plan(W, X)
    keys = [d.site.key for d in plan.decisions]
    traced = []

    class Counting(Adding):
        def contraction(self, *args: Any) -> Any:
            traced.append(args)
            return super().contraction(*args)

    def run(values, *arrays):
        rewriter = Rewriter(dict.fromkeys(keys, "add"), {}, Counting(), REBUILD)
        feeds = nest(dict(zip(keys, values, strict=True)))
        return rewriter.run(plan.program.jaxpr, arrays, Frame(feeds=feeds))[0]

    jax.make_jaxpr(run)((1.0, 2.0), *jax.tree.leaves((W, X)))
    assert len(traced) == 1


@pytest.mark.parametrize("policy", [None, jax.checkpoint_policies.dots_saveable])
def test_rematerialized(policy):
    def model(p, x, one, two):
        again = jax.checkpoint(layer, policy=policy)
        return again(again(x, p["a"], one), p["b"], two)

    check(model, 0.5, -0.25)


def test_differentiated_before_it_is_rewritten():
    def loss(p, x):
        return jnp.sum(jax.checkpoint(layer)(x, p["a"]))

    run = fed(jax.grad(lambda x, p: loss(p, x)), [0.25, 0.25, 0.0], X, W)
    wanted = jax.grad(lambda x: jnp.sum(layer(x, W["a"], 0.25)))(X)
    close(jax.jit(run)([0.25, 0.25, 0.0], X, W), wanted)


def test_a_while_loop_gives_the_same_to_all_iterations():
    def model(p, x, added):
        def more(state):
            return state[0] < 3

        def step(state):
            return state[0] + 1, layer(state[1], p["a"], added)

        return lax.while_loop(more, step, (0, x))[1]

    check(model, 0.5, grad=False)


@pytest.mark.parametrize("taken", [True, False])
def test_branches(taken):
    def model(p, x, one, two):
        def other(h, w, v):
            return layer(h, v, two)

        first = partial_last(layer, one)
        return lax.cond(x[0, 0] > (-9 if taken else 9), first, other, x, p["a"], p["b"])

    # Branches are numbered from the false one.
    def in_program_order(p, x, two, one):
        return model(p, x, one, two)

    check(in_program_order, 0.5, -0.25)


def partial_last(fn, added):
    return lambda h, w, v: fn(h, w, added)


def test_branches_by_platform():
    def model(p, x, one, two):
        def cpu(x):
            return layer(x, p["a"], one)

        def default(x):
            return layer(x, p["b"], two)

        return lax.platform_dependent(x, cpu=cpu, default=default)

    check(model, 0.5, -0.25, grad=False)


def test_custom_vjp_in_a_scan():
    @jax.custom_vjp
    def call(h, w, added):
        return layer(h, w, added)

    def fwd(h, w, added):
        out = layer(h, w, added)
        return out, (out, w)

    def bwd(saved, g):
        out, w = saved
        return (g * (1 - out**2)) @ w.T, jnp.zeros_like(w), None

    call.defvjp(fwd, bwd)

    def model(p, x, primal, fwd, bwd):
        def body(h, wa):
            return call(h, *wa), None

        w = p["layers"][0]
        return lax.scan(body, x, (w, primal) if primal is not None else (w, None))[0]

    # The sites are those of the primal, its copy in the forward rule, and the backward product.
    added = np.arange(3.0) / 4
    check(model, added, added, np.zeros(3))


def test_custom_jvp():
    @jax.custom_jvp
    def call(h, w, added):
        return layer(h, w, added)

    @call.defjvp
    def _(primals, tangents):
        h, w, added = primals
        out = layer(h, w, added)
        return out, 2.0 * (1 - out**2) * tangents[0]

    def model(p, x, one, two):
        return call(x, p["a"], one)

    check(model, 0.5, 0.5)


@pytest.mark.parametrize("check_vma", [True, False])
def test_every_device_gets_the_same(check_vma):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))

    def model(p, x, added):
        def body(x, w, *rest):
            return stack(x, w, *rest) + lax.psum(x.sum(), "d")

        more = () if added is None else (added,)
        specs = (P("d"), P(), *[P()] * len(more))
        mapped = jax.shard_map(
            body, mesh=mesh, in_specs=specs, out_specs=P("d"), check_vma=check_vma
        )
        return mapped(x, p["layers"][0], *more)

    check(model, np.arange(3.0) / 4)


def test_keys_are_fed_like_numbers():
    keys = jax.random.split(jax.random.key(0), 3)

    @jax.custom_vjp
    def call(h, w):
        return layer(h, w)

    call.defvjp(lambda h, w: (layer(h, w), w), lambda w, g: (g @ w.T, jnp.zeros_like(w)))

    def model(p, x):
        return lax.scan(lambda h, w: (jax.checkpoint(call)(h, w), None), x, p["layers"][0])[0]

    given = [keys, keys, jax.random.split(jax.random.key(1), 3)]
    run = fed(model, given, W, X)
    added = jnp.stack([jax.random.normal(key, ()) for key in keys])
    close(run(given, W, X), stack(X, W["layers"][0], added))
    slope = jax.jit(jax.grad(lambda x: run(given, W, x).sum()))(X)
    assert bool(jnp.all(jnp.isfinite(slope)))


def test_under_vmap():
    run = fed(lambda p, x: stack(x, p["layers"][0]), [jnp.arange(3.0)], W, X)
    xs, values = jnp.stack([X, -X]), jnp.stack([jnp.arange(3.0), jnp.ones(3)])
    got = jax.vmap(lambda v, x: run([v], W, x))(values, xs)
    close(got[1], stack(-X, W["layers"][0], jnp.ones(3)))
