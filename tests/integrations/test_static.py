"""Captured ranges and model objects: capture, use, gradients, transforms of the object."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.programs import rules

STATIC = rules("int8", qpass.int8.static())
DYNAMIC = rules("int8", qpass.int8.per_tensor())
X = jnp.asarray(np.random.default_rng(0).standard_normal((4, 8)), jnp.float32)


def weight(seed):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((8, 8)), jnp.float32)


@partial(jax.tree_util.register_dataclass, data_fields=["up", "down"], meta_fields=[])
@dataclass
class Plain:
    up: jax.Array
    down: jax.Array

    def __call__(self, x):
        return jnp.tanh(x @ self.up) @ self.down


def plain():
    return Plain(weight(1), weight(2))


def equinox():
    eqx = pytest.importorskip("equinox")
    return eqx.nn.MLP(8, 8, 8, 1, key=jax.random.key(0))


def nnx():
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.up = nnx.Linear(8, 8, rngs=rngs)
            self.down = nnx.Linear(8, 8, rngs=rngs)

        def __call__(self, x):
            return self.down(jnp.tanh(self.up(x)))

    return Model(nnx.Rngs(0))


def calibrated(model, x=X):
    q = qpass.transform(model, STATIC)
    return q.with_ranges(qpass.ranges(q.capture(x)))


@pytest.mark.parametrize("make", [plain, equinox, nnx])
def test_static_and_dynamic_models_of_one_range_agree(make):
    model = make()
    x = X[0] if make is equinox else X
    q, dynamic = calibrated(model, x), qpass.transform(model, DYNAMIC)
    wanted = jax.jit(lambda x: dynamic(x))(x)
    np.testing.assert_array_equal(jax.jit(lambda x: q(x))(x), wanted)
    stored = q.quantize(x)
    np.testing.assert_array_equal(jax.jit(lambda x: stored(x))(x), wanted)
    assert "static" in str(q.plan(x))
    with pytest.raises(qpass.CalibrationError, match="with_ranges"):
        qpass.transform(model, STATIC)(x)


def test_ranges_are_no_leaves():
    q = calibrated(plain())
    assert len(jax.tree.leaves(q)) == 2
    run = jax.jit(lambda q, x: q(x))
    wanted = jax.jit(lambda x: q(x))(X)
    np.testing.assert_array_equal(run(q, X), wanted)
    np.testing.assert_array_equal(run(calibrated(plain()), X), wanted)
    assert run._cache_size() == 1, "equal ranges make an equal structure"
    other = q.with_ranges(dict.fromkeys(q.call.given.ranges, (-0.1, 0.1)))
    assert np.any(run(other, X) != wanted)
    slope = jax.jit(jax.grad(lambda q: q(X).sum()))(q)
    assert jax.tree.structure(slope) == jax.tree.structure(q)


def test_linen():
    nn = pytest.importorskip("flax.linen")

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(8)(nn.tanh(nn.Dense(8)(x)))

    model = Model()
    variables = model.init(jax.random.key(0), X)
    q = qpass.transform(model.apply, STATIC)
    q = q.with_ranges(qpass.ranges(q.capture(variables, X)))
    dynamic = jax.jit(qpass.transform(model.apply, DYNAMIC))
    np.testing.assert_array_equal(jax.jit(q)(variables, X), dynamic(variables, X))


def test_jitted():
    def fn(p, x):
        return x @ p["w"]

    p = {"w": weight(1)}
    q = qpass.jit(fn, rules=STATIC)
    q = q.with_ranges(qpass.ranges(q.capture(p, X)))
    np.testing.assert_array_equal(q(p, X), qpass.jit(fn, rules=DYNAMIC)(p, X))
