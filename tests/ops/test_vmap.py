"""`vmap` of a transformed function equals a Python loop: over inputs, over weights, over both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.programs import CASES, TYPES, rules

AXES = {"inputs": (None, 0), "weights": (0, None), "both": (0, 0)}
INT_SCHEMES = [("int8", "int8"), (qpass.int4, "int8"), (qpass.int4, qpass.int4)]


def stacked(case, in_axes, n=3):
    """Arguments with a leading axis where they are mapped."""
    found = [case.arguments(seed=k) for k in range(n)]
    whole = [jax.tree.map(lambda *a: jnp.stack(a), *args) for args in zip(*found, strict=True)]
    return [a if axis == 0 else one for a, one, axis in zip(whole, found[0], in_axes, strict=True)]


def looped(fn, args, in_axes, n=3):
    def pick(k):
        return [
            jax.tree.map(lambda a: a[k], arg) if axis == 0 else arg
            for arg, axis in zip(args, in_axes, strict=True)
        ]

    return np.stack([fn(*pick(k)) for k in range(n)])


@pytest.mark.parametrize(("weight", "act"), INT_SCHEMES, ids=str)
@pytest.mark.parametrize("in_axes", AXES.values(), ids=AXES)
def test_integer_products_are_exact(weight, act, in_axes):
    case = CASES["matmul"]
    args = stacked(case, in_axes)
    q = jax.jit(qpass.transform(case.fn, rules(weight, act)))
    got = jax.jit(jax.vmap(q, in_axes))(*args)
    np.testing.assert_array_equal(got, looped(q, args, in_axes))


@pytest.mark.parametrize("qtype", TYPES, ids=str)
@pytest.mark.parametrize("in_axes", AXES.values(), ids=AXES)
def test_other_products_differ_by_the_order_of_sums(qtype, in_axes):
    case = CASES["matmul"]
    args = stacked(case, in_axes)
    q = jax.jit(qpass.transform(case.fn, rules(qtype.grouped(16))))
    got = jax.vmap(q, in_axes)(*args)
    np.testing.assert_allclose(got, looped(q, args, in_axes), rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("name", ["batched", "weight left", "scanned", "tied"])
def test_other_programs(name):
    case = CASES[name]
    for in_axes in AXES.values():
        args = stacked(case, in_axes)
        q = jax.jit(qpass.transform(case.fn, rules("int8", "int8")))
        got = jax.vmap(q, in_axes)(*args)
        np.testing.assert_allclose(got, looped(q, args, in_axes), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("in_axes", AXES.values(), ids=AXES)
def test_stored_weights(in_axes):
    """QTensors with a mapped leading axis: made by `vmap` of `quantize`."""
    case = CASES["matmul"]
    args = stacked(case, in_axes)
    q = qpass.transform(case.fn, rules("int8", "int8"))
    params, x = args
    one = x if in_axes[1] is None else x[0]
    quantize = lambda p: q.quantize(p, one)  # noqa: E731
    qparams = jax.vmap(quantize)(params) if in_axes[0] == 0 else quantize(params)
    got = jax.jit(jax.vmap(q, in_axes))(qparams, x)
    np.testing.assert_array_equal(got, jax.jit(jax.vmap(q, in_axes))(*args))


def test_an_axis_that_is_not_the_first():
    case = CASES["matmul"]
    params, x = stacked(case, (0, 0))
    q = jax.jit(qpass.transform(case.fn, rules("int8", "int8")))
    moved = {"w": jnp.moveaxis(params["w"], 0, 2)}, jnp.moveaxis(x, 0, 1)
    got = jax.vmap(q, ({"w": 2}, 1), 1)(*moved)
    np.testing.assert_array_equal(jnp.moveaxis(got, 1, 0), looped(q, (params, x), (0, 0)))


def test_vmap_inside_of_the_function():
    """The function maps itself: the product gets a batch axis, each weight its own scales."""

    def fn(p, x):
        return jax.vmap(lambda w, x: x @ w)(p["w"], x)

    case = CASES["batched"]
    params, x = case.arguments()
    q = qpass.transform(fn, rules("int8", "int8"))
    assert q.quantize(params, x)["w"].scale.size == 3 * 12
    wanted = qpass.transform(case.fn, rules("int8", "int8"))(params, x)
    np.testing.assert_array_equal(q(params, x), wanted)
