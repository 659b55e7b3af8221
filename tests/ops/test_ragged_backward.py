"""Quantized backward products of experts: their values, and that they are the same everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qpass
from qpass import Backward, Rule
from qpass.numerics import as_quantizer, quantize
from qpass.training import recipe
from tests.jaxprs import equations
from tests.kernels.ragged_oracle import SIZES
from tests.rewriting.oracle import random

M, K, N, E = 40, 32, 24, 4
X, W, G = random(M, K, seed=1), random(E, K, N, seed=2), random(M, N, seed=3)
COUNTS = SIZES["rows left"]
KEY = jax.random.key(5)
CODES = Backward(residuals="forward")


def weighted(p, x):
    """A loss whose cotangent at the product is ``G``."""
    return jnp.sum(lax.ragged_dot(x, p["w"], jnp.array(COUNTS, jnp.int32)) * G)


def back(x, text, *axes):
    """The float64 values that a quantizer makes of ``x`` for a product over these axes."""
    return np.float64(quantize(jnp.asarray(x), as_quantizer(text), axes).dequantize())


def by_rows(g, w):
    """The gradient of rows: those of each expert by the transpose of its matrix."""
    owner = np.repeat(np.arange(E), COUNTS)
    some = np.einsum("mn,mkn->mk", g[: len(owner)], w[owner])
    return np.concatenate([some, np.zeros((M - len(owner), K))])


def by_sums(x, g):
    """The gradient of experts: sums over the rows of each."""
    ends = np.cumsum(COUNTS)
    return np.stack([x[e - n : e].T @ g[e - n : e] for n, e in zip(COUNTS, ends, strict=True)])


def slopes(rule):
    dp, dx = jax.jit(jax.grad(qpass.transform(weighted, rule), (0, 1)))({"w": W}, X)
    return dx, dp["w"]


def close(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * np.abs(b).max())


@pytest.mark.parametrize(
    ("weight", "act", "grad"),
    [
        ("int8", "int8", "int8"),
        ("fp8_e4m3", "fp8_e4m3", "fp8_e5m2"),
        ("int4 g8", "int8 asym", "int8 g16"),
    ],
)
def test_scales_lie_along_the_axes_that_each_product_sums_over(weight, act, grad):
    """Groups of rows end where experts do not."""
    dlhs = by_rows(back(G, grad, 1), back(W, weight, 2))
    drhs = by_sums(back(X, act, 0), back(G, grad, 0))
    close(slopes(Rule(weight=weight, act=act, grad=grad)), (dlhs, drhs))


def test_one_product_alone_leaves_the_other_straight_through():
    """The codes of the forward product serve, with their scales in the gradient."""
    rule = Rule(weight="int8", act="int8", drhs=Backward("int4", residuals="forward"))
    x = quantize(jnp.asarray(X), as_quantizer("int8"), (1,))
    drhs = by_sums(np.float64(x.codes), back(G * np.asarray(x.scale), "int4", 0))
    close(slopes(rule), (by_rows(np.float64(G), back(W, "int8", 1)), drhs))


# What follows is differentiated once by `jax.grad` outside, once inside of what is transformed.


def layers(p, x):
    """Scanned layers, computed again in the backward pass; rows of each expert change places."""
    sizes = jnp.array(COUNTS, jnp.int32)

    @jax.checkpoint
    def layer(x, w):
        hidden = jnp.tanh(lax.ragged_dot(x, w["up"], sizes))
        return x + lax.ragged_dot(hidden, w["down"], sizes), None

    return jnp.mean(lax.scan(layer, x, p)[0] ** 2)


P = {"up": random(2, E, K, N, seed=4) / 6, "down": random(2, E, N, K, seed=5) / 5}
KINDS = {
    "int8": Rule(weight="int8", act="int8", grad="int8"),
    "tensor": Rule(weight="int8 tensor", act="int8 tensor", grad="int8 tensor"),
    "codes": Rule(weight="int8", act="int8", grad="fp8_e5m2", dlhs=CODES, drhs=CODES),
    "random": Rule(weight="int8", act="int8 sr", grad="int8 sr", dlhs=Backward("int8", "int8 sr")),
    "groups": Rule(weight="int4 g8", act="int8 g8", grad="int8 g8"),
}


def outside(fn, rule):
    return jax.grad(qpass.transform(fn, rule).with_key(KEY))


def inside(fn, rule):
    return qpass.transform(jax.grad(fn), rule).with_key(KEY)


@pytest.mark.parametrize(
    "kind", ["codes", *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS if k != "codes")]
)
def test_inside_and_outside_are_one(kind):
    one, other = (jax.jit(make(layers, KINDS[kind]))(P, X) for make in (outside, inside))
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("make", [outside, inside])
def test_no_product_is_left_in_float(make):
    program = jax.make_jaxpr(make(layers, KINDS["int8"]))(P, X)
    names = ("ragged_matmul", "ragged_dot_general")  # of the latter only one of codes, not for CPU
    found = [e for e in equations(program.jaxpr) if e.primitive.name in names]
    assert len(found) >= 2 + 2 + 2
    assert {v.aval.dtype.name for e in found for v in e.invars[:2]} == {"int8"}


RECIPES = {"int8": 0.05, "te_fp8_delayedscaling": 0.15, "te_mxfp8": 0.15}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_for_experts_too(name):
    rows = qpass.value_and_grad(qpass.transform(layers, recipe(name))).plan(P, X).rows
    assert {row.role for row in rows} == {"forward", "dlhs", "drhs"}
    assert all(row.kernel for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_train_experts(name):
    step = qpass.value_and_grad(qpass.transform(layers, recipe(name)))
    wanted = jax.grad(layers)(P, X)
    try:
        state = step.init_state(P, X)
    except qpass.StateError:
        _, got = jax.jit(step)(P, X)
    else:
        apply = jax.jit(step.apply)
        _, state = apply(state, P, X)
        (_, got), _ = apply(state, P, X)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert 0 < float(jnp.abs(a - b).mean() / jnp.abs(b).mean()) < RECIPES[name]


def test_what_stays_float_says_why():
    """The gradient of experts where rows have another axis; the other one is quantized."""
    numbers = lax.RaggedDotDimensionNumbers((((2,), (1,)), ((), ())), [0], [0])
    sizes = jnp.array(COUNTS, jnp.int32)

    def loss(p, x):
        return jnp.sum(lax.ragged_dot_general(x, p["w"], sizes, numbers) ** 2)

    x = random(M, 2, K, seed=6)
    (row,) = qpass.transform(loss, KINDS["int8"]).plan({"w": W}, x).rows
    assert any("drhs stays float: more is summed over" in note for note in row.notes)
    assert not any("dlhs" in note for note in row.notes)
