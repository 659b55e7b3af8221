"""Functions as people write them: methods, partials, objects; any arguments and results."""

import collections
import dataclasses
import functools
from types import MappingProxyType

import jax
import jax.numpy as jnp
import pytest

import qpass
from tests.rewriting.oracle import INT8, close, plain, quantized, random

P = {"a": random(8, 8, seed=1)}
X = random(4, 8, seed=3)
Pair = collections.namedtuple("Pair", "left right")


@dataclasses.dataclass(frozen=True)
class Model:
    factor: float

    def __call__(self, p, x):
        return plain(x, p["a"]) * self.factor

    def method(self, p, x):
        return self(p, x)

    @classmethod
    def of_the_class(cls, p, x):
        return cls(2.0)(p, x)

    @staticmethod
    def static(p, x):
        return plain(x, p["a"]) * 2.0

    @property
    def bound(self):
        return functools.partial(lambda factor, p, x: plain(x, p["a"]) * factor, self.factor)


MODEL = Model(2.0)
CALLABLES = {
    "object": MODEL,
    "method": MODEL.method,
    "class method": Model.of_the_class,
    "static method": Model.static,
    "partial by position": MODEL.bound,
    "partial by name": functools.partial(lambda p, x, k: plain(x, p["a"]) * k, k=2.0),
    "jitted method": jax.jit(MODEL.method),
    "wrapped": functools.wraps(MODEL.method)(lambda p, x: MODEL(p, x)),
    "any arguments": lambda *args, **kwargs: MODEL(*args, **kwargs),
}


@pytest.mark.parametrize("fn", CALLABLES.values(), ids=CALLABLES)
def test_callables(fn):
    close(qpass.transform(fn, INT8)(P, X), quantized(X, P["a"]) * 2)


def test_parameters_by_name():
    wanted = quantized(X, P["a"])
    by_name = [
        lambda x, p: plain(x, p["a"]),
        lambda x, *, p: plain(x, p["a"]),
        lambda x, p=MappingProxyType({}): plain(x, p["a"]),
        lambda x, **rest: plain(x, rest["p"]["a"]),
    ]
    for fn in by_name:
        close(qpass.transform(fn, INT8, params="p")(X, p=P), wanted)
    q = qpass.transform(by_name[2], INT8, params="p")
    with pytest.raises(qpass.CallError, match="params='p' names no argument of this call"):
        q(X)


def test_results_keep_their_types():
    def f(p, x):
        y = plain(x, p["a"])
        return Pair({"y": y, "none": None, "empty": [()]}, (x, y.sum(), jnp.int32(3), "text"))

    q = qpass.transform(f, INT8)
    got, wanted = q(P, X), f(P, X)
    assert isinstance(got, Pair)
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    assert got.right[3] == "text"
    assert got.left["none"] is None
    close(got.left["y"], quantized(X, P["a"]))


def test_several_results_of_one_operation():
    def f(p, x):
        y = plain(x, p["a"])
        values, order = jax.lax.top_k(y, 3)
        whole, ranks = jax.lax.sort((y, jnp.arange(32).reshape(4, 8)), num_keys=1)
        return values, order, whole, ranks, jnp.split(y, 2)

    wanted = f({"a": jnp.eye(8)}, quantized(X, P["a"]))
    close(qpass.transform(f, INT8)(P, X), wanted)


def test_values_beside_the_result():
    def f(p, x):
        return plain(x, p["a"]).sum(), {"input": x, "count": 3}

    q = qpass.transform(f, INT8)
    (value, aux), slope = jax.value_and_grad(q, has_aux=True)(P, X)
    close(value, quantized(X, P["a"]).sum(), 1e-5)
    assert set(aux) == {"input", "count"}
    close(slope["a"], jax.grad(lambda w: quantized(X, w).sum())(P["a"]), 1e-5)


def test_leaves_that_are_no_arrays():
    q = qpass.transform(lambda p, x: plain(x, p["a"]) * p["k"], INT8)
    params = {**P, "none": None, "empty": [], "name": "text", "act": jnp.sin, "k": 3}
    stored = q.quantize(params, X)
    assert stored["name"] == "text"
    assert stored["act"] is jnp.sin
    for given in (params, stored):
        close(q(given, X), quantized(X, P["a"]) * 3)


def test_shapes_instead_of_arrays():
    q = qpass.transform(lambda p, x: plain(x, p["a"]).astype(jnp.bfloat16), INT8)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (P, X))
    wanted = jax.ShapeDtypeStruct((4, 8), jnp.bfloat16)
    assert jax.eval_shape(q, *shapes) == wanted
    stored = jax.eval_shape(q.quantize, *shapes)
    assert jax.eval_shape(q, stored, shapes[1]) == wanted
    slope = jax.grad(lambda p, x: q(p, x).astype(jnp.float32).sum())
    assert jax.eval_shape(slope, *shapes) == shapes[0]
    assert jax.jit(q).lower(*shapes).out_info.shape == (4, 8)
