"""Store: which leaves are stored, and what a read of a leaf has to look like for that."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.programs import normal, rules

RNG = np.random.default_rng(0)


def stored(fn, params, *args, weight="int8"):
    q = qpass.transform(fn, rules(weight, "int8"))
    found = q.quantize(params, *args)
    got = jax.jit(q)(found, *args)
    np.testing.assert_array_equal(got, jax.jit(q)(params, *args))
    wanted = fn(params, *args)
    assert np.linalg.norm(got - wanted) <= 0.2 * np.linalg.norm(wanted)
    return {k for k, leaf in found.items() if isinstance(leaf, qpass.QTensor)}


FOLLOWED = {
    "transposed": lambda w, x: x @ w.T,
    "reshaped": lambda w, x: x @ w.reshape(4, 2, 8).reshape(8, 8),
    "sliced": lambda w, x: x[:, :4] @ w[2:6],
    "a row of layers": lambda w, x: x @ w[None][0],
    "reversed": lambda w, x: x @ w[::-1],
    "broadcast": lambda w, x: (x[None] @ jnp.broadcast_to(w, (3, 8, 8))).sum(0),
    "cast": lambda w, x: (x.astype("bfloat16") @ w.astype("bfloat16")).astype("float32"),
    "squeezed": lambda w, x: x @ jnp.squeeze(w[:, None], 1),
    "dynamic slice": lambda w, x: x[:, :4] @ jax.lax.dynamic_slice(w, (x.shape[0], 0), (4, 8)),
    "stopped gradient": lambda w, x: x @ jax.lax.stop_gradient(w),
    "barrier": lambda w, x: x @ jax.lax.optimization_barrier(w),
    "split into heads": lambda w, x: jnp.einsum("bd,dnh->bnh", x, w.reshape(8, 2, 4)).reshape(2, 8),
    "two equal products": lambda w, x: x @ w + jnp.tanh(x) @ w,
    "inside jit": lambda w, x: jax.jit(lambda w, x: x @ w)(w, x),
    "inside cond": lambda w, x: jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: -x @ w),
    "inside while": lambda w, x: jax.lax.fori_loop(0, 2, lambda _, h: jnp.tanh(h @ w), x),
    "inside remat": lambda w, x: jax.checkpoint(lambda w, x: x @ w)(w, x),
    "inside vmap": lambda w, x: jax.vmap(lambda row: row @ w)(x),
    "custom_jvp": lambda w, x: _custom_jvp(w, x),
    "custom_vjp": lambda w, x: _custom_vjp(w, x),
}


@jax.custom_jvp
def _custom_jvp(w, x):
    return x @ w


_custom_jvp.defjvp(lambda p, t: (_custom_jvp(*p), p[1] @ t[0] + t[1] @ p[0]))


@jax.custom_vjp
def _custom_vjp(w, x):
    return x @ w


_custom_vjp.defvjp(lambda w, x: (x @ w, (w, x)), lambda r, g: (r[1].T @ g, g @ r[0].T))


@pytest.mark.parametrize("read", FOLLOWED.values(), ids=FOLLOWED)
def test_followed(read):
    params, x = {"w": normal(RNG, (8, 8))}, normal(RNG, (2, 8))
    assert stored(lambda p, x: read(p["w"], x), params, x) == {"w"}


GROUPS_FOLLOW = ("transposed", "a row of layers", "cast", "inside while", "two equal products")


@pytest.mark.parametrize("name", GROUPS_FOLLOW)
def test_followed_in_groups(name):
    params, x = {"w": normal(RNG, (8, 8))}, normal(RNG, (2, 8))
    read = FOLLOWED[name]
    assert stored(lambda p, x: read(p["w"], x), params, x, weight=qpass.int4.grouped(4)) == {"w"}


NOT_FOLLOWED = {
    "groups cut apart by a slice": (lambda w, x: x[:, :4] @ w[2:6], qpass.int8.grouped(4)),
    "a column look-up": (lambda w, x: x @ w + w[:, jnp.array([1, 2])].sum(), "int8"),
}


@pytest.mark.parametrize(("read", "weight"), NOT_FOLLOWED.values(), ids=NOT_FOLLOWED)
def test_not_followed(read, weight):
    params, x = {"w": normal(RNG, (8, 8))}, normal(RNG, (2, 8))
    q = qpass.transform(lambda p, x: read(p["w"], x), rules(weight), strict=False)
    plan = q.plan(params, x)
    assert q.quantize(params, x)["w"] is params["w"]
    for decision in plan.decisions:
        assert bool(decision.reason) or "quantized on every call" in decision.notes[0]


def test_a_look_up_shares_the_leaf_with_a_product():
    def fn(p, ids):
        h = jnp.take(p["e"], ids, axis=0, mode="clip")
        return jnp.tanh(h) @ p["e"].T

    params, ids = {"e": normal(RNG, (16, 8))}, jnp.array([[1, 5], [0, 15]])
    assert stored(fn, params, ids) == {"e"}


def test_a_look_up_out_of_range_is_nan_as_in_float():
    def fn(p, ids):
        return jnp.take(p["e"], ids, axis=0) @ p["e"].T

    params, ids = {"e": normal(RNG, (16, 8))}, jnp.array([1, 99])
    q = qpass.transform(fn, rules("int8"))
    for got in (q(params, ids), q(q.quantize(params, ids), ids)):
        assert np.isfinite(got[0]).all()
        assert np.isnan(got[1]).all()


def test_a_derivative_rule_that_calls_its_own_function_is_followed_to_the_second_order():
    params, x = {"w": normal(RNG, (8, 8))}, normal(RNG, (2, 8))
    q = qpass.transform(lambda p, x: jnp.sin(_custom_jvp(p["w"], x)).sum(), rules("int8"))
    assert len(q.plan(params, x).rows) < 12
    hvp = jax.jvp(jax.grad(q), (params, x), (params, x))[1]["w"]
    plain = qpass.transform(lambda p, x: jnp.sin(x @ p["w"]).sum(), rules("int8"))
    wanted = jax.jvp(jax.grad(plain), (params, x), (params, x))[1]["w"]
    np.testing.assert_allclose(hvp, wanted, rtol=1e-3, atol=1e-3)
