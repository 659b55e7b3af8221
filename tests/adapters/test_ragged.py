"""Adapters of experts: rows sorted by expert, each beside LoRA written by hand in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qpass
from tests.programs import normal

COUNTS = np.asarray([5, 0, 4], np.int32)  # of 12 rows
LORA = qpass.LoRA(rank=3, alpha=6.0)
RNG = np.random.default_rng(0)
X, W = normal(RNG, (12, 16)), normal(RNG, (3, 16, 8))


def plain(p, x):
    return lax.ragged_dot(x, p["w"], jnp.asarray(COUNTS))


def turned(p, x):
    """Both come transposed, and experts are the last axis of the weight."""
    numbers = lax.RaggedDotDimensionNumbers((((0,), (1,)), ((), ())), [1], [2])
    return lax.ragged_dot_general(x.T, p["w"], jnp.asarray(COUNTS), numbers)


def scanned(p, x):
    """Two layers, each with experts of its own, and back to the width of the input."""

    def layer(c, w):
        h = lax.ragged_dot(c, w, jnp.asarray(COUNTS))
        return c + lax.ragged_dot(h, jnp.swapaxes(w, 1, 2), jnp.asarray(COUNTS)), None

    return lax.scan(layer, x, p["w"])[0]


def batched(p, x):
    """Two batches, each with experts of its own."""
    numbers = lax.RaggedDotDimensionNumbers((((2,), (2,)), ((0,), (0,))), [1], [1])
    return lax.ragged_dot_general(x, p["w"], jnp.asarray(COUNTS), numbers)


TWO = np.stack([W, W[::-1]]) / 4
CASES = {
    "rows": (plain, W, None),
    "rows, int8": (plain, W, "int8"),
    "experts last": (turned, np.transpose(W, (2, 1, 0)), "int8"),
    "scan, both ways": (scanned, TWO, None),
    "batches": (batched, TWO, "int8"),
}


def trained(q, *args):
    keys = jax.random.split(jax.random.key(5), 2)
    made = q.init_adapters(keys[0], *args)
    return jax.tree.map(lambda x: 0.3 * jax.random.normal(keys[1], x.shape, x.dtype), made)


def loss_of(fn):
    return lambda *args: jnp.sum(jnp.sin(fn(*args)))


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_sum_of_weights(name):
    """The float program on ``W + 2 A B``, of which gradients by A and B are known."""
    fn, w, weight = CASES[name]
    x = np.stack([X, X[::-1]]) if fn is batched else X
    q = qpass.transform(fn, qpass.Rule(weight=weight, lora=LORA))
    params, adapters = {"w": w}, trained(q, {"w": w}, x)
    assert {k: v.shape for k, v in adapters["w"].items()} == shapes(name, w)
    base = w if weight is None else q.quantize(params, x)["w"].dequantize()

    def whole(factors, x):
        a, b = factors["w"]["a"], factors["w"]["b"]
        added = jnp.einsum("...kr,...rn->...kn", a, b) * 2
        return fn({"w": base + (jnp.transpose(added, (2, 1, 0)) if fn is turned else added)}, x)

    got = jax.jit(lambda a, x: q.with_adapters(a)(params, x))(adapters, x)
    np.testing.assert_allclose(got, whole(adapters, x), rtol=0, atol=2e-5)
    slopes = jax.jit(jax.grad(loss_of(lambda a, x: q.with_adapters(a)(params, x)), (0, 1)))
    wanted = jax.jit(jax.grad(loss_of(whole), (0, 1)))(adapters, x)
    for mine, theirs in zip(*map(jax.tree.leaves, (slopes(adapters, x), wanted)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=2e-5 * float(jnp.abs(theirs).max()))


def shapes(name, w):
    """Each expert has factors of its own, also those that no row belongs to."""
    lead = w.shape[:-2] if name != "experts last" else (3,)
    return {"a": (*lead, 16, 3), "b": (*lead, 3, 8)}


def test_rows_by_hand():
    q = qpass.transform(plain, qpass.Rule(weight="int8", act="int8", lora=LORA))
    p, adapters = {"w": W}, trained(q, {"w": W}, X)
    added = np.asarray(q.with_adapters(adapters)(p, X), np.float64) - q(p, X)
    a, b = (np.asarray(adapters["w"][k], np.float64) for k in "ab")
    wanted = np.zeros((12, 8))
    for row, expert in enumerate(np.repeat(np.arange(3), COUNTS)):
        wanted[row] = 2 * np.asarray(X[row], np.float64) @ a[expert] @ b[expert]
    np.testing.assert_allclose(added, wanted, rtol=0, atol=1e-4)
    merged = q.merge(adapters, p, X)
    assert merged["w"].shape == W.shape


def test_a_sum_over_rows_has_none():
    def summed(p, x):
        numbers = lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), [0], [])
        return lax.ragged_dot_general(x, p["w"], jnp.asarray(COUNTS), numbers)

    q = qpass.transform(summed, qpass.Rule(lora=LORA))
    with pytest.raises(qpass.RuleError, match="it is a ragged_dot_general, no plain product"):
        q.plan({"w": normal(RNG, (12, 8))}, X)
