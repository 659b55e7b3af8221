"""Sub-programs that qpass does not look into: left as they are, and listed with the reason."""

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.custom_partitioning import custom_partitioning
from jax.interpreters import mlir

import qpass
from tests.rewriting.oracle import INT8, close, plain, quantized, random

W = {"a": random(8, 8, seed=1), "b": random(8, 8, seed=2)}
X = random(4, 8, seed=3)


def transformed(call):
    """A quantized product, then ``call``, whose product is out of reach."""
    return qpass.transform(lambda p, x: call(plain(x, p["a"]), p["b"]), INT8)


def opaque(q):
    return [(row.op, row.reason) for row in q.plan(W, X).rows if row.role == "opaque"]


def check_left_alone(call, name, reason="is opaque"):
    q = transformed(call)
    for run in (q, jax.jit(q)):
        close(run(W, X), plain(quantized(X, W["a"]), W["b"]), 1e-5)
    ((op, why),) = opaque(q)
    assert op == name
    assert reason in why


def test_pallas_call():
    def kernel(x, w, out):
        out[...] = jnp.dot(x[...], w[...])

    def call(x, w):
        shape = jax.ShapeDtypeStruct((4, 8), jnp.float32)
        return pl.pallas_call(kernel, out_shape=shape, interpret=True)(x, w)

    check_left_alone(call, "pallas_call")


def test_a_kernel_without_products_is_not_listed():
    def kernel(x, out):
        out[...] = x[...] * 2

    def call(x, w):
        return pl.pallas_call(
            kernel, out_shape=jax.ShapeDtypeStruct((4, 8), jnp.float32), interpret=True
        )(x)

    assert opaque(transformed(call)) == []


unknown_p = jex.Primitive("unknown_call")
unknown_p.multiple_results = True
unknown_p.def_impl(lambda *args, body: jax.core.eval_jaxpr(body, body.consts, *args))
unknown_p.def_abstract_eval(lambda *avals, body: body.out_avals)
mlir.register_lowering(
    unknown_p,
    mlir.lower_fun(
        lambda *args, body: jax.core.eval_jaxpr(body, body.consts, *args), multiple_results=True
    ),
)


def test_an_unknown_primitive_with_a_sub_program():
    def call(x, w):
        body = jax.make_jaxpr(plain)(x, w)
        return unknown_p.bind(x, w, body=body)[0]

    check_left_alone(call, "unknown_call")


def test_custom_partitioning():
    @custom_partitioning
    def call(x, w):
        return plain(x, w)

    call.def_partition(
        partition=lambda *a: None,
        infer_sharding_from_operands=lambda *a: None,
        sharding_rule="i k, k j -> i j",
    )
    check_left_alone(call, "custom_partitioning")


def test_composite():
    check_left_alone(lax.composite(plain, name="my.product"), "composite")


def test_linear_call():
    def call(x, w):
        return jax.custom_derivatives.linear_call(
            lambda w, x: plain(x, w), lambda w, g: plain(g, w.T), w, x
        )

    check_left_alone(call, "linear_call")


@pytest.mark.parametrize("flag", ["jax_custom_vjp3", "jax_remat3"])
def test_primitives_that_hide_their_program(flag):
    if not hasattr(jax.config, flag):
        pytest.skip(f"this jax has no {flag}")
    before = getattr(jax.config, flag)
    jax.config.update(flag, True)
    try:
        if flag == "jax_custom_vjp3":
            call = jax.custom_vjp(plain)
            call.defvjp(lambda x, w: (plain(x, w), w), lambda w, g: (plain(g, w.T), w))
        else:
            call = jax.checkpoint(plain)
        check_left_alone(call, "call_hi_primitive", "hides its program")
    finally:
        jax.config.update(flag, before)


def test_a_weight_read_by_an_opaque_body_is_not_stored():
    def kernel(x, w, out):
        out[...] = jnp.dot(x[...], w[...])

    def f(p, x):
        shape = jax.ShapeDtypeStruct((4, 8), jnp.float32)
        return pl.pallas_call(kernel, out_shape=shape, interpret=True)(plain(x, p["a"]), p["a"])

    q = qpass.transform(f, INT8)
    assert isinstance(q.quantize(W, X)["a"], jax.Array)
    (decision,) = q.plan(W, X).decisions
    assert "also read by pallas_call" in decision.notes[0]
