"""GPTQ: held to the paper in float64, and to what it lowers: the error of products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qpass
from qpass import GPTQ
from qpass.errors import CalibrationError, CallError, QuantizeError, RuleError
from qpass.methods.gptq import BLOCK
from tests.methods.gptq_oracle import gptq
from tests.programs import rules
from tests.test_errors import refused

OLD = tuple(map(int, jax.__version__.split(".")[:2])) < (0, 12)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def correlated(*shape, seed=0):
    """Rows whose channels depend on each other and differ in size, as activations do."""
    k = shape[-1]
    mix = normal(k, k, seed=seed + 100) * jnp.exp(normal(k, seed=seed + 200))
    return normal(*shape, seed=seed) @ (mix + 2 * jnp.eye(k)) / 4


X = correlated(96, 24)
W = normal(24, 10, seed=1)


def lost(q, params, stored, x, fn=None):
    """Error of the products of stored parameters, relative to those of float ones."""
    fn = fn or q.fn
    wanted = fn(params, x)
    return float(jnp.linalg.norm(fn(values(stored), x) - wanted) / jnp.linalg.norm(wanted))


def values(tree):
    def is_tensor(leaf):
        return isinstance(leaf, qpass.QTensor)

    return jax.tree.map(lambda q: q.dequantize() if is_tensor(q) else q, tree, is_leaf=is_tensor)


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("weight", ["int4", "int3 g8"])
def test_the_codes_of_the_paper(weight, act_order):
    """Codes may differ where a quotient lies on a tie in one precision and not in the other."""
    q = qpass.transform(lambda p, x: x @ p["w"], rules(weight))
    method = GPTQ(range=None, act_order=act_order)
    got = q.quantize({"w": W}, method=method, batches=[X[:40], X[40:80]])["w"]
    plain = q.quantize({"w": W}, X)["w"]
    np.testing.assert_array_equal(got.scale, plain.scale)
    blocks = plain.blocks[0]
    scale = np.repeat(np.asarray(plain.plain().scale).reshape(10, -1), blocks, axis=1)
    least, most = plain.qtype.qmin, plain.qtype.qmax
    wanted = gptq(np.asarray(W).T, np.asarray(X[:80]), scale, least, most, act_order=act_order)
    differ = np.abs(np.asarray(got.dequantize()).T - wanted) > 1e-4
    assert differ.mean() < 0.01
    assert np.mean(np.abs(np.asarray(plain.dequantize()).T - wanted) > 1e-4) > 0.1


def test_more_channels_than_a_block():
    """The blocks are an order of work: the result is that of the paper with any number of them."""
    k = BLOCK + 9
    x, w = correlated(400, k, seed=3), normal(k, 4, seed=4)
    q = qpass.transform(lambda p, x: x @ p["w"], rules("int4"))
    got = q.quantize({"w": w}, method=GPTQ(range=None), batches=[x])["w"].dequantize()
    plain = q.quantize({"w": w}, x)["w"]
    scale = np.broadcast_to(np.asarray(plain.plain().scale).reshape(4, 1), (4, k))
    wanted = gptq(np.asarray(w).T, np.asarray(x), scale, -8, 7).T
    assert np.mean(np.abs(got - wanted) > 1e-4) < 0.02


def scanned(p, x):
    def layer(h, w):
        return h + jnp.tanh(jnp.einsum("mk,nk->mn", h, w)), None

    return lax.scan(layer, x, p["w"])[0]


def heads(p, x):
    h = jax.checkpoint(jax.jit(lambda x, w: jnp.einsum("md,dnh->mnh", x, w)))(x, p["a"])
    return jnp.einsum("mnh,nhd->md", h, p["b"])


def experts(p, x):
    x = x[:, : p["w"].shape[1]]
    return lax.ragged_dot(x, p["w"], jnp.asarray([40, 0, len(x) - 40], jnp.int32))


def twice(p, x):
    return jnp.tanh(x @ p["w"]) @ p["w"]


PROGRAMS = {
    "scanned": (scanned, {"w": (3, 24, 24)}),
    "heads": (heads, {"a": (24, 2, 8), "b": (2, 8, 24)}),
    "batched": (lambda p, x: jnp.einsum("emk,ekn->emn", x.reshape(2, -1, 24), p["w"]),
                {"w": (2, 24, 8)}),
    "experts": (experts, {"w": (3, 24, 8)}),
    "slices": (lambda p, x: x @ p["w"][0] + x[:, ::-1] @ p["w"][1][::-1], {"w": (2, 24, 24)}),
}  # fmt: skip


@pytest.mark.parametrize("data", ["batches", "stats"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_it_lowers_the_error_of_programs(name, data):
    fn, shapes = PROGRAMS[name]
    weight = "int4 asym" if data == "stats" else "int3 g8"
    params = {key: normal(*shape, seed=5) / 4 for key, shape in shapes.items()}
    q = qpass.transform(fn, rules(weight))
    if data == "batches":
        given = {"batches": [X] if name in {"experts", "batched"} else [X[:48], X[48:]]}
    else:
        given = {"stats": q.calibrate(params, [X], gather=("hessian",))}
    plain = q.quantize(params, X)
    better = q.quantize(params, X, method=GPTQ(), **given)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), plain, better)
    assert lost(q, params, better, X) < 0.9 * lost(q, params, plain, X)
    np.testing.assert_allclose(jax.jit(q)(better, X), fn(values(better), X), rtol=1e-3, atol=1e-3)


def test_later_products_see_what_quantized_ones_give():
    """The second product's Hessian is that of what the first one gives once it is quantized."""

    def fn(p, x):
        return jnp.tanh(x @ p["a"]) @ p["b"]

    params = {"a": normal(24, 24, seed=6) / 3, "b": normal(24, 8, seed=7)}
    q = qpass.transform(fn, rules("int2"))
    stored = q.quantize(params, method=GPTQ(range=None), batches=[X])
    h = jnp.tanh(X @ values(stored)["a"])
    alone = qpass.transform(lambda p, h: h @ p["b"], rules("int2"))
    wanted = alone.quantize({"b": params["b"]}, method=GPTQ(range=None), batches=[h])
    np.testing.assert_array_equal(stored["b"].dequantize(), wanted["b"].dequantize())
    floats = alone.quantize(
        {"b": params["b"]}, method=GPTQ(range=None), batches=[jnp.tanh(X @ params["a"])]
    )
    assert np.any(floats["b"].dequantize() != wanted["b"].dequantize())


def test_only_the_weights_of_a_path():
    params = {"a": W, "b": normal(10, 6, seed=2)}
    q = qpass.transform(lambda p, x: x @ p["a"] @ p["b"], rules("int3"))
    plain = q.quantize(params, X)
    stored = q.quantize(params, method=GPTQ(path="b"), batches=[X])
    np.testing.assert_array_equal(stored["a"].dequantize(), plain["a"].dequantize())
    assert np.any(stored["b"].dequantize() != plain["b"].dequantize())


def test_channels_that_are_never_used_are_rounded():
    x = X.at[:, 3].set(0)
    q = qpass.transform(lambda p, x: x @ p["w"], rules("int4"))
    got = q.quantize({"w": W}, method=GPTQ(range=None), batches=[x])["w"].dequantize()
    np.testing.assert_array_equal(got[3], q.quantize({"w": W}, x)["w"].dequantize()[3])


def test_small_integers_are_searched_by_importance_where_statistics_are():
    def with_range(word):
        return qpass.transform(lambda p, x: x @ p["w"], rules(f"int4 g8{word}"))

    stats = with_range("").calibrate({"w": W}, [X])
    got, searched = (
        with_range(word).quantize({"w": W}, X, stats=stats)["w"] for word in ("", " wmse")
    )
    np.testing.assert_array_equal(got.dequantize(), searched.dequantize())
    given = with_range(" absmax,0.9")
    np.testing.assert_array_equal(
        given.quantize({"w": W}, X, stats=stats)["w"].scale, given.quantize({"w": W}, X)["w"].scale
    )


def test_what_cannot_be_done():
    q = qpass.transform(lambda p, x: lax.cond(x[0, 0] > 0, lambda: x @ p["w"], lambda: x[:, :10]),
                        rules("int4"))  # fmt: skip
    p = {"w": W}
    refused(QuantizeError, lambda: q.quantize(p, method=GPTQ(), batches=[X]), "cond", "path=")
    q = qpass.transform(lambda p, x: x @ p["w"], rules("int4"))
    refused(CalibrationError, lambda: q.quantize(p, X, method=GPTQ()), "batches=", "hessian")
    refused(CallError, lambda: q.quantize(p, batches=[X]), "method=")
    refused(CallError, lambda: q.quantize(p, method=GPTQ(), batches=[X, X[:5]]), "shape")
    refused(QuantizeError, lambda: q.quantize(p, method=GPTQ(path="v"), batches=[X]), "'v'")
    shared = qpass.transform(twice, rules("int4"))
    square = {"w": normal(24, 24)}
    refused(QuantizeError, lambda: shared.quantize(square, method=GPTQ(), batches=[X]), "several")
    stats = q.calibrate(p, [X])
    refused(CalibrationError, lambda: q.quantize(p, X, method=GPTQ(), stats=stats), "'hessian'")
    stored = q.quantize(p, X)
    refused(QuantizeError, lambda: q.quantize(stored, method=GPTQ(), batches=[X]), "float", "w")
    refused(RuleError, lambda: GPTQ(damp=0), "damp=")
