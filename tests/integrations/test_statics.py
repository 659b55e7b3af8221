"""Arguments that are no arrays: anything that can be hashed, in any place, and no two confused."""

import enum
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.integrations.helpers import KEEP, W8A8, assert_same, normal

P, X = {"w": normal(8, 4)}, normal(2, 8)


class Kind(enum.Enum):
    PLAIN = 1
    DOUBLE = 2


@dataclass(frozen=True)
class Config:
    kind: Kind
    scale: float = 1.0


class Unhashable:
    __hash__ = None


def layer(p, x, act=jnp.tanh, *, dtype=jnp.float32, bias=None, config=None, names=(), on=True):
    y = act(x @ p["w"]) if on else x @ p["w"]
    if config is not None:
        y = y * config.scale * config.kind.value
    if bias is not None:
        y = y + bias
    return {"y": y.astype(dtype), **dict.fromkeys(names, y * 0)}


CALLS = [
    {},
    {"act": jax.nn.relu},
    {"dtype": jnp.bfloat16},
    {"dtype": np.dtype("float16")},
    {"config": Config(Kind.DOUBLE)},
    {"config": Config(Kind.DOUBLE, 0.5)},
    {"names": ("a", "b")},
    {"names": ["a"]},
    {"on": False},
    {"bias": 1},
    {"bias": 1.0},
    {"bias": True},
    {"bias": float("nan")},
]


def test_every_kind_of_static_argument():
    q = qpass.transform(layer, KEEP)
    for options in (*CALLS, *reversed(CALLS)):
        assert_same(q(P, X, **options), layer(P, X, **options))


def test_equal_values_of_different_types_are_not_confused():
    q = qpass.transform(lambda p, x, n: (x @ p["w"]).astype(jnp.int32) * n, KEEP)
    kinds = [q(P, X, n).dtype.kind for n in (1, 1.0, True, 1j)]
    assert kinds == ["i", "f", "i", "c"]
    q = qpass.transform(lambda p, x, n: jnp.copysign(x @ p["w"], n), KEEP)
    assert (np.asarray(q(P, X, 0.0)) >= 0).all()
    assert (np.asarray(q(P, X, -0.0)) <= 0).all()


@pytest.mark.parametrize("config", [Unhashable(), {"nested": Unhashable()}], ids=["bare", "nested"])
def test_a_static_argument_that_cannot_be_hashed(config):
    q = qpass.transform(layer, KEEP)
    with pytest.raises(qpass.CallError, match=r"Unhashable.*Pass it as an array, or close over it"):
        q(P, X, config=config)


def test_static_arguments_of_jit_by_number_and_name():
    q = qpass.jit(layer, rules=W8A8, static_argnums=2, static_argnames=("config", "dtype", "on"))
    f = jax.jit(qpass.transform(layer, W8A8), static_argnames=("act", "config", "dtype", "on"))
    for options in ({"config": Config(Kind.DOUBLE)}, {"dtype": jnp.bfloat16, "on": False}):
        assert_same(q(P, X, jax.nn.relu, **options), f(P, X, act=jax.nn.relu, **options))
    assert q._cache_size() == 2


def test_results_that_are_no_arrays():
    def fn(p, x):
        return {"y": x @ p["w"], "act": jnp.tanh, "name": "layer", "none": None, "kind": Kind.PLAIN}

    got = qpass.transform(fn, W8A8)(P, X)
    assert got["y"].shape == (2, 4)
    del got["y"]
    assert got == {"act": jnp.tanh, "name": "layer", "none": None, "kind": Kind.PLAIN}


def test_python_numbers_become_arrays_as_under_jit():
    def fn(p, x):
        return x @ p["w"], 3, 2.5, True

    assert_same(jax.jit(qpass.transform(fn, KEEP))(P, X), jax.jit(fn)(P, X))
    assert qpass.transform(fn, KEEP)(P, X)[1:] == (3, 2.5, True)
