"""Products of activations with zero points by the sums that are stored with the weight."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import qpass
from qpass.ops.layout import partition_specs, shardable
from tests.ops.test_bit_exact import assert_same_bits
from tests.ops.test_zero_points import sample
from tests.programs import CASES, rules

SCHEMES = [("int4 g32", "int8 asym"), ("int8", "int8 asym"), ("uint4 g16 asym", "uint8 asym")]
PROGRAMS = {
    "matmul": (CASES["matmul"].fn, (80, 12), (3, 80)),
    "scanned": (CASES["scanned"].fn, (2, 80, 80), (3, 80)),
}


def forgetful(stored):
    """The same weights without sums."""
    return {name: dataclasses.replace(q, sums=None) for name, q in stored.items()}


def rows(q, params, x):
    """How many rows kernels multiply, by the program's text."""
    text = str(jax.make_jaxpr(q)(params, x))
    found = re.findall(r"f32\[1,(\d+),\d+\] = quantized_matmul", text)
    assert found
    return {int(n) for n in found}


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
def test_kernels_multiply_the_rows_of_the_activation_and_no_more(name, scheme):
    fn, shape, inputs = PROGRAMS[name]
    params, x = {"w": jnp.asarray(sample(*shape, seed=1)) / 8}, sample(*inputs)
    q = qpass.transform(fn, rules(*scheme))
    stored = q.quantize(params, x)
    assert stored["w"].sums is not None
    assert rows(q, stored, x) == rows(q, params, x) == {3}
    assert rows(q, forgetful(stored), x) == {4}
    got = jax.jit(q)(stored, x)
    assert_same_bits(jax.jit(q)(params, x), got)
    known = jax.jit(q)(forgetful(stored), x)
    if scheme == ("int8", "int8 asym"):
        assert_same_bits(known, got)
    else:  # the kernel adds up the groups in an order of its own
        np.testing.assert_allclose(known, got, rtol=0, atol=2e-6 * np.abs(got).max())


@pytest.mark.parametrize(
    "scheme",
    [
        ("int8", "int8"),
        ("int8 asym", None),
        ("nf4 g32", "int8 asym"),
        ("int4 g32", "int8 g32 asym"),
    ],
)
def test_no_other_weight_has_sums(scheme):
    x, params = sample(3, 64), {"w": jnp.asarray(sample(64, 12, seed=1))}
    assert qpass.transform(CASES["matmul"].fn, rules(*scheme)).quantize(params, x)["w"].sums is None


def test_a_leaf_has_sums_where_one_of_its_products_asks_for_them():
    def twice(p, x):
        with jax.named_scope("first"):
            h = x @ p["w"]
        return h @ p["w"]

    asked = [*rules("int8", "int8", scope="first"), *rules("int8", "int8 asym")]
    x, params = sample(3, 16), {"w": jnp.asarray(sample(16, 16, seed=1))}
    storage = qpass.transform(twice, asked).plan(params, x).storage[0]
    assert storage.sums


def test_vmap_over_weights():
    x, w = sample(3, 64), jnp.asarray(sample(2, 64, 12, seed=1))
    q = qpass.transform(CASES["matmul"].fn, rules("int4 g32", "int8 asym"))
    stored = [q.quantize({"w": one}, x) for one in w]
    both = jax.tree.map(lambda *arrays: jnp.stack(arrays), *stored)
    wanted = jnp.stack([q(one, x) for one in stored])
    np.testing.assert_allclose(jax.vmap(q, (0, None))(both, x), wanted, rtol=1e-5, atol=1e-5)


def test_shards_keep_the_sums_that_are_theirs():
    x, params = sample(3, 64), {"w": jnp.asarray(sample(64, 12, seed=1))}
    mesh = jax.make_mesh((2,), ("x",))
    for scheme in ("int4 g32", "int8"):
        q = qpass.transform(CASES["matmul"].fn, rules(scheme, "int8 asym")).quantize(params, x)["w"]
        assert shardable(q, PartitionSpec("x"), mesh).sums is None
        along_n = shardable(q, PartitionSpec(None, "x"), mesh)
        assert partition_specs(along_n, PartitionSpec(None, "x"), mesh).sums[0] == "x"
