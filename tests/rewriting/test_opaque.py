"""Sub-programs that qpass does not look into: left as they are, and listed with the reason."""

import jax
import jax.export
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import io_callback
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
    return [row for row in q.plan(W, X).rows if row.role == "opaque"]


def check_left_alone(call, name, reason="is opaque"):
    q = transformed(call)
    for run in (q, jax.jit(q)):
        close(run(W, X), plain(quantized(X, W["a"]), W["b"]), 1e-5)
    check_named(q, name, reason)


def check_named(q, name, reason):
    """The plan has a row with a line of this file, and says so once more below the table."""
    (row,) = opaque(q)
    assert row.op == name
    assert reason in row.reason
    assert row.source.startswith("test_opaque.py:")
    assert any("b" in text for text in row.operands_from)
    (finding,) = q.plan(W, X).findings
    assert finding.startswith("1 sub-program cannot be looked into; products inside stay")
    assert f"{name} at {row.source}" in finding


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


def test_an_exported_program():
    exported = jax.export.export(jax.jit(plain))(X, W["b"])
    check_left_alone(exported.call, "call_exported", "runs a program that was exported")
    inside = transformed(
        lambda x, w: lax.scan(lambda c, _: (exported.call(c, w), None), x, None, 2)[0]
    )
    check_named(inside, "call_exported", "runs a program that was exported")
    assert opaque(inside)[0].count == 2


def test_python_on_the_host_that_gives_numbers_back():
    def call(x, w):
        shape = jax.ShapeDtypeStruct((4, 8), jnp.float32)
        return jax.pure_callback(lambda x, w: np.asarray(x) @ np.asarray(w), shape, x, w)

    check_left_alone(call, "pure_callback", "runs Python on the host")

    def watch(x, w):
        jax.debug.print("{}", w[0, 0])
        io_callback(lambda x: None, None, x)
        return x * 2

    assert opaque(transformed(watch)) == []


def test_foreign_code():
    def call(x, w):
        return jax.ffi.ffi_call("nowhere", jax.ShapeDtypeStruct((4, 8), jnp.float32))(x, w)

    check_named(transformed(call), "ffi_call", "runs foreign code")


def test_a_primitive_of_somebody_else():
    def primitive(result):
        made = jex.Primitive("mine")
        made.def_abstract_eval(lambda *avals: jax.core.ShapedArray((4, 8), result))
        return made

    product = transformed(lambda x, w: primitive(jnp.float32).bind(x, w))
    check_named(product, "mine", "is no primitive of JAX's own")
    assert opaque(transformed(lambda x, w: primitive(jnp.int32).bind(x, w))) == []
    assert opaque(transformed(lambda x, w: primitive(jnp.float32).bind(x, w[0]))) == []


def many(x, w):
    """Operations of JAX's own on several matrices, none of which is a product."""
    y = jnp.concatenate([x, w, x]) + jnp.where(x[0] > 0, w, w.T)[:1]
    y = lax.clamp(y * 0.5, y, y * 2.0) + jnp.linalg.cholesky(w @ w.T)[:1]
    y = y + jax.scipy.linalg.solve_triangular(w, w)[:1] + jnp.linalg.qr(w)[0][:1]
    y = lax.dynamic_update_slice(y, x, (0, 0)).at[1].set(w[0]) + jax.scipy.special.betainc(y, y, y)
    return lax.optimization_barrier((jnp.arctan2(y, y), jnp.sort(y), lax.reduce_max(y, (0,))))


def test_what_jax_has_itself_is_known():
    assert opaque(transformed(many)) == []


def test_a_derivative_rule_that_cannot_be_traced():
    def forward(x, w):
        raise ValueError("not today")

    call = jax.custom_vjp(plain)
    call.defvjp(forward, lambda residuals, g: (g, g))
    plan = qpass.transform(lambda p, x: call(x, p["b"]), INT8, strict=False).plan
    with pytest.warns(UserWarning, match="cannot be traced: ValueError: not today"):
        (finding,) = plan(W, X).findings
    assert "1 sub-program cannot be looked into" in finding
    assert "cannot be traced: ValueError: not today (custom_vjp_call at test_opaque.py:" in finding


def test_many_are_counted():
    exported = jax.export.export(jax.jit(plain))(X, W["b"])

    def call(x, w):
        for _ in range(3):
            x = exported.call(x, w)
        return exported.call(x, w)

    (finding,) = transformed(call).plan(W, X).findings
    assert finding.startswith("4 sub-programs cannot be looked into")
    assert "(×3)" in finding


def test_what_is_quantized_already_is_no_finding():
    inner = qpass.transform(lambda p, x: plain(x, p["a"]), INT8)
    plan = qpass.transform(lambda p, x: plain(inner(p, x), p["b"]), INT8, strict=False).plan(W, X)
    assert any("quantized already" in row.reason for row in plan.rows)
    assert not any("looked into" in text for text in plan.findings)


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
