"""`stop_gradient` on a weight: its value is the stored one, and no gradient reaches it."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import qpass
from tests.rewriting.dequantized import check_at_rounded_weights
from tests.rewriting.oracle import leaves, plain, random, total

P = {"a": random(8, 8, seed=1), "b": random(8, 8, seed=2)}
X = random(4, 8, seed=3)


def slope(f):
    return jax.value_and_grad(lambda p, x: total(f(p, x)), (0, 1))


def check(f, params=P):
    q = check_at_rounded_weights(f, slope, params, X)
    stored = q.quantize(params, X)
    assert all(isinstance(leaf, qpass.QTensor) for leaf in leaves(stored))
    return q


def test_a_frozen_weight():
    q = check(lambda p, x: plain(plain(x, lax.stop_gradient(p["a"])), p["b"]))
    slopes = jax.grad(lambda p: q(p, X).sum())(P)
    assert not slopes["a"].any()
    assert slopes["b"].any()


def test_a_weight_frozen_at_one_of_its_products():
    check(lambda p, x: jnp.tanh(plain(plain(x, lax.stop_gradient(p["w"])), p["w"])), {"w": P["a"]})


def test_frozen_in_a_scan():
    def f(p, x):
        def layer(c, w):
            return jnp.tanh(plain(c, lax.stop_gradient(w)) + plain(c, w)), None

        return lax.scan(jax.checkpoint(layer), x, p["w"])[0]

    check(f, {"w": random(2, 8, 8, seed=4)})


def test_frozen_rows_of_a_tied_table():
    def f(p, x):
        return plain(lax.stop_gradient(p["t"])[jnp.arange(4)] * x, p["t"].T)

    check(f, {"t": random(16, 8, seed=5)})


@pytest.mark.parametrize("choose", [jnp.where, lax.select])
def test_columns_frozen_by_a_mask(choose):
    mask = jnp.arange(8) > 3
    everywhere = jnp.broadcast_to(mask, (8, 8))

    def f(p, x):
        w = choose(everywhere, p["a"], lax.stop_gradient(p["a"]))
        return plain(x, w) + plain(x, p["b"])

    q = check(f)
    slopes = jax.grad(lambda p: q(p, X).sum())(P)
    assert slopes["a"].any(axis=0).tolist() == mask.tolist()


def test_a_choice_between_two_values_of_a_weight_is_no_weight():
    def f(p, x):
        w = lax.select(jnp.eye(8) > 0, p["a"], lax.rev(p["a"], (0,)))
        return plain(x, w) + plain(x, p["b"])

    q = qpass.transform(f, qpass.Rule(path="**", weight="int8"))
    roles = [d.site.role for d in q.plan(P, X).decisions]
    assert roles == ["activations", "forward"]
    assert not isinstance(q.quantize(P, X)["a"], qpass.QTensor)


def test_a_named_weight_is_named_for_policies():
    policy = jax.checkpoint_policies.save_only_these_names("read")

    def f(p, x):
        block = jax.checkpoint(
            lambda p, x: jnp.tanh(plain(x, checkpoint_name(p["a"], "read"))), policy=policy
        )
        return plain(block(p, x), p["b"])

    q = check(f)
    assert "name=read" in str(jax.make_jaxpr(q)(q.quantize(P, X), X))
