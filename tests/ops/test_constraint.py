"""A sharding constraint on a weight becomes one on its codes and scales."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import qpass

MESH = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
W = jax.random.normal(jax.random.key(0), (64, 32))
X = jax.random.normal(jax.random.key(1), (4, 64))


def layer(spec):
    def fn(params, x):
        return x @ jax.lax.with_sharding_constraint(params["w"], NamedSharding(MESH, spec))

    return fn


@pytest.mark.parametrize("spec", [PartitionSpec("x", "y"), PartitionSpec(None, "y")], ids=str)
@pytest.mark.parametrize("weight", ["int8", "int4 g16"])
def test_weight_stays_stored(spec, weight):
    q = qpass.transform(layer(spec), [qpass.Rule(weight=weight)])
    stored = q.quantize({"w": W}, X)
    assert isinstance(stored["w"], qpass.QTensor)
    plain = qpass.transform(lambda params, x: x @ params["w"], [qpass.Rule(weight=weight)])
    got, want = jax.jit(q)(stored, X), jax.jit(plain)(stored, X)
    assert jnp.allclose(got, want, rtol=1e-5, atol=1e-5)
    assert "sharding" in jax.jit(q).lower(stored, X).as_text()


def test_groups_cut_by_the_constraint_keep_the_weight_float():
    q = qpass.transform(layer(PartitionSpec("x")), [qpass.Rule(weight="int8 g48")])
    stored = q.quantize({"w": W}, X)
    assert not isinstance(stored["w"], qpass.QTensor)
    (note,) = q.plan({"w": W}, X)["w/dot_general.0"].notes
    assert "sharding_constraint" in note
