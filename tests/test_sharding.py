"""Sharded parameters, on four forced host devices: codes lie where the floats did."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import qpass
from tests.programs import CASES, rules

W8 = qpass.int8.per_channel()


def quantized(params, x, weight):
    return qpass.transform(CASES["matmul"].fn, rules(weight)).quantize(params, x)


def mesh():
    devices = np.array(jax.devices()[:4]).reshape(2, 2)
    return Mesh(devices, ("x", "y"), axis_types=(AxisType.Auto,) * 2)


@pytest.mark.parametrize(
    ("spec", "codes", "scale"),
    [
        (P(None, "y"), (None, "y"), (None, "y")),
        (P("y", None), ("y", None), (None, None)),
        (P("x", "y"), ("x", "y"), (None, "y")),
    ],
)
@pytest.mark.parametrize("weight", [W8, qpass.int4.grouped(8)], ids=str)
def test_sharded_leaves_stay_sharded(weight, spec, codes, scale):
    sharding = NamedSharding(mesh(), spec)
    w = jax.device_put(np.random.default_rng(0).standard_normal((64, 32), np.float32), sharding)
    x = jnp.ones((2, 64))
    q = quantized({"w": w}, x, weight=weight)["w"]
    perm = [q.physical(axis) for axis in range(2)]
    assert q.codes.sharding.is_equivalent_to(NamedSharding(mesh(), P(*_move(codes, perm))), 2)
    if weight is W8:
        assert q.scale.sharding.is_equivalent_to(NamedSharding(mesh(), P(*_move(scale, perm))), 2)
    else:
        assert q.scale.sharding.shard_shape(q.scale.shape)[q.physical(1)] == (16 if spec[1] else 32)
    local = quantized({"w": np.asarray(w)}, x, weight=weight)["w"]
    np.testing.assert_array_equal(np.asarray(q.codes, np.int8), np.asarray(local.codes, np.int8))
    np.testing.assert_array_equal(q.scale, local.scale)


def _move(spec, perm):
    out = [None] * len(perm)
    for axis, place in enumerate(perm):
        out[place] = spec[axis]
    return out


def test_a_sharded_leaf_is_never_gathered():
    """The compiled quantizer of a leaf that is split along the free axis moves nothing."""
    sharding = NamedSharding(mesh(), P(None, ("x", "y")))
    w = jax.device_put(np.ones((64, 32), np.float32), sharding)
    q = qpass.transform(CASES["matmul"].fn, rules("int8"))
    text = jax.jit(q.quantize).lower({"w": w}, jnp.ones((2, 64))).compile().as_text()
    assert "all-gather" not in text
    assert "all-reduce" not in text


@pytest.mark.parametrize("spec", [P(None, "y"), P("y", None), P("x", "y")])
def test_sharded_results_are_those_of_one_device(spec):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((64, 32), np.float32)
    x = jnp.asarray(rng.standard_normal((4, 64)), jnp.float32)
    q = qpass.transform(CASES["matmul"].fn, rules("int8", "int8"))
    sharded = {"w": jax.device_put(w, NamedSharding(mesh(), spec))}
    wanted = jax.jit(q)(q.quantize({"w": jnp.asarray(w)}, x), x)
    x = jax.device_put(x, NamedSharding(mesh(), P("x", None)))
    np.testing.assert_allclose(jax.jit(q)(q.quantize(sharded, x), x), wanted, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(jax.jit(q)(sharded, x), wanted, rtol=1e-6, atol=1e-6)
