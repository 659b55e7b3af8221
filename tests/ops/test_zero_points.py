"""Products whose operands have zero points, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import qpass
from qpass.numerics import as_quantizer, quantize
from tests.ops.test_bit_exact import assert_same_bits
from tests.programs import CASES, rules

# weight, activation, and K; 80 leaves a tail of the groups
SCHEMES = [
    ("int4 g32", "int8 asym", 64),
    ("int4 g32", "int8 asym", 80),
    ("int8", "int8 asym", 80),
    ("int8 asym", "int8", 64),
    ("int8 asym", "int8 asym", 80),
    ("int8 g32 asym", "int8 tensor asym", 80),
    ("int8 asym", "int8 g32 asym", 80),
    ("int4 g16 asym", "int8 g32 asym", 80),
    ("uint4 g16 asym", None, 64),
    ("int4 g32 asym", None, 80),
    ("uint8 asym", None, 64),
    ("uint4 g32 asym", "uint8 asym", 80),
    ("uint8", "uint8", 64),
    ("fp8_e4m3", "int8 asym", 64),
    ("nf4 g32", "int8 asym", 64),
]


def sample(*shape, seed=0):
    """Normal numbers around 0.5: zero points that matter."""
    x = np.random.default_rng(seed).standard_normal(shape) + 0.5
    return x.astype(np.float32)


def real(x, quantizer, axis):
    """An array quantized and back, in float64."""
    if quantizer is None:
        return np.float64(x)
    return np.float64(quantize(jnp.asarray(x), as_quantizer(quantizer), (axis,)).dequantize())


@pytest.mark.parametrize(("weight", "act", "k"), SCHEMES)
def test_results_are_those_of_float64_and_training_equals_serving(weight, act, k):
    x, params = sample(3, k), {"w": jnp.asarray(sample(k, 12, seed=1))}
    q = qpass.transform(CASES["matmul"].fn, rules(weight, act))
    served = jax.jit(q)(q.quantize(params, x), x)
    wanted = real(x, act, 1) @ real(params["w"], weight, 0)
    np.testing.assert_allclose(served, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    assert_same_bits(jax.jit(q)(params, x), served)


@pytest.mark.parametrize("name", ["several axes", "batched", "weight left", "scanned"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_equals_serving_in_any_program(name, dtype):
    case = CASES[name]
    args = case.arguments(dtype)
    q = qpass.transform(case.fn, rules("int4 g8 asym", "int8 asym"))
    assert_same_bits(jax.jit(q)(*args), jax.jit(q)(q.quantize(*args), *args[1:]))


def test_contraction_over_two_axes_with_tails_inside():
    """Every index of n has groups of 16 and a tail of 4 along h, in both operands."""
    x, w = sample(3, 4, 20), sample(4, 20, 6, seed=1)

    def fn(p, x):
        return jnp.einsum("mnh,nhd->md", x, p["w"])

    got = qpass.transform(fn, rules("int8 g16 asym", "int8 g16 asym"))({"w": jnp.asarray(w)}, x)
    wanted = np.einsum("mnh,nhd->md", real(x, "int8 g16 asym", 2), real(w, "int8 g16 asym", 1))
    # Quantized along h alone, n has a scale for each index: the same as in the contraction of both.
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


def test_gradients_are_those_of_the_values_that_the_product_saw():
    x, w = sample(3, 16), jnp.asarray(sample(16, 4, seed=1))
    q = qpass.transform(CASES["matmul"].fn, rules("int4 g8 asym", "int8 asym"))
    dp, dx = jax.grad(lambda p, x: (q(p, x) ** 2).sum() / 2, argnums=(0, 1))({"w": w}, x)
    seen, weight = real(x, "int8 asym", 1), real(w, "int4 g8 asym", 0)
    np.testing.assert_allclose(dx, seen @ weight @ weight.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dp["w"], seen.T @ seen @ weight, rtol=1e-4, atol=1e-3)


def test_vmap_over_rows():
    x, params = sample(5, 2, 16), {"w": jnp.asarray(sample(16, 4, seed=1))}
    q = qpass.transform(CASES["matmul"].fn, rules("int4 g8 asym", "int8 asym"))
    wanted = jnp.stack([q(params, row) for row in x])
    np.testing.assert_allclose(jax.vmap(q, (None, 0))(params, x), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("weight", "act"), [("int8 asym", "int8 asym"), ("fp4_e2m1", "uint8")])
def test_where_shardings_are_part_of_the_types(weight, act):
    x, w = sample(4, 8), sample(8, 16, seed=1)
    wanted = real(x, act, 1) @ real(w, weight, 0)
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        params = {"w": jax.device_put(jnp.asarray(w), PartitionSpec(None, "y"))}
        there = jax.device_put(jnp.asarray(x), PartitionSpec("x", None))
        got = jax.jit(qpass.transform(CASES["matmul"].fn, rules(weight, act)))(params, there)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("scheme", [("uint8", "uint8"), ("uint4 g16", None)])
def test_symmetric_ranges_of_unsigned_types_have_nothing_to_take_off(scheme):
    """Their middle code is zero, so that shifted codes are signed ones."""
    x, params = sample(3, 32), {"w": jnp.asarray(sample(32, 12, seed=1))}
    q = qpass.transform(CASES["matmul"].fn, rules(*scheme))
    stored = q.quantize(params, x)
    assert stored["w"].zero is None
    text = str(jax.make_jaxpr(q)(stored, x))
    assert "quantized_matmul" in text
    after = text.partition("quantized_matmul")[2]
    assert " sub " not in after
    assert "dot_general" not in after
