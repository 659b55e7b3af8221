"""Types of numbers: some cannot be quantized and are left alone with a reason; the rest stay."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qpass
from tests.jaxprs import equations
from tests.rewriting.dequantized import W8, check_at_rounded_weights, unchanged
from tests.rewriting.oracle import INT8, close, compiled, plain, quantized, random

W = random(8, 8, seed=1)
X = random(4, 8, seed=3)


def product(p, x):
    return lax.dot_general(x, p, (((1,), (0,)), ((), ())), preferred_element_type=accumulator(p, x))


def accumulator(p, x):
    return jnp.int32 if jnp.issubdtype(p.dtype, jnp.integer) else None


def wide(p, x):
    return lax.dot_general(x, p, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)


LEFT_ALONE = {
    "complex": (jnp.matmul, W + 1j * W, X + 1j * X, "complex product (complex64 x complex64)"),
    "complex weight": (jnp.matmul, W + 1j * W, X, "complex product (float32 x complex64)"),
    "int32": (product, jnp.ones((8, 8), int), jnp.ones((4, 8), int), "integer product"),
    "int4": (product, jnp.ones((8, 8), jnp.int4), jnp.ones((4, 8), jnp.int8), "integer product"),
    "bool": (jnp.matmul, W > 0, X > 0, "integer product (bool x bool)"),
    "integer weight": (wide, jnp.ones((8, 8), jnp.int8), X, "integer product (float32 x int8)"),
    "fp8": (
        wide,
        W.astype(jnp.float8_e4m3fn),
        X.astype(jnp.float8_e4m3fn),
        "unsupported dtypes (float8_e4m3fn x float8_e4m3fn -> float32)",
    ),
}


@pytest.mark.parametrize(("fn", "w", "x", "reason"), LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_left_alone_with_a_reason(fn, w, x, reason):
    def f(p, x):
        return fn(p, x) if fn is not jnp.matmul else x @ p

    check_left_alone(f, w, x, reason)


def check_left_alone(f, w, x, reason):
    q = qpass.transform(f, INT8, strict=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "rule 0", UserWarning)
        got = q(w, x)
    assert (got.dtype, got.tolist()) == (f(w, x).dtype, f(w, x).tolist())
    (decision,) = q.plan(w, x).decisions
    assert decision.action is None
    assert reason in decision.reason


def test_float64():
    with jax.enable_x64(True):
        check_left_alone(
            lambda p, x: x @ p,
            np.asarray(W, np.float64),
            np.asarray(X, np.float64),
            "unsupported dtypes (float64 x float64 -> float64)",
        )


def test_float32_products_where_64_bits_are_on():
    def f(p, x):
        y, sums = lax.scan(lambda c, w: (jnp.tanh(plain(c, w)), c.sum()), x, p)
        return y * jnp.arange(8), sums

    with jax.enable_x64(True):
        check_at_rounded_weights(f, unchanged, jnp.stack([W, W.T]), X)


@pytest.mark.parametrize(
    ("w", "x"), [("float16", "float16"), ("float32", "bfloat16"), ("float16", "bfloat16")]
)
def test_narrow_and_mixed_types_stay(w, x):
    def f(p, x):
        return jnp.einsum("td,df->tf", x, p), wide(p, x)

    p, x = W.astype(w), X.astype(x)
    q = qpass.transform(f, INT8)
    wanted = quantized(X.astype(x.dtype).astype(jnp.float32), p.astype(jnp.float32))
    for got, original in zip(compiled(q)(p, x), jax.eval_shape(f, p, x), strict=True):
        assert got.dtype == original.dtype
        close(got.astype(jnp.float32), wanted, 0.01)
    slope = jax.grad(lambda p, x: sum(a.astype(jnp.float32).sum() for a in q(p, x)), (0, 1))
    assert [a.dtype for a in jax.eval_shape(slope, p, x)] == [p.dtype, x.dtype]


@pytest.mark.parametrize("out", ["bfloat16", "float32"])
@pytest.mark.parametrize("rule", [W8, INT8], ids=["weight-only", "both"])
def test_the_preferred_type_of_the_result(out, rule):
    def f(p, x):
        return lax.dot_general(x, p, (((1,), (0,)), ((), ())), preferred_element_type=out)

    p, x = W.astype(jnp.bfloat16), X.astype(jnp.bfloat16)
    got = qpass.transform(f, rule)(p, x)
    assert got.dtype == out
    narrow = got.astype(jnp.bfloat16).astype(got.dtype)
    assert bool((got == narrow).all()) == (out == "bfloat16")  # not rounded on the way


PRECISIONS = {
    "default": "default",
    "high": "high",
    "highest": "highest",
    "pair": (lax.Precision.HIGHEST, lax.Precision.DEFAULT),
    "algorithm": lax.DotAlgorithmPreset.BF16_BF16_F32,
}


@pytest.mark.parametrize("asked", PRECISIONS.values(), ids=PRECISIONS)
def test_products_for_gradients_have_the_precision_asked_for(asked):
    def f(p, x):
        return lax.dot_general(x, p, (((1,), (0,)), ((), ())), precision=asked)

    def precisions(fn):
        program = jax.make_jaxpr(jax.grad(lambda p, x: fn(p, x).sum(), (0, 1)))(W, X)
        dots = [e for e in equations(program) if e.primitive.name == "dot_general"]
        return [e.params["precision"] for e in dots]

    backward = precisions(qpass.transform(f, INT8))
    assert backward == precisions(f)[1:]
    assert len(backward) == 2
    assert all(precision is not None for precision in backward)


def test_weak_types_and_python_numbers():
    def f(p, x, s):
        return plain(x, p) * s, s, s + 1

    q = qpass.transform(f, INT8)
    for given in (2.0, 2, True, np.float32(2), np.array(2), jnp.asarray(2.0)):
        got, wanted = q(W, X, given), f(W, X, given)
        assert [jnp.result_type(a) for a in got] == [jnp.result_type(a) for a in wanted]
        assert [_is_weak(a) for a in got] == [_is_weak(a) for a in wanted]
        close(got[0], quantized(X, W) * given)
    low = W.astype(jnp.bfloat16), X.astype(jnp.bfloat16)
    assert q(*low, 2.0)[0].dtype == jnp.bfloat16


def _is_weak(value):
    return getattr(value, "weak_type", isinstance(value, int | float))


def test_numpy_arrays():
    q = qpass.transform(lambda p, x: plain(x, p), INT8)
    w, x = np.asarray(W), np.asarray(X)
    wanted = quantized(X, W)
    for run in (q, jax.jit(q)):
        close(run(w, x), wanted)
        close(run(w.astype(np.float64), x.astype(np.float64)), wanted)
    close(q(q.quantize(w, x), x), wanted)


def test_empty_and_scalar_operands():
    def f(p, x):
        return x[:0] @ p["w"], x[0] @ p["w"], x[0] @ p["w"][:, 0], p["s"] * x, x[:, :0] @ p["w"][:0]

    params = {"w": W, "s": jnp.float32(2)}
    q = qpass.transform(f, W8)
    got, original = q(params, X), f(params, X)
    assert [a.shape for a in got] == [a.shape for a in original]
    close(got, original, 0.02)
    reasons = [d.reason for d in q.plan(params, X).decisions]
    assert reasons == ["empty product", "", "", "empty product"]


def test_strict_promotion():
    q = qpass.transform(lambda p, x: jnp.tanh(plain(x, p)), INT8)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        w, x = W.astype(jnp.bfloat16), X.astype(jnp.bfloat16)
        stored = jax.eval_shape(q.quantize, w, x)
        assert jax.eval_shape(q, stored, x).dtype == jnp.bfloat16
        slope = jax.grad(lambda w: q(w, x).sum().astype(jnp.float32))
        assert jax.eval_shape(slope, w).dtype == jnp.bfloat16


def test_the_words_of_a_refusal_name_what_is_supported():
    q = qpass.transform(wide, INT8)
    with pytest.raises(qpass.RuleError, match=re.escape("supported are float32, bfloat16")):
        q(W.astype(jnp.float8_e5m2), X.astype(jnp.float8_e5m2))
