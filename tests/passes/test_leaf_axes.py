"""Axes that a quantizer names are those of the operand, wherever in the leaf they lie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.programs import normal

RNG = np.random.default_rng(0)
STACK, X = normal(RNG, (3, 8, 8)), normal(RNG, (2, 8))


def scanned(p, x):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"])[0]


def transposed_in_a_scan(p, x):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w.T), None), x, p["w"])[0]


READS = {
    "scanned": (scanned, STACK, (3, 1, 8)),
    "transposed in a scan": (transposed_in_a_scan, STACK, (3, 8, 1)),
    "transposed": (lambda p, x: x @ p["w"].T, STACK[0], (8, 1)),
    "a row of layers": (lambda p, x: x @ p["w"][1], STACK, (3, 1, 8)),
    "merged": (lambda p, x: x @ p["w"].reshape(8, 8), STACK[0].reshape(8, 2, 4), (1, 2, 4)),
    "as it is": (lambda p, x: x @ p["w"], STACK[0], (1, 8)),
}


def stored(fn, leaf, weight):
    q = qpass.transform(fn, [qpass.Rule(weight=weight)])
    return q, q.quantize({"w": leaf}, X)["w"]


def scales(w):
    return tuple(w.scale.shape[w.physical(axis)] for axis in range(w.ndim))


@pytest.mark.parametrize("axis", ["axis1", "axis-1"])
@pytest.mark.parametrize(("fn", "leaf", "wanted"), READS.values(), ids=READS)
def test_axes_of_the_operand_are_found_in_the_leaf(fn, leaf, wanted, axis):
    q, w = stored(fn, leaf, f"int8 {axis}")
    assert scales(w) == wanted
    # Axis 1 is the one that is not contracted: the same numbers as per channel.
    channel, like = stored(fn, leaf, "int8")
    assert scales(like) == wanted
    np.testing.assert_array_equal(jax.jit(q)({"w": w}, X), jax.jit(channel)({"w": like}, X))
    np.testing.assert_array_equal(jax.jit(q)({"w": w}, X), jax.jit(q)({"w": leaf}, X))


INNERMOST = {
    "as it is": (lambda p, x: x @ p["w"], (8, 6), "g4", (2, 6)),
    "transposed": (lambda p, x: x @ p["w"].T, (6, 8), "g4", (6, 2)),
    "merged": (lambda p, x: x @ p["w"].reshape(8, 6), (2, 4, 6), "g8", (2, 1, 6)),
    "merged blocks": (lambda p, x: x @ p["w"].reshape(8, 6), (8, 3, 2), "b4x4", (2, 3, 1)),
    "in the order of the stored parameter": (
        lambda p, x: jnp.einsum("mhk,khd->md", x.reshape(2, 2, 4), p["w"]),
        *((4, 2, 6), "g4", (4, 1, 6)),
    ),
}


@pytest.mark.parametrize(("fn", "shape", "cut", "wanted"), INNERMOST.values(), ids=INNERMOST)
def test_groups_and_blocks_lie_along_the_innermost_axes_of_the_leaf(fn, shape, cut, wanted):
    """They end with the axis, where the product sees a longer one."""
    leaf = normal(RNG, shape)
    q, w = stored(fn, leaf, f"int4 {cut}")
    assert scales(w) == wanted
    np.testing.assert_array_equal(jax.jit(q)({"w": w}, X), jax.jit(q)({"w": leaf}, X))


def test_a_contracted_axis_that_is_named():
    _, w = stored(scanned, STACK, "int8 axis0")
    assert scales(w) == (3, 8, 1)


def test_a_scale_for_part_of_an_axis_of_the_leaf_is_made_on_every_call():
    def heads(p, x):
        return jnp.einsum("bd,dnh->bnh", x, p["w"].reshape(8, 2, 4))

    q, w = stored(heads, STACK[0], "int8 axis1")
    assert isinstance(w, jax.Array)
    (row,) = q.plan({"w": w}, X).rows
    assert "only a part of an axis" in row.notes[0]
    # One scale for each head: the numbers of a leaf that lies in heads.
    _, own = stored(lambda p, x: jnp.einsum("bd,dnh->bnh", x, p["w"]), w.reshape(8, 2, 4), "int8")
    assert scales(own) == (1, 2, 4)
    q_own, own = stored(
        lambda p, x: jnp.einsum("bd,dnh->bnh", x, p["w"]), w.reshape(8, 2, 4), "int8 axis1"
    )
    assert scales(own) == (1, 2, 1)
    np.testing.assert_array_equal(jax.jit(q)({"w": w}, X), jax.jit(q_own)({"w": own}, X))


def test_an_axis_that_the_operand_does_not_have():
    with pytest.raises(qpass.QPassError, match=r"shape \(8, 8\); got 2"):
        stored(scanned, STACK, "int8 axis2")
