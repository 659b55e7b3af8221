"""jax.export of transformed functions."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import qpass
from tests.rewriting.oracle import INT8, close, plain, quantized, random

W = random(8, 8, seed=1)
X = random(4, 8, seed=2)
q = qpass.transform(lambda w, x: jnp.tanh(plain(x, w)), INT8)


def test_round_trip_with_a_derivative():
    exported = export.export(jax.jit(q))(W, X)
    loaded = export.deserialize(exported.serialize(vjp_order=1))
    close(loaded.call(W, X), jnp.tanh(quantized(X, W)))
    slope = jax.grad(lambda w: loaded.call(w, X).sum())(W)
    close(slope, jax.grad(lambda w: jnp.tanh(quantized(X, w)).sum())(W))


def test_symbolic_batch():
    (rows,) = export.symbolic_shape("rows")
    shapes = [jax.ShapeDtypeStruct((8, 8), np.float32), jax.ShapeDtypeStruct((rows, 8), np.float32)]
    exported = export.export(jax.jit(q))(*shapes)
    for n in (1, 4):
        close(exported.call(W, X[:n]), jnp.tanh(quantized(X[:n], W)))


def test_for_other_platforms_and_on_stored_weights():
    stored = q.quantize(W, X)
    codes, tree = jax.tree.flatten(stored)
    served = jax.jit(lambda codes, x: q(jax.tree.unflatten(tree, codes), x))
    exported = export.export(served, platforms=("cpu", "tpu"))(codes, X)
    close(exported.call(codes, X), jnp.tanh(quantized(X, W)))


def test_an_exported_program_inside_is_listed_as_hidden():
    exported = export.export(jax.jit(plain))(X, W)
    outer = qpass.transform(lambda w, x: exported.call(plain(x, w), w), INT8)
    close(outer(W, X), plain(quantized(X, W), W), 1e-2)
    rows = outer.plan(W, X).rows
    assert any("that was exported" in row.reason for row in rows if row.role == "opaque")
