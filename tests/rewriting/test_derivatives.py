"""Derivatives of all kinds and orders are those of the float function at the rounded weights."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import qpass
from tests.rewriting.dequantized import W8, check_at_rounded_weights, dequantized
from tests.rewriting.oracle import close, plain, random, total

P = {"a": random(8, 8, seed=1), "b": random(8, 8, seed=2)}
S = {"w": random(2, 8, 8, seed=4)}
X = random(4, 8, seed=3)
OLD = tuple(map(int, jax.__version__.split(".")[:2])) < (0, 12)


def layers(p, x):
    return jnp.tanh(plain(jnp.tanh(plain(x, p["a"])), p["b"]))


def scanned(p, x):
    body = jax.checkpoint(lambda c, w: (jnp.tanh(plain(c, w)), None))
    return lax.scan(body, x, p["w"])[0]


def direction(p, x):
    flat, tree = jax.tree.flatten((p, x))
    return jax.tree.unflatten(tree, [random(*a.shape, seed=20 + k) for k, a in enumerate(flat)])


def slope(f):
    return jax.grad(lambda p, x: total(f(p, x)), (0, 1))


def along(f):
    """The derivative of the sum in the direction."""
    return lambda p, x: jax.jvp(lambda p, x: total(f(p, x)), (p, x), direction(p, x))[1]


def dot(one, other):
    return sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


SECOND = {
    "forward over reverse": lambda f: lambda p, x: jax.jvp(slope(f), (p, x), direction(p, x))[1],
    "reverse over reverse": lambda f: jax.grad(
        lambda p, x: dot(slope(f)(p, x), direction(p, x)), (0, 1)
    ),
    "reverse over forward": lambda f: jax.grad(along(f), (0, 1)),
    "forward over forward": lambda f: lambda p, x: jax.jvp(along(f), (p, x), direction(p, x))[1],
}


@pytest.mark.parametrize("second", SECOND.values(), ids=SECOND)
def test_hessian_vector_products(second):
    check_at_rounded_weights(layers, second, P, X, tolerance=1e-4)


@pytest.mark.parametrize("name", SECOND)
def test_hessian_vector_products_through_scan_and_remat(name):
    if OLD and name.endswith("over reverse"):
        pytest.skip("a scan differentiated in reverse loses derivative rules before jax 0.12")
    check_at_rounded_weights(scanned, SECOND[name], S, X, tolerance=1e-4)


@pytest.mark.skipif(not OLD, reason="mended in jax 0.12")
def test_what_jax_loses_in_a_scan_is_an_error_and_no_wrong_number():
    """The cause, in plain JAX: the rule of ``rounded`` is gone from the second derivative."""

    @jax.custom_jvp
    def rounded(x):
        return jnp.round(8 * x) / 8

    rounded.defjvp(lambda primals, tangents: (rounded(*primals), tangents[0]))

    def f(x):
        return lax.scan(lambda c, _: (jnp.sin(rounded(c)), None), x, None, length=2)[0]

    assert jax.grad(jax.grad(f))(0.3) == 0
    assert jax.grad(lambda x: jax.jvp(f, (x,), (1.0,))[1])(0.3) != 0
    q = qpass.transform(scanned, W8)
    with pytest.raises(qpass.DerivativeError, match="grad of jvp"):
        SECOND["forward over reverse"](q)(S, X)


OTHERS = {
    "value_and_grad with aux": lambda f: jax.value_and_grad(
        lambda p, x: (total(f(p, x)), {"out": f(p, x)}), (0, 1), has_aux=True
    ),
    "jvp": lambda f: lambda p, x: jax.jvp(f, (p, x), direction(p, x)),
    "vjp": lambda f: lambda p, x: jax.vjp(f, p, x)[1](jnp.cos(x)),
    "linearize": lambda f: lambda p, x: jax.linearize(f, p, x)[1](*direction(p, x)),
    "linear_transpose": lambda f: (
        lambda p, x: jax.linear_transpose(jax.linearize(f, p, x)[1], p, x)(jnp.cos(x))
    ),
    "jacfwd": lambda f: lambda p, x: jax.jacfwd(f, 1)(p, x[:1]),
    "jacrev": lambda f: lambda p, x: jax.jacrev(f, 1)(p, x[:1]),
    "grad of checkpoint": lambda f: slope(jax.checkpoint(f)),
    "grad of vmap": lambda f: slope(lambda p, x: jax.vmap(lambda r: f(p, r[None]))(x)),
    "vmap of grad": lambda f: lambda p, x: jax.vmap(lambda r: slope(f)(p, r[None]))(x),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_first_derivatives(change):
    check_at_rounded_weights(layers, change, P, X)


@pytest.mark.parametrize("name", ["linear_transpose", "vmap of grad", "grad of checkpoint"])
def test_first_derivatives_through_scan_and_remat(name):
    check_at_rounded_weights(scanned, OTHERS[name], S, X)


def test_derivatives_inside_of_the_function():
    """The other order: the function takes the derivative of its own product."""

    def f(p, x):
        y, dy = jax.jvp(lambda x: layers(p, x), (x,), (jnp.cos(x),))
        return y, dy, jax.linearize(lambda x: layers(p, x), x)[1](x)

    check_at_rounded_weights(f, lambda f: f, P, X)


def test_what_vjp_returns_is_a_tree():
    q = qpass.transform(layers, W8)
    flat, tree = jax.tree.flatten(jax.vjp(q, P, X)[1])
    wanted = jax.vjp(layers, dequantized(q, P, X), X)[1](X)
    close(jax.tree.unflatten(tree, flat)(X), wanted)
