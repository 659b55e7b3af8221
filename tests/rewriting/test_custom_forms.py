"""Derivative rules of the user in their rarer forms, at the rounded weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.custom_derivatives import SymbolicZero

import qpass
from tests.rewriting.dequantized import W8, check_at_rounded_weights
from tests.rewriting.oracle import plain, random, total

P = {"a": random(8, 8, seed=1), "b": random(8, 8, seed=2)}
X = random(4, 8, seed=3)


def slope(f):
    return jax.value_and_grad(lambda p, x: total(f(p, x)), (0, 1))


def symbolic_zeros_of_jvp(p, x):
    @jax.custom_jvp
    def call(x, w, n):
        return jnp.tanh(plain(x, w)) * n

    def rule(primals, dots):
        (x, w, n), (dx, dw, _) = primals, dots
        y = jnp.tanh(plain(x, w))
        parts = [
            factor * (1 - y * y) * plain(*pair) * n
            for factor, pair, dot in ((2, (dx, w), dx), (3, (x, dw), dw))
            if not isinstance(dot, SymbolicZero)
        ]
        return y * n, sum(parts, jnp.zeros_like(y))

    call.defjvp(rule, symbolic_zeros=True)
    return call(x, p["a"], 2) + call(x, p["b"], jnp.int32(1))


def functions_as_arguments_of_jvp(p, x):
    @partial(jax.custom_jvp, nondiff_argnums=(0, 3))
    def call(g, x, w, k):
        return g(plain(x, w)) * k

    @call.defjvp
    def _(g, k, primals, dots):
        (x, w), (dx, dw) = primals, dots
        return g(plain(x, w)) * k, 2 * (plain(dx, w) + 3 * plain(x, dw))

    return call(jnp.tanh, x, p["a"], 2) + call(jnp.sin, x, p["b"], 3)


def one_rule_for_each_argument(p, x):
    call = jax.custom_jvp(plain)
    call.defjvps(lambda dx, y, x, w: 2 * plain(dx, w), None)
    return call(x, p["a"])


def functions_as_arguments_of_vjp(p, x):
    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def call(g, x, w):
        return g(plain(x, w))

    def bwd(g, kept, ct):
        x, w = kept
        return 2 * plain(ct, w.T), 3 * plain(x.T, ct)

    call.defvjp(lambda g, x, w: (call(g, x, w), (x, w)), bwd)
    return call(jnp.tanh, x, p["a"]) + call(jnp.sin, x, p["b"])


def symbolic_zeros_of_vjp_in_a_scan(p, x):
    @jax.custom_vjp
    def call(x, w):
        return plain(x, w), x.sum()

    def fwd(x, w):
        return call(x.value, w.value), (x.value, w.value)

    def bwd(kept, cts):
        x, w = kept
        ct = cts[0]
        assert not isinstance(ct, SymbolicZero)
        return 2 * plain(ct, w.T), 3 * plain(x.T, ct)

    call.defvjp(fwd, bwd, symbolic_zeros=True)

    def layer(c, w):
        return jnp.tanh(call(c, w)[0]), None

    stack = jnp.stack([p["a"], p["a"]])
    return lax.scan(jax.checkpoint(layer), plain(x, p["b"]), stack)[0]


def integers_and_nones(p, x):
    @jax.custom_vjp
    def call(x, w, n):
        return plain(x, w), n + 1, (x.astype(jnp.int32), None)

    def bwd(w, cts):
        return 5 * plain(cts[0], w.T), None, None

    call.defvjp(lambda x, w, n: (call(x, w, n), w), bwd)
    return call(x, p["a"], jnp.int32(2))


def closed_over_table(p, x):
    table = np.eye(8, dtype=np.float32)

    @jax.custom_gradient
    def call(x, w):
        return plain(x @ table, w), lambda ct: (2 * plain(ct, w.T) @ table, 3 * plain(x.T, ct))

    return call(x, p["a"])  # pyright: ignore[reportCallIssue]


FORMS = [
    symbolic_zeros_of_jvp,
    functions_as_arguments_of_jvp,
    one_rule_for_each_argument,
    functions_as_arguments_of_vjp,
    symbolic_zeros_of_vjp_in_a_scan,
    integers_and_nones,
    closed_over_table,
]


@pytest.mark.parametrize("fn", FORMS, ids=[f.__name__ for f in FORMS])
def test_values_and_gradients(fn):
    check_at_rounded_weights(fn, slope, P, X)


@pytest.mark.parametrize("fn", FORMS[:3], ids=[f.__name__ for f in FORMS[:3]])
def test_forward_mode(fn):
    def forward(f):
        return lambda p, x: jax.jvp(f, (p, x), (jax.tree.map(jnp.ones_like, p), x))

    check_at_rounded_weights(fn, forward, P, X)


def test_the_backward_rule_is_differentiated_too():
    def f(p, x):
        @jax.custom_vjp
        def call(x, w):
            return jnp.tanh(plain(x, w))

        def bwd(kept, ct):
            x, w = kept
            return 2 * plain(ct, w.T) * jnp.cos(x), 3 * plain(x.T, ct)

        call.defvjp(lambda x, w: (call(x, w), (x, w)), bwd)
        return call(x, p["a"])

    def twice(f):
        first = jax.grad(lambda p, x: total(f(p, x)), 1)
        return jax.grad(lambda p, x: total(first(p, x)), (0, 1))

    check_at_rounded_weights(f, twice, P, X, tolerance=1e-4)


def test_all_programs_of_a_rule_are_planned():
    def f(p, x):
        call = jax.custom_vjp(plain)
        call.defvjp(
            lambda x, w: (plain(x, w), (x, w)), lambda kept, g: (plain(g, kept[1].T), kept[1])
        )
        forward = jax.custom_jvp(plain)
        forward.defjvp(lambda primals, dots: (plain(*primals), plain(dots[0], primals[1])))
        return forward(call(x, p["a"]), p["b"])

    decisions = qpass.transform(f, W8).plan(P, X).decisions
    places = [d.site.key[0][-1][1] for d in decisions]
    assert places == ["primal", "fwd", "bwd", "primal", "jvp", "jvp"]
    assert [d.site.role for d in decisions].count("forward") == 4
    assert [bool(d.action) for d in decisions] == [True, True, False, True, True, False]
    assert all(d.reason for d in decisions if d.action is None)
