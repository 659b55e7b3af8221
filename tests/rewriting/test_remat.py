"""Rematerialization survives, with every policy."""

import io
from contextlib import redirect_stdout

import jax
import jax.numpy as jnp
import pytest
from jax.ad_checkpoint import checkpoint_name, print_saved_residuals

import qpass
from tests.jaxprs import count
from tests.rewriting.oracle import INT8, check, plain, random

W = {"a": random(8, 8, seed=1), "b": random(8, 8, seed=2)}
X = random(4, 8, seed=3)
POLICIES = jax.checkpoint_policies


def block(dot, policy=None, prevent_cse=True):
    def f(p, x):
        h = checkpoint_name(jnp.tanh(dot(x, p["a"])), "hidden")
        return jnp.sin(dot(h, p["b"]))

    return jax.checkpoint(f, policy=policy, prevent_cse=prevent_cse)


@pytest.mark.parametrize("prevent_cse", [True, False])
def test_values_and_gradients(prevent_cse):
    check(lambda dot: block(dot, prevent_cse=prevent_cse), W, X)


@pytest.mark.parametrize(
    "policy",
    [
        POLICIES.dots_saveable,
        POLICIES.everything_saveable,
        POLICIES.nothing_saveable,
        POLICIES.dots_with_no_batch_dims_saveable,
        POLICIES.save_only_these_names("hidden"),
    ],
)
def test_values_and_gradients_with_a_policy(policy):
    check(lambda dot: block(dot, policy), W, X, vmap=False, stored=False)


def residuals(fn, *args):
    text = io.StringIO()
    with redirect_stdout(text):
        print_saved_residuals(fn, *args)
    return text.getvalue().splitlines()


def products(fn, primitive):
    """How many products the gradient's program holds."""
    return count(jax.make_jaxpr(jax.grad(lambda p, x: fn(p, x).sum()))(W, X), primitive)


def recomputed(policy):
    """Products that the backward program computes again: quantized, and in the float original."""
    q = qpass.transform(block(plain, policy), INT8)
    # Beside two forward products: two for the weights' gradients and one for the hidden value's.
    return products(q, "quantized_matmul") - 2, products(block(plain, policy), "dot_general") - 5


@pytest.mark.parametrize("policy", [None, POLICIES.nothing_saveable])
def test_products_are_recomputed_where_nothing_is_saved(policy):
    q = qpass.transform(block(plain, policy), INT8)
    assert recomputed(policy) == (2, 2)
    saved = [
        line for line in residuals(q, W, X) if "argument" not in line and "literal" not in line
    ]
    assert not [line for line in saved if "f32[4,8]" in line]


@pytest.mark.parametrize("policy", [POLICIES.dots_saveable, POLICIES.everything_saveable])
def test_products_that_the_policy_saves_are_saved(policy):
    q = qpass.transform(block(plain, policy), INT8)
    assert recomputed(policy) == (0, 0)
    assert sum("f32[4,8]" in line and "argument" not in line for line in residuals(q, W, X)) >= 2


def test_a_policy_by_name_saves_what_it_names():
    policy = POLICIES.save_only_these_names("hidden")
    q = qpass.transform(block(plain, policy), INT8)
    assert any("hidden" in line for line in residuals(q, W, X))
    here, original = recomputed(policy)
    assert here == original


def test_an_offloading_policy_offloads_the_replacement():
    policy = POLICIES.offload_dot_with_no_batch_dims("device", "pinned_host")
    q = qpass.transform(block(plain, policy), INT8)
    slope = jax.make_jaxpr(jax.grad(lambda p, x: q(p, x).sum()))(W, X)
    assert str(slope).count("pinned_host") >= 2
    assert recomputed(policy) == (0, 0)


def test_a_policy_reaches_into_nested_programs():
    def f(p, x):
        return jnp.sin(jax.jit(lambda v: plain(v, p["a"]))(x))

    q = qpass.transform(jax.checkpoint(f, policy=POLICIES.dots_saveable), INT8)
    assert products(q, "quantized_matmul") == 1
