"""Backward products of transformed operands: matrix, values, the same everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import qpass
from qpass import Backward, Rule
from qpass.errors import RuleError
from qpass.folds.hadamard import hadamard
from qpass.numerics import as_quantizer, mixed, quantize
from qpass.numerics.hadamard import SIGNS
from qpass.training import recipe
from tests.rewriting.oracle import random

MIXED = Backward(hadamard=True)
KEY = jax.random.key(7)


def exact(*shape, seed):
    """Sixteenths: sums of a few of them are no rounding in float32."""
    return (np.random.default_rng(seed).integers(-40, 41, shape) / 16).astype(np.float32)


def oracle(x, axis):
    """The transform in float64: rows that are missing are zeros."""
    matrix = np.asarray(SIGNS, np.float64)[:, None] * np.asarray(hadamard(16)) / 4
    x = np.moveaxis(np.asarray(x, np.float64), axis, -1)
    x = np.concatenate([x, np.zeros((*x.shape[:-1], -x.shape[-1] % 16))], -1)
    blocks = x.reshape(*x.shape[:-1], -1, 16) @ matrix
    return np.moveaxis(blocks.reshape(x.shape), -1, axis)


@pytest.mark.parametrize(("shape", "axis"), [((32, 3), 0), ((2, 17, 3), 1), ((5,), 0)])
def test_the_matrix_is_that_of_rotations_with_signs(shape, axis):
    x = exact(*shape, seed=1)
    np.testing.assert_array_equal(mixed(jnp.asarray(x), axis), np.float32(oracle(x, axis)))


def test_products_of_transformed_operands_are_the_same():
    """Seven tokens, so that zeros fill up the block."""
    x, g = exact(3, 7, 5, seed=1), exact(3, 7, 4, seed=2)
    got = np.einsum("btk,btn->kn", *(np.float64(mixed(jnp.asarray(v), 1)) for v in (x, g)))
    np.testing.assert_allclose(got, np.einsum("btk,btn->kn", np.float64(x), np.float64(g)))


def back(x, text, axis):
    """The float64 values that a quantizer makes of ``x`` for a product over that axis."""
    x = jnp.asarray(np.float32(x))
    return np.asarray(quantize(x, as_quantizer(text), (axis,)).dequantize(), np.float64)


X, W, G = exact(40, 24, seed=1), exact(24, 20, seed=2), exact(40, 20, seed=3)


def weighted(p, x):
    """A loss whose cotangent at the product is ``G``."""
    return jnp.sum((x @ p["w"]) * G)


@pytest.mark.parametrize("name", ["int4 g8", pytest.param("nvfp4", marks=pytest.mark.slow)])
def test_both_operands_are_transformed_and_then_quantized(name):
    rule = Rule(weight=name, act=name, grad=name, dlhs=MIXED, drhs=MIXED)
    dp, dx = jax.jit(jax.grad(qpass.transform(weighted, rule), (0, 1)))({"w": W}, X)
    dlhs = back(oracle(G, 1), name, 1) @ back(oracle(W, 1), name, 1).T
    drhs = back(oracle(X, 0), name, 0).T @ back(oracle(G, 0), name, 0)
    for got, wanted in ((dx, dlhs), (dp["w"], drhs)):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


def test_an_outlier_is_spread():
    """One token is 20 times the others, and would leave few codes to the 15 beside it."""
    x = random(64, 24, seed=1).at[5].multiply(20)
    g = random(64, 24, seed=2).at[9].multiply(20)

    def off(hadamard):
        drhs = Backward("int4 g16", "int4 g16", hadamard=hadamard)
        q = qpass.transform(lambda p: jnp.sum((x @ p["w"]) * g), Rule(weight="int8", drhs=drhs))
        got, wanted = jax.grad(q)({"w": jnp.ones((24, 24))})["w"], x.T @ g
        return float(np.abs(got - wanted).mean() / np.abs(wanted).mean())

    assert off(True) < 0.5 * off(False)


def scanned(p, x):
    """Rows of several examples through rematerialized layers."""
    layer = jax.checkpoint(lambda c, w: (c + jnp.tanh(c @ w), None))
    return (lax.scan(layer, x, p["layers"])[0] @ p["head"]).var()


def left(p, x):
    """The weight stands on the left; two axes are summed over, in another order there."""
    return (jnp.einsum("hd,tbd->bth", p["layers"][0], x) ** 2).sum()


PARAMS = {"layers": exact(2, 32, 32, seed=4) / 8, "head": exact(32, 16, seed=5) / 8}


RANDOM = Rule(weight="int8", act="int8", grad="int8 sr", drhs=MIXED)


@pytest.mark.parametrize(
    ("fn", "rules"),
    [
        (scanned, RANDOM),
        pytest.param(left, RANDOM, marks=pytest.mark.slow),
        pytest.param(scanned, recipe("te_nvfp4"), marks=pytest.mark.slow),
    ],
)
def test_a_whole_step_and_the_derivative_of_the_loss_are_one(fn, rules):
    """`qpass.jit` sees the derivative inside; `jax.grad` outside takes the op's own."""
    x = exact(2, 20, 32, seed=6)
    step = qpass.jit(jax.grad(fn), rules=rules).with_key(KEY)(PARAMS, x)
    outside = jax.jit(jax.grad(qpass.transform(fn, rules).with_key(KEY)))(PARAMS, x)
    for a, b in zip(*map(jax.tree.leaves, (step, outside)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_plans_tell_of_it():
    step = qpass.jit(jax.grad(scanned), rules=recipe("te_nvfp4"))
    rows = step.plan(PARAMS, exact(20, 32, seed=6)).rows
    told = {row.role: any("Hadamard" in note for note in row.notes) for row in rows}
    assert told == {"forward": False, "drhs": True, "dlhs": False}
    assert rows[0].scheme.endswith("drhs nvfp4 x nvfp4 sr hadamard")


def test_rows_of_experts_are_not_mixed():
    def experts(p, x):
        return (lax.ragged_dot(x, p["w"], jnp.array([20, 12], jnp.int32)) ** 2).sum()

    p, x = {"w": exact(2, 32, 16, seed=4)}, exact(32, 32, seed=6)
    (row,) = qpass.transform(experts, recipe("te_nvfp4")).plan(p, x).rows
    assert row.notes[0] == "drhs stays float: a Hadamard matrix would mix the rows of experts"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"grad": "int8 static"}, "gradient of drhs= a quantizer without static"),
        ({"act": "int8 delayed"}, "operand of drhs= a quantizer without static or delayed"),
        ({"drhs": Backward("int8", hadamard=True)}, None),
    ],
)
def test_ranges_from_elsewhere(rule, said):
    """They are those of values that are not transformed; the product's own quantizer holds."""
    given = {"weight": "int8", "act": "int8", "grad": "int8", "drhs": MIXED} | rule
    if said is None:
        assert Rule(**given).describe().endswith("drhs=int8 hadamard")
        return
    with pytest.raises(RuleError, match=said):
        Rule(**given)


@pytest.mark.parametrize(("axis", "stays"), [("x", False), ("t", True)])
def test_devices_do_not_divide_what_is_mixed(axis, stays):
    """Where shardings are part of the types; another axis that is summed over may be divided."""
    kind = (jax.sharding.AxisType.Explicit,)
    mesh = jax.make_mesh((2,), ("d",), axis_types=kind)
    spec = P(*("d" if a == axis else None for a in "xt"))
    x, p = exact(2, 32, 24, seed=1), {"w": W}
    q = qpass.transform(lambda p, x: (jnp.einsum("xtk,kn->xtn", x, p["w"]) ** 2).sum(), RANDOM)
    with jax.set_mesh(mesh):
        placed = jax.device_put((p, x), (NamedSharding(mesh, P()), NamedSharding(mesh, spec)))
        (row,) = q.plan(*placed).rows
        grads = jax.jit(jax.grad(q.with_key(KEY)))(*placed)
    assert any("that devices divide" in note for note in row.notes) == stays
    if not stays:
        np.testing.assert_array_equal(grads["w"], jax.grad(q.with_key(KEY))(p, x)["w"])


def test_wrong_words():
    with pytest.raises(RuleError, match="hadamard=True or False"):
        Backward(hadamard=16)  # pyright: ignore[reportArgumentType]
    with pytest.raises(RuleError, match="Drop hadamard= or residuals="):
        Backward(hadamard=True, residuals="forward")
