"""Results of transformed programs against float64, and bounds on the error of each scheme."""

import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.numerics import oracle
from tests.programs import rules

# scheme -> relative error (mean|e| / mean|y|) of a product of normal numbers, from above
BOUNDS = [
    ("int8", None, 0.009),
    ("int8", "int8", 0.02),
    (qpass.int4.grouped(32), None, 0.12),
    (qpass.int4.grouped(32), "int8", 0.12),
    (qpass.int4.grouped(32), qpass.int4.grouped(32), 0.17),
    ("fp8_e4m3", None, 0.03),
    ("fp8_e4m3", "fp8_e4m3", 0.04),
    ("fp8_e5m2", "fp8_e4m3", 0.06),
    ("fp8_e5m2", None, 0.06),
]


def product(p, x):
    return x @ p["w"]


def sample(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def real(x, quantizer, name):
    """An array `[rows, K]` quantized and back in float64 by the formulas as documented."""
    if quantizer is None:
        return np.float64(x)
    group = getattr(quantizer.granularity, "size", None)
    tensor = isinstance(quantizer.granularity, type(qpass.int8.per_tensor().granularity))
    blocks = x.shape if tensor else (1, group or x.shape[1])
    scale = oracle.scales(x, blocks, name)
    codes = oracle.codes(x, scale, blocks, name).astype(np.float64)
    return codes * oracle.spread(np.float64(scale), x.shape, blocks)


@pytest.mark.parametrize("qtype", [qpass.int8, qpass.int4, qpass.fp8_e4m3, qpass.fp8_e5m2])
@pytest.mark.parametrize("activation", [False, True], ids=["weight only", "weight and activation"])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "groups", "groups and tail"])
def test_results_are_those_of_the_documented_arithmetic(qtype, activation, granularity):
    weight = {
        "tensor": qtype.per_tensor(),
        "channel": qtype.per_channel(),
        "groups": qtype.grouped(8),
        "groups and tail": qtype.grouped(16),
    }[granularity]
    act = qtype.per_channel() if activation else None
    x, w = sample(3, 40), sample(40, 12, seed=1)
    q = qpass.transform(product, rules(weight, act))
    qparams = q.quantize({"w": jnp.asarray(w)}, x)
    wanted = real(x, act, qtype.name) @ real(np.ascontiguousarray(w.T), weight, qtype.name).T
    np.testing.assert_allclose(q(qparams, x), wanted, rtol=0, atol=3e-6 * np.abs(wanted).max())


@pytest.mark.parametrize(("weight", "act", "bound"), BOUNDS)
def test_error_bounds(weight, act, bound):
    x, w = sample(32, 512), sample(512, 128, seed=1)
    exact = np.float64(x) @ np.float64(w)
    got = qpass.transform(product, rules(weight, act))({"w": jnp.asarray(w)}, x)
    error = np.abs(got - exact).mean() / np.abs(exact).mean()
    assert 0.001 < error < bound


def test_groups_of_both_operands_are_cut_alike():
    """K = 40 in groups of 16: the last group is short in the weight and in the activation."""
    x, w = sample(3, 40), sample(40, 12, seed=1)
    both = qpass.int8.grouped(16)
    got = qpass.transform(product, rules(both, both))({"w": jnp.asarray(w)}, x)
    wanted = real(x, both, "int8") @ real(np.ascontiguousarray(w.T), both, "int8").T
    np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6 * np.abs(wanted).max())


def test_groups_of_the_activation_alone():
    x, w = sample(3, 40), sample(40, 12, seed=1)
    weight, act = qpass.int8.per_channel(), qpass.int8.grouped(16)
    got = qpass.transform(product, rules(weight, act))({"w": jnp.asarray(w)}, x)
    wanted = real(x, act, "int8") @ real(np.ascontiguousarray(w.T), weight, "int8").T
    np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6 * np.abs(wanted).max())


def test_activations_per_tensor():
    x, w = sample(3, 40), sample(40, 12, seed=1)
    weight, act = qpass.int8.per_channel(), qpass.int8.per_tensor()
    got = qpass.transform(product, rules(weight, act))({"w": jnp.asarray(w)}, x)
    wanted = real(x, act, "int8") @ real(np.ascontiguousarray(w.T), weight, "int8").T
    np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("act", [None, "int8"])
def test_bf16_operands_with_float32_results_stay_float32(act):
    def wide(p, x):
        return jnp.einsum("mk,kn->mn", x, p["w"], preferred_element_type=jnp.float32)

    x, w = (jnp.asarray(a, jnp.bfloat16) for a in (sample(3, 40), sample(40, 12, seed=1)))
    got = qpass.transform(wide, rules("int8", act))({"w": w}, x)
    assert got.dtype == jnp.float32
    weight = qpass.int8.per_channel()
    x, w = (np.asarray(a, np.float32) for a in (x, w))
    wanted = real(x, act and weight, "int8") @ real(np.ascontiguousarray(w.T), weight, "int8").T
    np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6 * np.abs(wanted).max())


def test_batch_and_free_axes_come_out_where_dot_general_puts_them():
    """The least element is -128, so every scale is 1 and the product exact."""

    def fn(p, x):
        return jnp.einsum("abmk,cakn->cmban", x, p["w"])

    rng = np.random.default_rng(0)
    x, w = (rng.integers(-126, 127, s).astype(np.float32) for s in ((2, 3, 4, 8), (5, 2, 8, 6)))
    x[..., 0], w[:, :, 0] = -128, -128
    got = qpass.transform(fn, rules("int8", "int8"))({"w": jnp.asarray(w)}, jnp.asarray(x))
    np.testing.assert_allclose(got, np.einsum("abmk,cakn->cmban", x, w), rtol=1e-6)


def test_zero_rows_and_columns_give_zeros():
    x, w = sample(3, 16), sample(16, 4, seed=1)
    x[1], w[:, 2] = 0, 0
    for qtype in (qpass.int8, qpass.int4, qpass.fp8_e4m3, qpass.fp8_e5m2):
        got = qpass.transform(product, rules(qtype, qtype))({"w": jnp.asarray(w)}, x)
        assert np.isfinite(got).all()
        assert not got[1].any()
        assert not got[:, 2].any()
