"""Gradients are straight-through: those of a float product of the values that the forward used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.ops.test_values import real, sample
from tests.programs import CASES, rules

W8, A8 = qpass.int8.per_channel(), qpass.int8.per_channel()
SCHEMES = {
    "w8": (W8, None),
    "w8a8": (W8, A8),
    "w4 g16": (qpass.int4.grouped(16), None),
    "w4 g16 a8": (qpass.int4.grouped(16), A8),
    "fp8": (qpass.fp8_e4m3.per_channel(), qpass.fp8_e4m3.per_channel()),
}


def weighted(p, x, g):
    """A loss whose cotangent at the product is ``g``."""
    return jnp.sum((x @ p["w"]) * g)


def operands():
    x, w, g = sample(3, 40), sample(40, 12, seed=1), sample(3, 12, seed=2)
    return {"w": jnp.asarray(w)}, jnp.asarray(x), jnp.asarray(g)


def closed_form(weight, act, params, x, g):
    """``(dw, dx)``: dlhs = g @ q(w)^T and drhs = q(x)^T @ g, in float64."""
    name = weight.qtype.name
    wq = real(np.ascontiguousarray(params["w"].T), weight, name).T
    xq = real(np.asarray(x), act, act.qtype.name if act else "")
    return xq.T @ np.float64(g), np.float64(g) @ wq.T


def close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(("weight", "act"), SCHEMES.values(), ids=SCHEMES)
def test_closed_form(weight, act):
    params, x, g = operands()
    q = qpass.transform(weighted, rules(weight, act))
    dp, dx = jax.jit(jax.grad(q, argnums=(0, 1)))(params, x, g)
    dw_wanted, dx_wanted = closed_form(weight, act, params, x, g)
    close(dp["w"], dw_wanted)
    close(dx, dx_wanted)


def test_backward_products_that_the_function_holds_itself_stay_float():
    """`transform(grad(f))` sees them as sites; `grad(transform(f))` derives its own."""
    params, x, g = operands()
    q = qpass.transform(jax.grad(weighted), rules(W8, A8))
    roles = {d.site.role: d for d in q.plan(params, x, g).decisions}
    assert roles["drhs"].action is None
    close(q(params, x, g)["w"], np.float64(x).T @ np.float64(g))


@pytest.mark.parametrize("name", ["chain", "scanned", "batched", "several axes", "transposed"])
def test_every_gradient_is_near_that_of_float(name):
    case = CASES[name]
    params, x = case.arguments()

    def loss(fn):
        return lambda p, x: jnp.sum(jnp.sin(fn(p, x)))

    q = qpass.transform(case.fn, rules("int8", "int8"))
    got = jax.grad(loss(q), argnums=(0, 1))(params, x)
    wanted = jax.grad(loss(case.fn), argnums=(0, 1))(params, x)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert np.linalg.norm(a - b) < 0.35 * np.linalg.norm(b)
        assert np.linalg.norm(a) > 0.5 * np.linalg.norm(b)


def test_under_scan_remat_and_vmap():
    """One function differentiated in four ways gives one gradient."""
    params, x, g = operands()
    q = qpass.transform(weighted, rules(W8, A8))
    wanted, _ = closed_form(W8, A8, params, x, g)
    close(jax.grad(jax.checkpoint(q))(params, x, g)["w"], wanted)

    def total(p):
        return jax.lax.scan(lambda c, _: (c + q(p, x, g), None), 0.0, None, length=3)[0]

    close(jax.grad(total)(params)["w"], 3 * wanted)
    stacked = jnp.stack([x, 2 * x]), jnp.stack([g, 3 * g])
    per_example = jax.vmap(jax.grad(q), in_axes=(None, 0, 0))(params, *stacked)
    close(per_example["w"][0], wanted)
    close(per_example["w"][1], 6 * wanted)


def test_a_layer_inside_scan_and_remat_of_the_function_itself():
    def fn(p, x):
        @jax.checkpoint
        def layer(h, w):
            return jnp.sin(h @ w), None

        return jnp.sum(jax.lax.scan(layer, x, p["w"])[0])

    params, x = CASES["scanned"].arguments()
    plain = qpass.transform(lambda p, x: jnp.sum(jnp.sin(unrolled(p, x))), rules(W8, A8))

    def unrolled(p, x):
        for i in range(2):
            x = jnp.sin(x @ p["w"][i])
        return x @ p["w"][2]

    got = jax.jit(jax.grad(qpass.transform(fn, rules(W8, A8))))(params, x)
    close(got["w"], np.asarray(jax.grad(plain)(params, x)["w"], np.float64))


def test_jvp_is_the_straight_through_tangent():
    params, x, _ = operands()
    q = qpass.transform(lambda p, x: x @ p["w"], rules(W8, A8))
    dp, dx = jax.tree.map(lambda a: jnp.cos(a), (params, x))
    _, tangent = jax.jvp(q, (params, x), (dp, dx))
    wq = real(np.ascontiguousarray(params["w"].T), W8, "int8").T
    xq = real(np.asarray(x), A8, "int8")
    close(tangent, np.float64(dx) @ wq + xq @ np.float64(dp["w"]))


def test_hessian_vector_products_run():
    params, x = CASES["chain"].arguments()
    q = qpass.transform(CASES["chain"].fn, rules(W8, A8))
    loss = lambda p: jnp.sum(jnp.sin(q(p, x)))  # noqa: E731
    direction = jax.tree.map(jnp.ones_like, params)
    forward_over_reverse = jax.jvp(jax.grad(loss), (params,), (direction,))[1]
    reverse_over_reverse = jax.grad(
        lambda p: sum(jnp.sum(a) for a in jax.tree.leaves(jax.grad(loss)(p)))
    )(params)
    for a, b in zip(
        jax.tree.leaves(forward_over_reverse), jax.tree.leaves(reverse_over_reverse), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_gradients_pass_to_inputs_of_stored_weights():
    params, x, g = operands()
    q = qpass.transform(weighted, rules(W8, A8))
    qparams = q.quantize(params, x, g)
    close(jax.grad(q, argnums=1)(qparams, x, g), closed_form(W8, A8, params, x, g)[1])


def test_gradients_of_gathered_rows_reach_the_table():
    case = CASES["tied"]
    params, ids = case.arguments()
    q = qpass.transform(case.fn, rules("int8", "int8"))
    loss = lambda fn: lambda p: jnp.sum(jnp.sin(fn(p, ids)))  # noqa: E731
    got, wanted = (jax.grad(loss(f))(params)["emb"] for f in (q, case.fn))
    assert np.linalg.norm(got - wanted) < 0.35 * np.linalg.norm(wanted)
