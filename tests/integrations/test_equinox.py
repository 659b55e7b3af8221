"""Equinox modules: `transform(model)` is a pytree with the model's leaves, called like it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.helpers import is_qtensor
from tests.integrations.helpers import (
    KEEP,
    W8A8,
    WIDTH,
    assert_close,
    assert_finite,
    assert_same,
    normal,
    weights,
)

eqx = pytest.importorskip("equinox")
optax = pytest.importorskip("optax")

X = normal(WIDTH)
PATHS = ["layers/0/weight", "layers/1/weight"]


def mlp(seed=0):
    return eqx.nn.MLP(WIDTH, 4, 2 * WIDTH, depth=1, key=jax.random.key(seed))


class Gated(eqx.Module):
    """Arrays beside everything else that a module may hold."""

    linear: Any
    act: Any
    name: str
    times: int
    nothing: None = None
    axis: int = eqx.field(static=True, default=-1)

    def __call__(self, x, gate=True):
        return self.act(self.linear(x)) * self.times if gate else x

    def encode(self, x):
        """Only the product."""
        return self.linear(x)

    @eqx.filter_jit
    def jitted(self, x):
        return self.linear(x)

    @staticmethod
    def free(p, x):
        return x @ p["w"]


def gated():
    return Gated(eqx.nn.Linear(WIDTH, 4, key=jax.random.key(0)), jax.nn.relu, "gated", 2)


def test_without_rules_it_is_the_model():
    for model in (mlp(), gated()):
        q = qpass.transform(model, [])
        assert_same(q(X), model(X))
        assert_same(
            jax.tree.leaves(eqx.filter(q, eqx.is_array)),
            jax.tree.leaves(eqx.filter(model, eqx.is_array)),
        )
        assert jax.tree.leaves(q)[0] is jax.tree.leaves(model)[0]
        assert len(jax.tree.leaves(q)) == len(jax.tree.leaves(model))


def test_paths_stored_weights_and_bits():
    model = mlp()
    q = qpass.transform(model, W8A8)
    assert weights(q.plan(X)) == PATHS
    stored = q.quantize(X)
    assert isinstance(stored, qpass.TransformedModule)
    assert [is_qtensor(layer.weight) for layer in stored.module.layers] == [True, True]
    assert stored.module.activation is model.activation
    served = eqx.filter_jit(stored)(X)
    assert_same(eqx.filter_jit(q)(X), served)
    assert_close(served, model(X))
    assert q.compare(X).result > 0


def test_static_fields_and_arguments():
    q = qpass.transform(gated(), [])
    assert_same(q(X, gate=False), X)
    assert_same(q(X), gated()(X))


def test_methods():
    model = gated()
    for method in (model.encode, model.jitted):
        q = qpass.transform(method, W8A8)
        assert isinstance(q, qpass.TransformedModule)
        assert weights(q.plan(X)) == ["linear/weight"]
        assert_close(q(X), model.encode(X))
    assert isinstance(qpass.transform(model.free, W8A8), qpass.Transformed)


def test_gradients_have_the_structure_of_the_module():
    q = qpass.transform(mlp(), W8A8)
    grads = eqx.filter_jit(eqx.filter_grad(lambda q, x: (q(x) ** 2).sum()))(q, X)
    assert jax.tree.structure(grads) == jax.tree.structure(eqx.filter(q, eqx.is_array))
    assert_finite(grads)


def test_optax_updates_it_like_the_model():
    optimizer = optax.sgd(1e-2)

    def losses(model):
        state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

        @eqx.filter_jit
        def step(model, state):
            value, grads = eqx.filter_value_and_grad(lambda m: (m(X) ** 2).sum())(model)
            updates, state = optimizer.update(grads, state, model)
            return eqx.apply_updates(model, updates), state, value

        values = []
        for _ in range(3):
            model, state, value = step(model, state)
            values.append(float(value))
        return values

    assert losses(qpass.transform(mlp(), [])) == losses(mlp())
    first, *_, last = losses(qpass.transform(mlp(), W8A8))
    assert last < first


def test_a_training_step_that_returns_the_model():
    def step(model, x):
        value, grads = eqx.filter_value_and_grad(lambda m: (m(x) ** 2).sum())(model)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -0.01 * g, grads)), value

    model = mlp()
    q = qpass.transform(step, W8A8)
    plan = q.plan(model, X)
    assert weights(plan) == PATHS
    assert {row.role for row in plan.rows} == {"forward", "dlhs", "drhs"}
    updated, value = eqx.filter_jit(q)(model, X)
    assert isinstance(updated, eqx.nn.MLP)
    assert updated.activation is model.activation
    assert q(updated, X)[1] < value


def test_stacked_modules_under_vmap_and_scan():
    models = eqx.filter_vmap(mlp)(jnp.arange(3))
    q = qpass.transform(models, W8A8)
    each = eqx.filter_vmap(lambda q, x: q(x), in_axes=(eqx.if_array(0), None))
    stored = eqx.filter_vmap(lambda q, x: q.quantize(x), in_axes=(eqx.if_array(0), None))(q, X)
    assert stored.module.layers[0].weight.shape == (3, 2 * WIDTH, WIDTH)
    wanted = eqx.filter_jit(each)(q, X)
    assert_same(eqx.filter_jit(each)(stored, X), wanted)

    @eqx.filter_jit
    def scanned(q, x):
        arrays, rest = eqx.partition(q, eqx.is_array)
        return jax.lax.scan(lambda _, a: (None, eqx.combine(a, rest)(x)), None, arrays)[1]

    np.testing.assert_allclose(scanned(stored, X), wanted, rtol=1e-5, atol=1e-6)


def test_state_and_random_keys_pass_through():
    class Net(eqx.Module):
        linear: Any
        norm: Any
        drop: Any

        def __call__(self, x, state, key):
            x, state = self.norm(self.linear(x), state)
            return self.drop(x, key=key), state

    def make():
        linear = eqx.nn.Linear(WIDTH, WIDTH, key=jax.random.key(0))
        return Net(linear, eqx.nn.BatchNorm(WIDTH, "batch", mode="ema"), eqx.nn.Dropout(0.5))

    def batched(model, state):
        keys = jax.random.split(jax.random.key(1), 4)
        over = jax.vmap(model, in_axes=(0, None, 0), out_axes=(0, None), axis_name="batch")
        return over(normal(4, WIDTH), state, keys)

    model, state = eqx.nn.make_with_state(make)()
    wanted = eqx.filter_jit(batched)(model, state)
    got = eqx.filter_jit(batched)(qpass.transform(model, KEEP), state)
    assert_same(jax.tree.leaves(got), jax.tree.leaves(wanted))
    q = qpass.transform(batched, W8A8)
    assert weights(q.plan(model, state)) == ["linear/weight"]
    assert_close(q(model, state)[0], wanted[0])
    assert eqx.nn.inference_mode(qpass.transform(model, KEEP)).module.drop.inference


def test_surgery_on_it():
    q = qpass.transform(gated(), KEEP)
    doubled = eqx.tree_at(lambda q: q.module.linear.weight, q, q.module.linear.weight * 0)
    assert_same(doubled(X), 2 * jax.nn.relu(q.module.linear.bias))


def test_a_closed_over_model_is_to_be_an_argument():
    model = gated()
    (row,) = qpass.transform(lambda x: model(x), [], params=None).plan(X).rows
    assert row.role == "constant"
    assert "pass it as an argument" in row.reason
    with pytest.raises(qpass.RuleError, match="pass the model or its parameters as an argument"):
        qpass.transform(lambda x: model(x), W8A8, params=None)(X)
