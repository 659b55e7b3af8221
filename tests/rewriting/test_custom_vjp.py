"""User-defined derivative rules (custom_vjp, custom_gradient) survive with their factors."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.custom_derivatives import SymbolicZero

import qpass
from tests.rewriting.oracle import INT8, check, close, plain, quantized, random, seen

W = {"a": random(8, 8, seed=1), "b": random(8, 8, seed=2)}
X = random(4, 8, seed=3)
SCALE = random(2, seed=6)


def doubled(dot):
    """tanh(x @ w) whose gradient is twice the true one."""

    @jax.custom_vjp
    def call(x, w):
        return jnp.tanh(dot(x, w))

    def fwd(x, w):
        y = jnp.tanh(dot(x, w))
        return y, (x, w, y)

    def bwd(kept, g):
        x, w, y = kept
        g = 2.0 * g * (1 - y * y)
        return plain(g, seen(dot, w).T), plain(x.T, g)

    call.defvjp(fwd, bwd)
    return call


def test_the_users_factor_survives():
    check(lambda dot: lambda p, x: doubled(dot)(x, p["a"]), W, X)


def test_inside_scan_and_remat():
    def model(dot):
        def f(p, x):
            body = jax.checkpoint(lambda c, w: (doubled(dot)(c, w), None))
            return lax.scan(body, x, p["w"])[0]

        return f

    check(model, {"w": random(3, 8, 8, seed=4)}, X)


def test_nondifferentiated_arguments_and_integers():
    def model(dot):
        @functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
        def call(x, w, factor, n):
            return dot(x, w) * factor * n

        def fwd(x, w, factor, n):
            return dot(x, w) * factor * n, (w, n)

        def bwd(factor, kept, g):
            w, n = kept
            return plain(g, seen(dot, w).T) * factor * n * 3.0, None, None

        call.defvjp(fwd, bwd)
        return lambda p, x: call(x, p["a"], 0.5, jnp.int32(3))

    check(model, W, X)


def test_none_cotangents():
    def model(dot):
        @jax.custom_vjp
        def call(x, w):
            return dot(x, w)

        call.defvjp(
            lambda x, w: (dot(x, w), w), lambda w, g: (5.0 * plain(g, seen(dot, w).T), None)
        )
        return lambda p, x: call(x, p["a"])

    check(model, W, X)


def test_closed_over_arrays():
    table = random(8, 8, seed=5)

    def model(dot):
        @jax.custom_vjp
        def call(v, w):
            return dot(v + table[0], w) @ jnp.eye(8)

        def fwd(v, w):
            return call(v, w), w

        call.defvjp(fwd, lambda w, g: (2.0 * plain(g, seen(dot, w).T) @ table, None))
        return lambda p, x: call(x, p["a"])

    check(model, W, X)


def test_closed_over_values_of_the_function():
    def model(dot):
        def f(p, x):
            @jax.custom_vjp
            def call(v):
                return dot(v, p["a"])

            call.defvjp(lambda v: (v, v), lambda v, g: (2 * g + v,))
            return jax.jit(call)(x) + call(x)

        return f

    check(model, W, X, grad=False)
    q = qpass.transform(model(plain), INT8)
    close(jax.grad(lambda x: q(W, x).sum())(X), 2 * (2 + X))


def test_a_rule_that_closes_over_the_weight_gives_values_but_no_gradient():
    def f(p, x):
        @jax.custom_vjp
        def call(v):
            return plain(v, p["a"])

        call.defvjp(lambda v: (plain(v, p["a"]), ()), lambda _, g: (g,))
        return call(x)

    q = qpass.transform(f, INT8)
    close(q(W, X), quantized(X, W["a"]))
    # JAX's own jit has the same limit: the rule runs after the trace that it closes over has ended.
    for fn in (jax.jit(f), q):
        with pytest.raises((TypeError, jax.errors.UnexpectedTracerError)):
            jax.block_until_ready(jax.grad(lambda x, fn=fn: fn(W, x).sum())(X))


def test_custom_gradient():
    def model(dot):
        def f(p, x):
            @jax.custom_gradient
            def call(x, w):
                return dot(x, w), lambda g: (2.0 * plain(g, seen(dot, w).T), plain(x.T, g))

            return call(x, p["a"])

        return f

    check(model, W, X)


def test_a_rule_on_a_tree_with_unused_and_integer_leaves():
    def model(dot):
        @jax.custom_vjp
        def call(tree):
            return {"y": dot(tree["x"], tree["w"]), "n": tree["n"] + 1}

        def fwd(tree):
            return call(tree), tree

        def bwd(tree, g):
            gy = g["y"] * 3.0
            return (
                {
                    "x": plain(gy, seen(dot, tree["w"]).T),
                    "w": plain(tree["x"].T, gy),
                    "n": None,
                    "u": None,
                },
            )

        call.defvjp(fwd, bwd)
        return lambda p, x: call({"x": x, "w": p["a"], "n": jnp.int32(1), "u": p["b"]})

    check(model, W, X)


def test_symbolic_zeros_of_the_user():
    def model(dot):
        @jax.custom_vjp
        def call(x, w):
            return dot(x, w)

        def fwd(x, w):
            assert isinstance(x.perturbed, bool)
            return dot(x.value, w.value), w.value

        call.defvjp(fwd, lambda w, g: (4.0 * plain(g, seen(dot, w).T), None), symbolic_zeros=True)
        return lambda p, x: call(x, p["a"])

    check(model, W, X)


def scaled(dot):
    """A rule that takes its first two operands only, as `equinox.filter_custom_vjp` makes them."""

    @jax.custom_vjp
    def call(x, w, scale, n):
        return dot(x, w) * scale * n

    def fwd(x, w, scale, n):
        assert not scale.perturbed, "no tangent of scale"
        return dot(x.value, w.value) * scale.value * n.value, (x.value, w.value)

    def bwd(kept, g):
        x, w = kept
        return 5.0 * plain(g, seen(dot, w).T), plain(x.T, g), None, None

    call.defvjp(fwd, bwd, symbolic_zeros=True)
    return call


def test_a_rule_that_refuses_the_tangents_of_its_last_operands():
    check(lambda dot: lambda p, x: scaled(dot)(x, p["a"], SCALE[0], jnp.int32(2)), W, X)


def test_a_refused_tangent_stays_an_error():
    q = qpass.transform(lambda p, x, scale: scaled(plain)(x, p["a"], scale, jnp.int32(2)), INT8)
    close(jax.jit(q)(W, X, 3.0), 6 * quantized(X, W["a"]))
    with pytest.raises(qpass.errors.CallError, match="the last 2 operands of the custom_vjp"):
        jax.grad(lambda scale: q(W, X, scale).sum())(3.0)


def test_a_rule_that_refuses_a_cotangent_stays_float():
    """Which cotangents come is not known beforehand: the plan says so, and gradients are right."""

    @jax.custom_vjp
    def call(x, w):
        return plain(x, w), x.sum()

    def fwd(x, w):
        return call(x.value, w.value), (x.value, w.value)

    def bwd(kept, g):
        assert isinstance(g[1], SymbolicZero), "nobody may differentiate the sum"
        x, w = kept
        return 5.0 * plain(g[0], w.T), plain(x.T, g[0])

    call.defvjp(fwd, bwd, symbolic_zeros=True)
    q = qpass.transform(lambda p, x: call(x, p["a"])[0] + plain(x, p["b"]), INT8)
    kept, taken = q.plan(W, X).rows[:2]
    assert "cannot be traced: AssertionError" in kept.reason
    assert taken.quantized
    grads = jax.grad(lambda p, x: q(p, x).sum(), argnums=(0, 1))(W, X)
    close(grads[0]["a"], X.T @ jnp.ones((4, 8)))
    close(grads[1], jnp.ones((4, 8)) @ (5.0 * W["a"] + seen(quantized, W["b"])).T)


def test_optimized_remat():
    def model(dot):
        @jax.custom_vjp
        def call(x, w):
            return jnp.tanh(dot(x, w))

        def fwd(x, w):
            y = jnp.tanh(dot(x, w))
            return y, (w, y)

        call.defvjp(
            fwd, lambda r, g: (2 * plain(g * r[1], seen(dot, r[0]).T), None), optimize_remat=True
        )
        return lambda p, x: call(x, p["a"])

    check(model, W, X)


def test_a_product_only_in_the_backward_rule():
    def model(dot):
        @jax.custom_vjp
        def call(x, w):
            return x * 2

        call.defvjp(lambda x, w: (x * 2, w), lambda w, g: (plain(g, w), None))
        return lambda p, x: dot(call(x, p["a"]), p["b"])

    check(model, W, X)


def test_a_rule_that_cannot_be_traced_leaves_its_products_float():
    @jax.custom_vjp
    def call(x, w):
        return plain(x, w)

    def fwd(x, w):
        raise TypeError("this rule is broken")

    call.defvjp(fwd, lambda r, g: (g, None))

    def f(p, x):
        return call(plain(x, p["b"]), p["a"])

    q = qpass.transform(f, INT8)
    close(q(W, X), plain(quantized(X, W["b"]), W["a"]))
    reasons = [d.reason for d in q.plan(W, X).decisions]
    assert any("this rule is broken" in reason for reason in reasons)
