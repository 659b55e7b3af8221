"""Which weights are masked, and along which axis; the others are named with the reason."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import qpass
from qpass.errors import RuleError
from tests.adapters.products import PRODUCTS
from tests.programs import CASES, matmul

RULE = qpass.Rule(sparsity=qpass.NM(2, 4))
W, X = {"w": jnp.ones((8, 8))}, jnp.ones((4, 8))
# The innermost axis of the weight that is summed over.
AXES = {
    "plain": 0,
    "transposed": 1,
    "left": 1,
    "heads out": 0,
    "heads in": 1,
    "experts": 1,
    "batch inside": 0,
    "experts left": 2,
}


def plan(fn, *args, rules=RULE, **options):
    return qpass.transform(fn, rules, **options).plan(*args)


@pytest.mark.parametrize("name", AXES)
def test_neighbours_lie_along_what_is_summed_over(name):
    product = PRODUCTS[name]
    (masked,) = plan(product, *product.arguments()).masked.values()
    assert (masked.path, masked.axis) == ("w", AXES[name])


def test_layers_of_a_scan_keep_their_axis_and_the_plan_shows_it():
    shown = plan(CASES["scanned"].fn, *CASES["scanned"].arguments())
    (masked,) = shown.masked.values()
    assert masked.axis == 1
    assert shown.rows[0].reason == "kept float by rule 0, 2:4"
    both = qpass.Rule(weight="int8", sparsity=qpass.NM(1, 3), lora=qpass.LoRA(rank=2))
    assert plan(matmul, W, X, rules=both).rows[0].scheme == "int8 weight-only, 1:3, lora r2"
    assert both.describe() == "weight=int8 lora=lora r2 sparsity=1:3"


def step(p, x):
    slope = jax.grad(lambda p: jnp.sum(jnp.sin(matmul(p, x))))(p)
    return {"w": p["w"] - 0.1 * slope["w"]}


REFUSED = {
    "a convolution": (
        lambda p, x: lax.conv(x[None, None], p["w"][None, None, :2, :2], (1, 1), "SAME"),
        "it is a conv_general_dilated, no plain product",
    ),
    "its own update": (step, "w is read by sub .*transform the loss, not the training step"),
    "two directions": (
        lambda p, x: (x @ p["w"]) @ p["w"].T,
        "2:4 along axis 0, this one 2:4 along",
    ),
    "mixed axes": (
        lambda p, x: x[:, :4] @ p["w"].reshape(16, 4)[:4],
        "one axis of what is summed over",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_weight_that_cannot_be_masked_is_named(name):
    fn, reason = REFUSED[name]
    with pytest.raises(RuleError, match=rf"Drop sparsity= .*general.*{reason}"):
        plan(fn, W, X)
    with pytest.warns(UserWarning, match=reason):
        assert not plan(fn, W, X, strict=False).masked


def test_rules_that_contradict_themselves_are_refused():
    with pytest.raises(RuleError, match="Drop keep=True or sparsity="):
        qpass.Rule(sparsity=qpass.NM(2, 4), keep=True)
    with pytest.raises(RuleError, match=r"Give sparsity= as qpass\.NM"):
        qpass.Rule(sparsity="2:4")


def test_backward_products_inside_do_not_mask_along_axes_of_their_own():
    rule = qpass.Rule(weight="int8", grad="int8", sparsity=qpass.NM(2, 4))
    loss = lambda p, x: jnp.sum(jnp.sin(x @ p["w"]))  # noqa: E731
    shown = qpass.value_and_grad(qpass.transform(loss, rule)).plan(W, X)
    assert [masked.axis for masked in shown.masked.values()] == [0]
