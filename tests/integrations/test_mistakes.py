"""What somebody may give to `transform` by mistake: the error says what to do."""

import jax
import jax.numpy as jnp
import pytest

import qpass
from tests.integrations.helpers import W8A8, normal


def complaint(given, make=qpass.transform):
    with pytest.raises(qpass.CallError) as caught:
        make(given, rules=W8A8)
    return str(caught.value)


def test_a_linen_module():
    linen = pytest.importorskip("flax.linen")
    model, x = linen.Dense(4), normal(2, 8)
    text = complaint(model)
    assert "Linen module Dense" in text
    assert "transform(model.apply, rules)(variables, x)" in text
    q = qpass.transform(model.apply, W8A8)  # as it says
    assert q(model.init(jax.random.key(0), x), x).shape == (2, 4)
    bound = model.bind(model.init(jax.random.key(0), x))
    (row,) = qpass.transform(bound, [], params=None).plan(x).rows
    assert "pass it as an argument" in row.reason


@pytest.mark.parametrize("kind", ["transform", "transform_with_state"])
def test_a_haiku_pair(kind):
    haiku = pytest.importorskip("haiku")
    model = getattr(haiku, kind)(lambda x: haiku.Linear(3)(x))
    assert "transform(model.apply, rules)(params, rng, x)" in complaint(model)
    assert "Haiku" in complaint(haiku.without_apply_rng(model))


def test_a_class_instead_of_an_object():
    class Model:
        def __call__(self, x):
            return x

    assert "got the class Model itself" in complaint(Model)
    assert "transform(Model(...), rules)" in complaint(Model)


@pytest.mark.parametrize("given", [3, None, {"w": jnp.ones(3)}, "model"], ids=str)
def test_what_cannot_be_called(given):
    text = complaint(given)
    assert f"got {type(given).__name__}" in text
    assert "transform(model.encode, rules)" in text


def test_an_nnx_module_that_cannot_be_called():
    nnx = pytest.importorskip("flax.nnx")

    class Encoder(nnx.Module):
        def encode(self, x):
            return x

    assert "or a method of one" in complaint(Encoder())


def test_jit_of_a_model_object():
    text = complaint(jax.tree_util.Partial(jnp.dot, jnp.ones((3, 3))), qpass.jit)
    assert "Partial is a model object" in text
    assert "jax.jit(lambda q, x: q(x))(q, x)" in text


def test_arguments_that_the_model_does_not_take():
    eqx = pytest.importorskip("equinox")
    q = qpass.transform(eqx.nn.Linear(8, 4, key=jax.random.key(0)), W8A8)
    with pytest.raises(qpass.CallError, match=r"cannot call Linear\(self, x"):
        q(normal(8), 1, 2, 3)
