"""Branches: cond, switch, platform_dependent."""

import jax
import jax.numpy as jnp
from jax import lax

import qpass
from tests.rewriting.oracle import INT8, check, plain, random

W = {"a": random(8, 8, seed=1), "b": random(8, 8, seed=2)}
X = random(4, 8, seed=3)


def test_cond_on_a_value():
    def model(dot):
        def f(p, x):
            def yes(x):
                return dot(x, p["a"]) * 1.0

            def no(x):
                return dot(x, p["b"]) * 0.0 + 2.0

            return lax.cond(x[0, 0] > 0, yes, no, x)

        return f

    check(model, W, X)


def test_cond_where_one_branch_has_no_product():
    def model(dot):
        return lambda p, x: lax.cond(x[0, 0] < 9, lambda x: dot(x, p["a"]), lambda x: x, x)

    check(model, W, X)


def test_switch_inside_scan():
    def model(dot):
        def f(p, x):
            def step(c, i):
                branches = [
                    lambda c: jnp.tanh(dot(c, p["a"])),
                    lambda c: c,
                    lambda c: jnp.sin(dot(dot(c, p["b"]), p["a"])),
                ]
                return lax.switch(i, branches, c), i

            return lax.scan(step, x, jnp.arange(3))

        return f

    check(model, W, X)


def test_a_weight_chosen_by_a_branch_has_no_leaf_and_stays_float():
    def model(dot):
        def f(p, x):
            w = lax.cond(x[0, 0] < 9, lambda: p["a"], lambda: p["b"])
            return dot(x, p["a"]) + plain(dot(x, p["b"]), w * 1.0)

        return f

    check(model, W, X, stored=False)


def test_platform_dependent():
    def model(dot):
        def f(p, x):
            return lax.platform_dependent(
                x, cpu=lambda x: dot(x, p["a"]), default=lambda x: dot(x, p["b"])
            )

        return f

    check(model, W, X)


def test_platform_dependent_lowers_for_another_platform():
    def f(p, x):
        return lax.platform_dependent(
            x, cpu=lambda x: plain(x, p["a"]), default=lambda x: jnp.sin(plain(x, p["b"]))
        )

    q = qpass.transform(f, INT8)
    text = jax.jit(q).trace(W, X).lower(lowering_platforms=("tpu",)).as_text()
    assert "stablehlo.sine" in text
