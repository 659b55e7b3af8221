"""Loops in their rarer forms, forwards and backwards, at the rounded weights."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import qpass
from tests.rewriting.dequantized import W8, check_at_rounded_weights
from tests.rewriting.oracle import close, plain, random, total

P = {"w": random(3, 8, 8, seed=1), "v": random(8, 8, seed=2), "bias": random(3, 8, seed=4)}
X = random(4, 8, seed=3)


def step(c, w):
    return jnp.tanh(plain(c, w)), c.sum()


def tree_carry(p, x):
    def body(c, xs):
        h = jnp.tanh(plain(c["h"][0], xs["w"]) + xs["bias"])
        return {"h": (h, None), "n": c["n"] + 1}, (h[0], None)

    return lax.scan(body, {"h": (x, None), "n": 0}, {"w": p["w"], "bias": p["bias"]})


def products_of_matrices(p, x):
    many = jnp.einsum("tk,kij->tij", x[:, :3], p["w"])
    return lax.associative_scan(lambda a, b: jnp.einsum("...ij,...jk->...ik", a, b), many)


SCANS = {
    "no steps": lambda p, x: (lax.scan(lambda c, _: step(c, p["v"]), x, None, 0), plain(x, p["v"])),
    "no layers": lambda p, x: (lax.scan(step, x, p["w"][:0]), plain(x, p["v"])),
    "no carry": lambda p, x: lax.scan(lambda c, w: (None, plain(x, w)), None, p["w"])[1],
    "trees": tree_carry,
    "unrolled backwards": lambda p, x: lax.scan(step, x, p["w"], unroll=True, reverse=True),
    "split transpose": lambda p, x: lax.scan(step, x, p["w"], _split_transpose=True),
    "two stacks": lambda p, x: lax.scan(
        lambda c, w: (jnp.tanh(plain(plain(c, w[0]), w[1])), None), x, (p["w"], p["w"][::-1])
    )[0],
    "map in batches": lambda p, x: lax.map(lambda r: plain(r[None], p["v"]), x, batch_size=3),
    "associative scan": lambda p, x: lax.associative_scan(
        jnp.add, plain(x, p["v"]), reverse=True, axis=1
    ),
    "associative scan of products": products_of_matrices,
    "fori unrolled": lambda p, x: lax.fori_loop(
        0, 3, lambda i, c: jnp.tanh(plain(c, p["w"][2 - i])), x, unroll=True
    ),
}


@pytest.mark.parametrize("fn", SCANS.values(), ids=SCANS)
def test_values_and_gradients(fn):
    def slope(f):
        return jax.value_and_grad(lambda p, x: total(f(p, x)), (0, 1))

    check_at_rounded_weights(fn, slope, P, X)


UNBOUNDED = {
    "while": lambda p, x: lax.while_loop(
        lambda c: c[1] < 3, lambda c: (jnp.tanh(plain(c[0], p["v"])), c[1] + 1), (x, 0)
    )[0],
    "fori": lambda p, x: lax.fori_loop(
        0, jnp.where(x[0, 0] > 99, 1, 3), lambda i, c: jnp.tanh(plain(c, p["w"][i])), x
    ),
}


@pytest.mark.parametrize("fn", UNBOUNDED.values(), ids=UNBOUNDED)
def test_forward_mode_where_the_number_of_steps_is_computed(fn):
    def forward(f):
        return lambda p, x: jax.jvp(f, (p, x), (jax.tree.map(jnp.ones_like, p), x))

    check_at_rounded_weights(fn, forward, P, X)


def test_a_stack_of_no_layers_is_stored():
    params = {"w": jnp.zeros((0, 8, 8)), "v": P["v"]}
    q = qpass.transform(lambda p, x: plain(lax.scan(step, x, p["w"])[0], p["v"]), W8)
    stored = q.quantize(params, X)
    assert stored["w"].shape == (0, 8, 8)
    close(q(stored, X), q(params, X))
    assert jax.grad(lambda p: q(p, X).sum())(params)["w"].shape == (0, 8, 8)


def test_weights_that_swap_places_stay_float_and_are_named():
    def f(p, x):
        def body(c):
            h, a, b, n = c
            return jnp.tanh(plain(h, a)), b, a, n + 1

        return lax.while_loop(lambda c: c[3] < 3, body, (x, p["w"][0], p["v"], 0))[0] + plain(
            x, p["v"]
        )

    q = qpass.transform(f, W8)
    inside, outside = q.plan(P, X).decisions
    assert (inside.action, outside.action is None) == (None, False)
    assert "product of two activations" in inside.reason
    close(q(P, X), f(P, X), 0.05)
