"""Orbax saves and restores quantized trees as they are: a QTensor is a pytree of arrays to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import qpass
from tests.checkpoint.test_save import assert_same

orbax = pytest.importorskip("orbax.checkpoint", reason="its package is not installed")

RNG = np.random.default_rng(0)
PARAMS = {
    "up": jnp.asarray(RNG.normal(size=(16, 32)), jnp.float32),
    "down": jnp.asarray(RNG.normal(size=(32, 16)), jnp.float32),
    "norm": jnp.ones(16),
}
X = jnp.asarray(RNG.normal(size=(4, 16)), jnp.float32)


def fn(params, x):
    return jnp.tanh(x @ params["up"]) @ params["down"] * params["norm"]


def transformed(weight):
    return qpass.transform(fn, qpass.Rule(weight=weight))


@pytest.mark.parametrize("weight", ["int8", "int4 g8", "int3 g8", "mxfp4", "nvfp4", "fp8_e4m3"])
def test_a_quantized_tree(tmp_path, weight):
    q = transformed(weight)
    stored = q.quantize(PARAMS, X)
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "saved", stored)
        checkpointer.wait_until_finished()
        like = jax.eval_shape(q.quantize, PARAMS, X)
        restored = checkpointer.restore(tmp_path / "saved", like)
    assert_same(restored, stored)
    np.testing.assert_array_equal(q(restored, X), q(stored, X))


def test_restored_on_other_devices(tmp_path):
    q = transformed("int8")
    stored = q.quantize(PARAMS, X)

    def sharding(x, count):
        mesh = jax.make_mesh((count,), ("d",), axis_types=(AxisType.Auto,))
        return NamedSharding(mesh, PartitionSpec("d" if x.shape[0] % count == 0 else None))

    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(
            tmp_path / "saved", jax.tree.map(lambda x: jax.device_put(x, sharding(x, 2)), stored)
        )
        checkpointer.wait_until_finished()
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(x, 4)), stored
        )
        restored = checkpointer.restore(tmp_path / "saved", like)
    assert len(restored["up"].codes.sharding.device_set) == 4
    assert restored["up"].codes.addressable_shards[0].data.shape[0] == 32 // 4
    assert_same(restored, stored)
