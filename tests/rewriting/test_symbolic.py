"""Symbolic sizes in every operand, exported with derivatives and for every platform."""

import jax
import jax.numpy as jnp
import pytest
from jax import export

import qpass
from tests.rewriting.oracle import INT8, close, plain, random

W = {"a": random(8, 8, seed=1)}
X = random(4, 8, seed=3)
ROWS, INNER, COLUMNS = export.symbolic_shape("rows, inner, columns")


def right(p, x):
    return jnp.tanh(plain(x, p["a"]))


def left(p, x):
    return jnp.tanh(plain(p["a"], x.T))


SIZES = {
    "rows": ((ROWS, 8), (8, 8)),
    "columns": ((ROWS, 8), (8, COLUMNS)),
    "inner": ((4, INNER), (INNER, 8)),
    "all": ((ROWS, INNER), (INNER, COLUMNS)),
}


def abstract(fn, sizes):
    x, w = sizes
    w = w if fn is right else w[::-1]
    return {"a": jax.ShapeDtypeStruct(w, "float32")}, jax.ShapeDtypeStruct(x, "float32")


@pytest.mark.parametrize("fn", [right, left])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_stored_weights_of_symbolic_sizes(fn, sizes):
    q = qpass.transform(fn, INT8)
    shapes, x = abstract(fn, sizes)
    exported = export.export(jax.jit(q))(q.quantize(shapes, x), x)
    close(exported.call(q.quantize(W, X), X), q(W, X))


@pytest.mark.parametrize("fn", [right, left])
def test_gradients_of_float_weights_of_symbolic_sizes(fn):
    q = qpass.transform(fn, INT8)
    slope = jax.grad(lambda p, x: q(p, x).sum(), (0, 1))
    exported = export.export(jax.jit(slope))(*abstract(fn, SIZES["all"]))
    close(exported.call(W, X), slope(W, X))


@pytest.mark.parametrize("fn", [right, left])
def test_groups_along_a_symbolic_size_are_refused(fn):
    rule = qpass.Rule(path="**", weight=qpass.int4.grouped(4))
    q = qpass.transform(fn, rule, strict=False)
    with pytest.warns(UserWarning, match="groups along the symbolic size inner"):
        exported = export.export(jax.jit(q))(*abstract(fn, SIZES["inner"]))
    close(exported.call(W, X), fn(W, X))
    given = abstract(fn, SIZES["columns"])
    exported = export.export(jax.jit(qpass.transform(fn, rule)))(*given)
    close(exported.call(W, X), qpass.transform(fn, rule)(W, X))


def test_round_trip_of_stored_weights_with_a_derivative_for_every_platform():
    q = qpass.transform(right, INT8)
    stored = q.quantize(W, X)
    symbolic = abstract(right, SIZES["rows"])[1]
    exported = export.export(jax.jit(q), platforms=("cpu", "cuda", "tpu"))(stored, symbolic)
    loaded = export.deserialize(exported.serialize(vjp_order=1))
    assert loaded.platforms == ("cpu", "cuda", "tpu")
    close(loaded.call(stored, X), q(W, X))
    close(jax.grad(lambda x: loaded.call(stored, x).sum())(X), jax.grad(lambda x: q(W, x).sum())(X))
