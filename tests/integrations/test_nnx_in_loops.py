"""A loop's body may return NNX state that it made, though NNX refuses updates from in there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass

nnx = pytest.importorskip("flax.nnx")


class Noisy(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(8, 8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.up(x))


def test_new_state_beside_a_result_leaves_the_given_one_alone():
    graph, state = nnx.split(Noisy(nnx.Rngs(0)))

    def apply(state, x):
        model = nnx.merge(graph, jax.tree.map(lambda a: a, state))
        return model(x), nnx.state(model, nnx.RngCount)

    q = qpass.transform(apply, qpass.Rule(weight="int8"))
    rows = jnp.ones((3, 1, 8))
    many, counts = jax.lax.map(lambda row: q(state, row), rows)
    one, count = q(state, rows[0])
    np.testing.assert_allclose(many, jnp.stack([one] * 3), rtol=1e-6, atol=1e-6)
    assert jax.tree.leaves(counts)[0].tolist() == [1, 1, 1]
    assert (int(jax.tree.leaves(count)[0]), int(state.dropout.rngs.count[...])) == (1, 0)


def test_a_variable_of_an_argument_that_is_returned_stays_the_same_one():
    q = qpass.transform(lambda m, x: (m(x), m.up.kernel), qpass.Rule(weight="int8"))
    model = Noisy(nnx.Rngs(0))
    assert q(model, jnp.ones((1, 8)))[1] is model.up.kernel
