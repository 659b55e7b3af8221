"""A product that may be slower than float is told of beforehand, everywhere a plan is read."""

import dataclasses

import jax.numpy as jnp
import pytest

import qpass
from qpass.views import Row
from qpass.views.json_view import from_json
from qpass_kernels import CPU, KERNELS, portable
from qpass_kernels.kernel import Chores

NARROW = {"w": jnp.ones((1684, 1))}, jnp.ones((165, 1684))
WIDE = {"w": jnp.ones((1536, 1536))}, jnp.ones((16, 1536))
INT8 = [qpass.Rule(weight="int8", act="int8")]


def product(p, x):
    return x @ p["w"]


def plan(arguments, kernels=KERNELS, rules=INT8, **more):
    return qpass.transform(product, rules, kernels=kernels).plan(*arguments, **more)


@pytest.mark.parametrize("kernels", [KERNELS, portable(KERNELS)], ids=["all", "portable"])
def test_a_narrow_product_is_told_of_and_quantized_all_the_same(kernels):
    found = plan(NARROW, kernels)
    (row,) = found.rows
    assert row.scheme == "int8 x int8"
    assert "of float32's speed here: activations cost more" in row.slow
    said = " ".join(row.slow.split())
    for text in (str(found), str(found.why(row.id)), found.to_html()):
        assert said.split("×")[0] in " ".join(text.split())
    (read,) = from_json(found.to_json())
    assert read == row


def test_a_wide_product_is_not():
    (row,) = plan(WIDE).rows
    assert row.slow == ""
    assert row.told == row.notes


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_are_not_judged(platform):
    assert [row.slow for row in plan(NARROW, platform=platform).rows] == [""]


PREPARED = [  # contracted sizes, weight, activation, what is done at every call
    ((64,), "int8 g32", None, Chores()),
    ((65,), "int8 g32", None, Chores()),
    ((2, 64), "int8 g32", None, Chores()),
    ((1, 65), "int8 g32", None, Chores()),
    ((2, 65), "int8 g32", None, Chores(padded=True)),
    ((64,), "nf4 g32", None, Chores()),
    ((65,), "nf4 g32", None, Chores(decoded="nf4")),
    ((64,), "int3", "int8", Chores(decoded="int3")),
    ((64,), "int8", "int8 asym", Chores(formula=True)),
]


@pytest.mark.parametrize(("shape", "weight", "act", "prepared"), PREPARED)
def test_the_kernel_learns_what_is_done_at_every_call(shape, weight, act, prepared):
    """The weight is padded where a short group would not end the contracted axes."""
    asked = []

    def slow(product, chores):
        asked.append(chores)
        return "slow"

    mine = dataclasses.replace(CPU, slow=slow)

    def product(p, x):
        return jnp.tensordot(x, p["w"], len(shape))

    q = qpass.transform(product, qpass.Rule(weight=weight, act=act), kernels=(mine,))
    (row,) = q.plan({"w": jnp.ones((*shape, 8))}, jnp.ones((2, *shape))).rows
    assert (row.slow, asked) == ("slow", [prepared])


def test_what_is_left_float_is_not_told_of():
    rows = plan(NARROW, rules=[]).rows
    assert [(row.quantized, row.slow) for row in rows] == [(False, "")]


def test_a_row_tells_notes_first():
    row = Row("a", "dot_general", "", "forward", "", "", "", notes=("note",), slow="slow")
    assert row.told == ("note", "slow")
