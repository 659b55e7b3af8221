"""Where shardings are part of the types no kernel runs, and the plan says so."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

import qpass


def test_explicit_sharding_names_no_kernel():
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        params = {"w": jax.device_put(jnp.ones((8, 16)), PartitionSpec(None, "y"))}
        x = jax.device_put(jnp.ones((4, 8)), PartitionSpec("x", None))
        q = qpass.transform(lambda p, x: x @ p["w"], [qpass.Rule(weight="int8", act="int8")])
        (row,) = q.plan(params, x).rows
    assert row.kernel == "xla"
    assert row.refused == (("every kernel", "shardings are part of the types here"),)
