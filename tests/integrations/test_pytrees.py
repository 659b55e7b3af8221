"""Callable pytrees without a framework: registered dataclasses, `jax.tree_util.Partial`."""

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

import qpass
from tests.helpers import is_qtensor
from tests.integrations.helpers import (
    KEEP,
    W8A8,
    assert_close,
    assert_same,
    normal,
    weights,
)


@partial(jax.tree_util.register_dataclass, data_fields=["w", "value"], meta_fields=["name"])
@dataclass
class Affine:
    w: jax.Array
    value: jax.Array
    name: str = field(default="affine")

    def __call__(self, x):
        """Scale and shift."""
        return x @ self.w + self.value

    def back(self, y):
        return (y - self.value) @ self.w.T


X = normal(3, 8)


def affine():
    return Affine(normal(8, 4, seed=1), normal(4, seed=2))


def call(q, x):
    return q(x)


def test_a_registered_dataclass():
    model = affine()
    q = qpass.transform(model, W8A8)
    assert weights(q.plan(X)) == ["w"]
    assert jax.tree.leaves(q)[0] is model.w
    stored = q.quantize(X)
    assert is_qtensor(stored.module.w)
    assert stored.module.name == "affine"
    served = jax.jit(call)(stored, X)
    assert_same(jax.jit(call)(q, X), served)
    assert_close(served, model(X))
    assert_same(qpass.transform(model, [])(X), model(X))


def test_a_method():
    q = qpass.transform(affine().back, W8A8)
    assert weights(q.plan(normal(3, 4))) == ["w"]


def test_gradients_maps_and_optax_updates():
    q = qpass.transform(affine(), W8A8)
    grads = jax.jit(jax.grad(lambda q, x: (q(x) ** 2).sum()))(q, X)
    assert jax.tree.structure(grads) == jax.tree.structure(q)
    optimizer = optax.sgd(1e-3)
    updates, _ = optimizer.update(grads, optimizer.init(q), q)
    better = optax.apply_updates(q, updates)
    assert (better(X) ** 2).sum() < (q(X) ** 2).sum()


def test_stacked_models_under_vmap():
    models = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[affine()] * 2)
    stored = jax.vmap(lambda q: q.quantize(X))(qpass.transform(models, W8A8))
    got = jax.jit(jax.vmap(call, in_axes=(0, None)))(stored, X)
    assert_same(got[0], got[1])
    assert_same(got[0], jax.jit(call)(qpass.transform(affine(), W8A8), X))


def test_a_partial_of_arrays():
    model = Partial(lambda p, x: x @ p["w"], {"w": normal(8, 4)})
    q = qpass.transform(model, W8A8)
    assert isinstance(q, qpass.TransformedModule)
    assert weights(q.plan(X)) == ["0/0/w"]  # as `jax.tree_util` spells it
    assert_close(q(X), model(X))


def test_a_partial_without_arrays_is_a_function():
    q = qpass.transform(Partial(lambda p, x: x @ p["w"]), W8A8)
    assert isinstance(q, qpass.Transformed)
    assert weights(q.plan({"w": normal(8, 4)}, X)) == ["w"]


def test_fields_named_value_keep_their_name():
    q = qpass.transform(lambda m, x: x @ m.w + m.value, KEEP)
    plan = q.plan(affine(), X)
    assert [leaf.path for leaf in plan.program.leaves] == ["w", "value", "x"]
    q = qpass.transform(lambda p, x: x @ p["attention"]["value"], W8A8)
    assert weights(q.plan({"attention": {"value": normal(8, 4)}}, X)) == ["attention/value"]


def test_boxes_of_linen_are_no_part_of_a_path():
    linen = pytest.importorskip("flax.linen")
    init = linen.with_partitioning(linen.initializers.lecun_normal(), (None, None))
    model = linen.Dense(4, kernel_init=init)
    variables = model.init(jax.random.key(0), X)
    assert weights(qpass.transform(model.apply, W8A8).plan(variables, X)) == ["params/kernel"]


def test_made_twice_it_fits_what_was_made_of_the_first():
    one, two = (qpass.transform(affine(), W8A8) for _ in range(2))
    assert jax.tree.structure(one) == jax.tree.structure(two)
    assert hash(jax.tree.structure(one)) == hash(jax.tree.structure(two))
    assert jax.tree.structure(one) != jax.tree.structure(qpass.transform(affine(), KEEP))


def test_it_carries_the_name_and_text_of_the_method():
    q = qpass.transform(affine(), W8A8)
    assert q.call.__name__ == "Affine"
    assert q.call.__doc__ == "Scale and shift."
    assert "w=" in repr(q)
    assert len(repr(q.call)) < 80
    np.testing.assert_array_equal(q(x=X), q(X))
