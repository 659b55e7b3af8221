"""`quantize`: the same tree with codes for floats: bytes, dtypes, memory, inputs."""

import dataclasses
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.helpers import is_qtensor
from tests.programs import CASES, rules

W8 = qpass.int8.per_channel()
CHAIN = CASES["chain"]


def quantized(fn, params, *args, weight="int8", act=None, **options):
    return qpass.transform(fn, rules(weight, act), **options).quantize(params, *args)


def structure(tree):
    """Paths and order of the leaves, a QTensor being one."""
    return [path for path, _ in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_qtensor)[0]]


def test_the_tree_keeps_its_structure_paths_and_other_leaves():
    params, x = CHAIN.arguments()
    nested = {"b": (params["up"], [params["bias"]]), "a": {"down": params["down"]}, "unused": x}

    def fn(p, x):
        (up, (bias,)), down = p["b"], p["a"]["down"]
        return jnp.tanh(x @ up + bias) @ down

    q = quantized(fn, nested, x)
    assert structure(q) == structure(nested)
    assert type(q["b"]) is tuple
    assert is_qtensor(q["b"][0])
    assert is_qtensor(q["a"]["down"])
    assert q["b"][1][0] is nested["b"][1][0]
    assert q["unused"] is nested["unused"]


def test_a_qtensor_knows_the_float_leaf():
    params, x = CHAIN.arguments("bfloat16")
    q = quantized(CHAIN.fn, params, x)
    for name in ("up", "down"):
        assert (q[name].shape, q[name].dtype) == (params[name].shape, jnp.bfloat16)
        assert q[name].latent is None
        assert q[name].dequantize().dtype == jnp.bfloat16
        off = np.abs(np.float32(q[name].dequantize()) - np.float32(params[name])).max()
        assert off < 0.03


@pytest.mark.parametrize(
    ("weight", "ratio"), [(W8, 0.30), (qpass.int4.grouped(32), 0.20)], ids=["int8", "int4 g32"]
)
def test_bytes_of_real_buffers(weight, ratio):
    """Counted by the runtime: an int4 array holds two codes to a byte."""
    params = {"w": jnp.ones((512, 384))}
    q = quantized(CASES["matmul"].fn, params, jnp.ones((1, 512)), weight=weight)["w"]
    held = sum(a.on_device_size_in_bytes() for a in (q.codes, q.scale))
    assert held <= ratio * params["w"].nbytes
    assert held == q.nbytes == qpass.tree_nbytes(q)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), q)
    assert qpass.tree_nbytes(shapes) == held


@pytest.mark.parametrize(
    "weight", [W8, qpass.int4.grouped(16), qpass.fp8_e4m3.per_tensor()], ids=str
)
def test_codes_are_the_same_eagerly_and_under_jit(weight):
    params, x = CHAIN.arguments("bfloat16")
    q = qpass.transform(CHAIN.fn, rules(weight))
    eager, jitted = q.quantize(params, x), jax.jit(q.quantize)(params, x)
    assert jax.tree.structure(eager) == jax.tree.structure(jitted)
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


def test_abstract_parameters():
    params, x = CHAIN.arguments()
    q = qpass.transform(CHAIN.fn, rules("int8"))
    concrete = q.quantize(params, x)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (params, x))
    for found in (q.quantize(*shapes), jax.eval_shape(q.quantize, params, x)):
        assert jax.tree.structure(found) == jax.tree.structure(concrete)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(concrete), strict=True):
            assert isinstance(a, jax.ShapeDtypeStruct)
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert jax.eval_shape(q, q.quantize(*shapes), shapes[1]).shape == x.shape


def test_numpy_leaves():
    params, x = jax.tree.map(np.asarray, CHAIN.arguments())
    q = quantized(CHAIN.fn, params, x)
    assert is_qtensor(q["up"])
    np.testing.assert_array_equal(
        q["up"].codes, quantized(CHAIN.fn, *CHAIN.arguments())["up"].codes
    )


def test_quantizing_twice_changes_nothing():
    params, x = CHAIN.arguments()
    q = qpass.transform(CHAIN.fn, rules("int8"))
    once = q.quantize(params, x)
    twice = q.quantize(once, x)
    assert once["up"] is twice["up"]


@pytest.mark.parametrize("which", [1, "weights", lambda path: path.startswith("weights/")])
def test_parameters_by_position_name_or_path(which):
    def fn(x, weights):
        return x @ weights["w"]

    params, x = {"w": jnp.ones((8, 4))}, jnp.ones((2, 8))
    q = qpass.transform(fn, rules("int8"), params=which)
    assert is_qtensor(q.quantize(x, params)["w"])
    assert is_qtensor(q.quantize(x, weights=params)["w"]) or which == 1
    np.testing.assert_allclose(q(x, q.quantize(x, params)), 8, rtol=1e-6)


def test_parameters_by_keyword():
    def fn(x, *, weights):
        return x @ weights["w"]

    params, x = {"w": jnp.ones((8, 4))}, jnp.ones((2, 8))
    q = qpass.transform(fn, rules("int8"), params="weights")
    qparams = q.quantize(x, weights=params)
    assert is_qtensor(qparams["w"])
    np.testing.assert_allclose(q(x, weights=qparams), 8, rtol=1e-6)


def test_parameters_in_several_arguments():
    def fn(encoder, decoder, x):
        return x @ encoder["w"] @ decoder["w"]

    up, down, x = {"w": jnp.ones((8, 4))}, {"w": jnp.ones((4, 8))}, jnp.ones((2, 8))
    q = qpass.transform(fn, rules("int8"), params=lambda path: path.endswith("/w"))
    first, second = q.quantize(up, down, x)
    assert is_qtensor(first["w"])
    assert is_qtensor(second["w"])
    np.testing.assert_allclose(q(first, second, x), 32, rtol=1e-6)


def test_a_bare_array_is_a_parameter():
    q = qpass.transform(lambda w, x: x @ w, rules("int8", path="w"))
    assert is_qtensor(q.quantize(jnp.ones((8, 4)), jnp.ones((2, 8))))


@dataclasses.dataclass(frozen=True)
class Config:
    scale: float
    name: str = "plain"


def test_arguments_that_are_no_arrays_need_no_ceremony():
    def fn(p, x, mode, flag, none, number, activation, config, sizes=(1, 2)):
        assert isinstance(flag, bool)
        assert isinstance(number, int)
        assert none is None
        assert mode == "wide"
        assert sizes == (1, 2)
        y = activation(x @ p["w"]) * number * config.scale
        return y if flag else -y

    p, x = {"w": jnp.ones((8, 4)), "kind": "dense"}, jnp.ones((2, 8))
    q = qpass.transform(fn, rules("int8"))
    rest = (x, "wide", True, None, 2, jnp.tanh, Config(0.5))
    qparams = q.quantize(p, *rest)
    assert qparams["kind"] == "dense"
    np.testing.assert_allclose(q(qparams, *rest), np.tanh(8), rtol=1e-6)
    np.testing.assert_allclose(q(p, x, "wide", False, *rest[3:]), -np.tanh(8), rtol=1e-6)


def test_qtensors_are_ordinary_subtrees():
    """What a checkpoint library does: map over arrays, flatten, unflatten."""
    params, x = CHAIN.arguments()
    q = qpass.transform(CHAIN.fn, rules(qpass.int4.grouped(8), "int8"))
    qparams = q.quantize(params, x)
    saved = jax.tree.map(np.asarray, qparams)
    restored = jax.tree.map(jnp.asarray, jax.tree.unflatten(*_parts(saved)))
    np.testing.assert_array_equal(q(restored, x), q(qparams, x))
    doubled = jax.tree.map(lambda a: a, qparams, is_leaf=is_qtensor)
    assert doubled["up"] is qparams["up"]


def _parts(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, leaves


def test_donated_leaves_are_deleted_one_after_the_other():
    params, x = CHAIN.arguments()
    bias = params["bias"]
    q = quantized_with_donation(params, x)
    assert params["up"].is_deleted()
    assert params["down"].is_deleted()
    assert not bias.is_deleted()
    assert is_qtensor(q["up"])


def quantized_with_donation(params, x):
    return qpass.transform(CHAIN.fn, rules("int8")).quantize(params, x, donate=True)


def test_an_array_that_is_two_leaves_is_quantized_and_deleted_once():
    w, x = jnp.ones((8, 8)), jnp.ones((2, 8))
    params = {"a": w, "b": w}
    q = qpass.transform(lambda p, x: x @ p["a"] @ p["b"], rules("int8"))
    quantized = q.quantize(params, x, donate=True)
    assert quantized["a"] is quantized["b"]
    assert w.is_deleted()
    kept = jnp.ones((8, 8))
    q = qpass.transform(lambda p, x: x @ p["a"] + p["b"].sum(), rules("int8", path="a"))
    q.quantize({"a": kept, "b": kept}, x, donate=True)
    assert not kept.is_deleted()


def test_donation_of_a_tracer_deletes_nothing():
    params, x = CHAIN.arguments()
    q = qpass.transform(CHAIN.fn, rules("int8"))
    jax.jit(lambda p: q.quantize(p, x, donate=True))(params)
    assert not params["up"].is_deleted()


def test_the_peak_is_the_model_and_one_leaf(monkeypatch):
    """With donation no two float leaves that were quantized live at once with their codes."""
    n, layers = 256, 6

    def fn(p, x):
        for k in range(layers):
            x = x @ p[f"w{k}"]
        return x

    params = {f"w{k}": jnp.full((n, n), float(k + 1)) for k in range(layers)}
    jax.block_until_ready(params)
    float_bytes, leaf = layers * n * n * 4, n * n * 4
    q = qpass.transform(fn, rules("int8"))
    q.plan(params, jnp.ones((2, n)))
    gc.collect()
    base = live_bytes() - float_bytes
    peaks = []
    check = qpass.quantize.check_finite

    def watch(value, path):
        peaks.append(live_bytes() - base)
        return check(value, path)

    monkeypatch.setattr(qpass.quantize, "check_finite", watch)
    q.quantize(params, jnp.ones((2, n)), donate=True)
    assert len(peaks) == layers
    assert max(peaks) <= float_bytes + leaf
    assert peaks[-1] <= leaf + layers * (leaf // 4 + 4 * n) + leaf // 8


def live_bytes():
    return sum(a.nbytes for a in jax.live_arrays() if not a.is_deleted())
