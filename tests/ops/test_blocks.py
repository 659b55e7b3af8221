"""Granularities of both operands of a product, against float64: blocks, heads, shards, counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import qpass
from qpass.numerics import as_quantizer, quantize
from tests.ops.test_bit_exact import assert_same_bits
from tests.programs import CASES, normal, rules

RNG = np.random.default_rng(0)
P = PartitionSpec


def real(x, quantizer, contract):
    """An array quantized and back, in float64."""
    return np.float64(quantize(jnp.asarray(x), as_quantizer(quantizer), contract).dequantize())


@pytest.mark.parametrize(
    ("weight", "act"),
    [
        ("fp8_e4m3 b16x8", "fp8_e4m3 g8"),
        ("int8 b16x16", "int8 g8"),
        ("int8 g8", "int8 b2x16"),
        ("int8", "int8 b2x16"),
        ("int8 b16x8", "int8 axis1"),
        ("int4 g1/4", "int8 g1/4"),
        ("int8", "int8 g16"),
        ("int8 axis0", "int8 axis0,1"),
    ],
)
def test_operands_cut_in_different_ways(weight, act):
    """K = 40: blocks of 16 leave a tail, those of 8 none."""
    case = CASES["matmul"]
    params, x = case.arguments()
    q = qpass.transform(case.fn, rules(weight, act))
    served = jax.jit(q)(q.quantize(params, x), x)
    wanted = real(x, act, (1,)) @ real(params["w"], weight, (0,))
    np.testing.assert_allclose(served, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    assert_same_bits(jax.jit(q)(params, x), served)


def test_a_scale_for_each_head():
    """The activation of the output projection: one scale for each index of n, axis 2."""
    x, w = normal(RNG, (2, 3, 2, 20)), normal(RNG, (2, 20, 12))
    q = qpass.transform(CASES["several axes"].fn, rules("int8 g8", "int8 axis2"))
    wanted = np.einsum("BTNH,NHD->BTD", real(x, "int8 axis2", (2, 3)), real(w, "int8 g8", (0, 1)))
    np.testing.assert_allclose(q({"w": w}, x), wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize(("k", "group"), [(48, 16), (80, 32), (48, 32)])
@pytest.mark.parametrize("weight", ["int8", "int4", "int3"])
def test_shards_that_begin_inside_a_group(k, group, weight):
    """Each shard has the scales of the groups that its rows lie in, by their global place."""
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))

    def product(x, w):
        return jax.lax.psum(x @ w, "d")

    def fn(p, x):
        specs = (P(None, "d"), P("d"))
        return jax.shard_map(product, mesh=mesh, in_specs=specs, out_specs=P())(x, p["w"])

    x, w = normal(RNG, (3, k)), normal(RNG, (k, 8))
    quantizer = f"{weight} g{group}"
    q = qpass.transform(fn, rules(quantizer))
    qparams = q.quantize({"w": w}, x)
    assert isinstance(qparams["w"], qpass.QTensor)
    wanted = np.float64(x) @ real(w, quantizer, (0,))
    got = jax.jit(q)(qparams, x)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    assert not any("dequantized" in note for row in q.plan(qparams, x).rows for note in row.notes)


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(qpass.RuleError, match="groups of 32, act groups of 48"):
        qpass.Rule(weight="int8 g32", act="int8 g48")
    q = qpass.transform(CASES["matmul"].fn, rules("int8 g16", "int8 g1/4"))
    with pytest.raises(qpass.RuleError, match="groups of 16 of the weight and of 10"):
        q.plan(*CASES["matmul"].arguments())
