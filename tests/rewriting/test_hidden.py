"""Programs out of reach: left as they are, named in the plan, with quantized products beside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.core import Tracer

import qpass
from qpass_kernels import REFERENCE
from tests.jaxprs import count
from tests.rewriting.dequantized import W8, check_at_rounded_weights, dequantized, unchanged
from tests.rewriting.oracle import INT8, close, plain, quantized, random, total

W = {"a": random(8, 8, seed=1), "b": random(8, 8, seed=2)}
X = random(4, 8, seed=3)


def fixed_point(h, w):
    def residual(y):
        return y - 0.1 * jnp.tanh(plain(y, w)) - h

    return lax.custom_root(residual, h, lambda f, y: y - f(y), lambda g, y: y)


def linear_solve(h, w):
    solve = lambda _, b: jnp.linalg.inv(jnp.eye(8) + 0.1 * w) @ b  # noqa: E731
    return lax.custom_linear_solve(lambda v: v + 0.1 * plain(w, v), h[0], solve)


@jax.custom_batching.custom_vmap
def batched_by_hand(h, w):
    return plain(h, w)


@batched_by_hand.def_vmap
def _(size, batched, h, w):
    return jnp.stack([plain(h[k], w) for k in range(size)]), True


OUT_OF_REACH = {
    "custom_root": fixed_point,
    "custom_linear_solve": linear_solve,
    "solve": lambda h, w: jnp.linalg.solve(w + 3 * jnp.eye(8), h.T),
    "custom_vmap": batched_by_hand,
    "sequential_vmap": jax.custom_batching.sequential_vmap(plain),
}


@pytest.mark.parametrize("call", OUT_OF_REACH.values(), ids=OUT_OF_REACH)
def test_left_alone_and_named(call):
    q = qpass.transform(lambda p, x: call(plain(x, p["a"]), p["b"]), INT8)
    close(q(W, X), call(quantized(X, W["a"]), W["b"]))
    listed = [row for row in q.plan(W, X).rows if row.role == "opaque"]
    assert listed
    assert all(row.reason for row in listed)
    stored = q.quantize(W, X)
    assert isinstance(stored["a"], qpass.QTensor)
    assert not isinstance(stored["b"], qpass.QTensor)
    close(q(stored, X), q(W, X))


def test_a_batching_rule_of_the_user_is_kept():
    q = qpass.transform(lambda p, x: batched_by_hand(plain(x, p["a"]), p["b"]), INT8)
    mapped = jax.vmap(q, (None, 0))
    xs = jnp.stack([X, -X])
    close(mapped(W, xs), jnp.stack([q(W, x) for x in xs]))
    assert count(jax.make_jaxpr(mapped)(W, xs), "dot_general") == 2  # the rule's, one by one


def test_a_program_on_references():
    run_state = pytest.importorskip("jax.experimental.pallas").run_state

    def f(p, x):
        def body(ref):
            ref[...] = jnp.tanh(plain(ref[...], p["b"]))

        return run_state(body)(plain(x, p["a"]))

    q = qpass.transform(f, INT8)
    close(q(W, X), jnp.tanh(plain(quantized(X, W["a"]), W["b"])))
    reasons = [row.reason for row in q.plan(W, X).rows if row.op == "run_state"]
    assert any("opaque" in reason for reason in reasons)


def test_host_callbacks_between_products():
    def f(p, x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        y = jax.pure_callback(np.sin, shape, plain(x, p["a"]), vmap_method="sequential")
        return plain(y, p["b"])

    check_at_rounded_weights(f, unchanged, W, X)
    check_at_rounded_weights(f, lambda f: lambda p, x: jax.vmap(lambda r: f(p, r[None]))(x), W, X)


def test_debug_callbacks_under_vmap_of_grad():
    seen = []

    def f(p, x):
        h = plain(x, p["a"])
        jax.debug.callback(lambda h: seen.append(np.asarray(h)), h)
        return h.sum()

    q = qpass.transform(f, INT8)
    xs = jnp.stack([X, -X])
    jax.vmap(jax.grad(q), (None, 0))(W, xs)
    jax.effects_barrier()
    wanted = [np.asarray(quantized(x, W["a"])) for x in xs]
    assert len(seen) == 2
    close(sorted(seen, key=np.sum), sorted(wanted, key=np.sum))


def test_pmap_inside_and_outside():
    xs = random(4, 2, 8, seed=5)
    q = qpass.transform(lambda p, x: jnp.tanh(plain(x, p["a"])), W8)
    at = dequantized(q, W, X)["a"]
    close(jax.pmap(q, in_axes=(None, 0))(W, xs), jnp.tanh(plain(xs, at)))

    def f(p, x):
        return jax.pmap(lambda r, w: plain(r, w), in_axes=(0, None))(x, p["a"])

    inside = qpass.transform(f, W8)
    assert all(d.action for d in inside.plan(W, xs).decisions)
    close(inside(W, xs), plain(xs, at))
    slope = jax.grad(lambda p: total(inside(p, xs)))(W)["a"]
    close(slope, jax.grad(lambda w: total(plain(xs, w)))(at), 1e-5)


def test_references_as_arguments_and_closed_over():
    f = lambda p, x: plain(x, p["a"])  # noqa: E731
    held = jax.new_ref(jnp.zeros((4, 8)))

    def adding(p, x, ref):
        ref[...] += f(p, x)
        held[...] += f(p, x)
        return 2 * ref[0]

    q, product = qpass.transform(adding, INT8), quantized(X, W["a"])
    for k, run in enumerate((q, jax.jit(q)), 1):
        given = jax.new_ref(jnp.zeros((4, 8)))
        close(run(W, X, given), 2 * product[0])
        close(given[...], product)
        close(held[...], k * product)


def test_references_in_loops():
    def f(p, x):
        ref = jax.new_ref(x)

        def step(_, w):
            ref[...] = jnp.tanh(plain(ref[...], w))

        lax.scan(lambda c, w: (step(c, w), None), None, p["w"])
        lax.fori_loop(0, 2, lambda _, c: step(c, p["a"]), None)
        return jax.freeze(ref)

    check_at_rounded_weights(f, unchanged, {"w": random(2, 8, 8, seed=7), "a": W["a"]}, X)


def test_a_weight_read_through_a_reference_stays_float_and_is_named():
    def f(p, x):
        return plain(x, jax.new_ref(p["a"])[...]) + plain(x, p["b"])

    q = qpass.transform(f, INT8)
    close(q(W, X), plain(X, W["a"]) + quantized(X, W["b"]))
    first, second = q.plan(W, X).decisions
    assert (first.site.role, second.site.role) == ("activations", "forward")
    assert not isinstance(q.quantize(W, X)["a"], qpass.QTensor)


def test_without_jit():
    q = qpass.transform(lambda p, x: plain(x, p["a"]), INT8, kernels=(REFERENCE,))
    with jax.disable_jit():
        close(q(W, X), quantized(X, W["a"]))


def test_evaluation_while_tracing():
    q = qpass.transform(lambda p, x: plain(x, p["a"]), INT8)

    def outer(x):
        with jax.ensure_compile_time_eval():
            fixed = q(W, X)
            assert not isinstance(fixed, Tracer)
        return x + fixed

    close(jax.jit(outer)(X), X + quantized(X, W["a"]))

    def inner(p, x):
        with jax.ensure_compile_time_eval():
            n = int(jnp.arange(4).sum())
        return plain(x, p["a"]) * n

    check_at_rounded_weights(inner, unchanged, W, X)
