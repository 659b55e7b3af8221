"""Nothing falls back silently: the plan says what a kernel does not get as it is stored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import qpass
from qpass.numerics import QTYPES, decoding, kernel_codes
from qpass_kernels import KERNELS, REFERENCE
from qpass_kernels.native import why_not

SHIFTED = "uint8 codes are shifted to int8 before the product"
ZEROS = "zero points of the {} are taken off in float32 beside the kernel"

TOLD = {
    ("int8", "int8"): (),
    ("int4 g32", None): (),
    ("mxfp8", "mxfp8"): (),
    ("nf4 g32", None): ("nf4 codes are turned into float32 before the product",),
    ("int3", "int8"): ("int3 codes are unpacked to int8 before the product",),
    ("int8", "int3"): (),
    ("mxfp4", "mxfp4"): ("mxfp4 codes are turned into int8 before the product",),
    ("mxfp6", None): ("mxfp6 codes are turned into int8 before the product",),
    ("int8", "uint8 asym"): (SHIFTED, ZEROS.format("activation")),
    ("uint8", None): (SHIFTED,),
    ("int8 asym", None): (ZEROS.format("weight"),),
    ("uint8 asym", "int8 asym"): (SHIFTED, ZEROS.format("weight and activation")),
}


def product(p, x):
    return x @ p["w"]


def row_of(weight, act, params, x, kernels=(REFERENCE,)):
    rules = [qpass.Rule(weight=weight, act=act)]
    plan = qpass.transform(product, rules, kernels=kernels).plan(params, x)
    (row,) = plan.rows
    return plan, row


@pytest.mark.parametrize(("scheme", "notes"), TOLD.items(), ids=map(str, TOLD))
def test_the_row_says_what_becomes_of_codes(scheme, notes):
    plan, row = row_of(scheme[0], scheme[1], {"w": jnp.ones((64, 8))}, jnp.ones((2, 64)))
    assert row.notes == notes
    for note in notes:
        assert note in " ".join(str(plan.why(row.id)).split())
        assert note in plan.to_json()


@pytest.mark.skipif(why_not() is not None, reason="no compiled library")
@pytest.mark.parametrize("weight", ["nf4 g32", "mxfp4", "int3", "uint4"])
def test_nothing_is_said_of_codes_that_the_kernel_reads_as_they_are_stored(weight):
    _, row = row_of(weight, None, {"w": jnp.ones((64, 8))}, jnp.ones((2, 64)), KERNELS)
    assert (row.kernel, row.notes) == ("cpu-native-float", ())
    _, row = row_of(weight, "int8", {"w": jnp.ones((64, 8))}, jnp.ones((2, 64)), KERNELS)
    assert row.notes


@pytest.mark.parametrize("qtype", QTYPES, ids=str)
def test_words_are_true_of_the_codes_that_kernels_get(qtype):
    codes = jnp.zeros((2, 2), qtype.dtype)
    taken, same = kernel_codes(codes, qtype).codes.dtype, codes.dtype
    said = decoding(qtype)
    assert bool(said) == (taken != same)
    assert not said or f" {taken.name} before" in said
    assert decoding(qtype, packed=True).startswith(qtype.name) == bool(said or qtype.packed)


SHARDED = {
    ("int8", "int8"): "",
    ("int8", None): "the activation is float",
    ("int8 g4", "int8"): "scales along the contracted axes of the weight,",
    ("int8 g4", "int8 g4"): "scales along the contracted axes of the weight and the activation",
}


@pytest.mark.parametrize(("scheme", "because"), SHARDED.items(), ids=map(str, SHARDED))
def test_products_that_are_dequantized_where_shardings_are_types(scheme, because):
    weight, act = scheme
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        params = {"w": jax.device_put(jnp.ones((8, 16)), PartitionSpec(None, "y"))}
        x = jax.device_put(jnp.ones((4, 8)), PartitionSpec("x", None))
        _, row = row_of(weight, act, params, x)
        q = qpass.transform(product, [qpass.Rule(weight=weight, act=act)])
        got = q(params, x)
        text = str(jax.make_jaxpr(q)(params, x))
    assert [because in note for note in row.notes] == [True] * bool(because)
    # What is said is what happens: codes are multiplied as int8 just where nothing is said.
    assert ("preferred_element_type=int32" in text) == (not because)
    np.testing.assert_allclose(got, 8, rtol=0.02)
