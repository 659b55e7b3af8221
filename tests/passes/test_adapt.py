"""Which products take adapters; the others are named with the reason."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import qpass
from qpass.errors import RuleError
from tests.programs import CASES, matmul

LORA = qpass.LoRA(rank=2)
W, X = {"w": jnp.ones((8, 8))}, jnp.ones((4, 8))


def plan(fn, *args, rules=None, **options):
    return qpass.transform(fn, rules or [qpass.Rule(lora=LORA)], **options).plan(*args)


def test_the_plan_shows_adapters():
    fn, args = CASES["chain"].fn, CASES["chain"].arguments()
    rules = [qpass.Rule(path="up", weight="int4 g8", lora=LORA), qpass.Rule(lora=LORA)]
    shown = plan(fn, *args, rules=rules)
    up, down = shown.rows
    assert up.scheme == "int4 g8 weight-only, lora r2"
    assert (down.scheme, down.reason) == ("", "kept float by rule 1, lora r2")
    assert "lora r2" in str(shown)
    assert rules[0].describe() == "path=up weight=int4 g8 lora=lora r2"


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 0},
        {"rank": 2.0},
        {"alpha": 0.0},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"init_a": 3},
        {"dtype": "int8"},
    ],
)
def test_impossible_adapters_are_refused(options):
    with pytest.raises(RuleError, match="Give LoRA"):
        qpass.LoRA(**options)


def test_rules_that_contradict_themselves_are_refused():
    with pytest.raises(RuleError, match="Drop keep=True or lora="):
        qpass.Rule(lora=LORA, keep=True)
    with pytest.raises(RuleError, match="Drop role= or lora="):
        qpass.Rule(lora=LORA, role=("dlhs", "forward"))
    with pytest.raises(RuleError, match=r"Give lora= as qpass\.LoRA"):
        qpass.Rule(lora=8)


def conv(p, x):
    return lax.conv(x[None, None], p["w"][None, None, :2, :2], (1, 1), "SAME")


@jax.custom_vjp
def own(x, w):
    return x @ w


own.defvjp(lambda x, w: (x @ w, (x, w)), lambda res, g: (g @ res[1].T, res[0].T @ g))

REFUSED = {
    "a convolution": (conv, "it is a conv_general_dilated, no plain product"),
    "a derivative rule": (lambda p, x: own(x, p["w"]), "derivative rule of its own"),
    "its own gradient": (
        jax.grad(lambda p, x: jnp.sum(jnp.sin(matmul(p, x)))),
        "transform the loss, and call jax.grad on that",
    ),
    "mixed axes": (
        lambda p, x: jnp.einsum("bk,kn->bn", x[:, :4], p["w"].reshape(16, 4)[:4]),
        "one axis of what is summed over",
    ),
    "another contraction": (
        lambda p, x: (
            x @ p["w"],
            jnp.einsum("bk,kn->b", x, p["w"]),
            jnp.einsum("bkn,kn->b", x3(x), p["w"]),
        ),
        "contracts other axes of w",
    ),
    "an index known later": (
        lambda p, x: lax.fori_loop(
            0, 2, lambda k, h: h @ lax.dynamic_slice(p["w"], (k, 0), (4, 8))[:, :4], x[:, :4]
        ),
        "cannot follow the dynamic_slice",
    ),
}


def x3(x):
    return x[:, :, None] * x[:, None, :]


@pytest.mark.parametrize("name", REFUSED)
def test_a_product_that_cannot_have_one_is_named(name):
    fn, reason = REFUSED[name]
    with pytest.raises(RuleError, match=rf"Drop lora= .*{reason}") as error:
        plan(fn, W, X)
    assert "_general" in str(error.value)
    with pytest.warns(UserWarning, match=reason):
        loose = plan(fn, W, X, strict=False)
    assert any(d.adapter is None for d in loose.decisions)


def test_a_weight_that_devices_split_is_named():
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
    split = jax.shard_map(matmul, mesh=mesh, in_specs=(P(None, "d"), P()), out_specs=P(None, "d"))
    with pytest.raises(
        RuleError, match=r"w/dot_general.0: .*the shard_map before it, which splits"
    ):
        plan(split, W, X)


def test_two_rules_for_one_weight_are_named():
    first = qpass.Rule(where=lambda site: site.id.endswith(".0"), lora=LORA)
    rules = [first, qpass.Rule(lora=qpass.LoRA(rank=3))]

    def fn(p, x):
        return jnp.einsum("bk,kn->bn", x, p["w"]) @ p["w"].T

    with pytest.raises(RuleError, match="another rule gives w another adapter, lora r2"):
        plan(fn, W, X, rules=rules)
    assert np.all([d.adapter is not None for d in plan(fn, W, X).decisions])


def test_a_function_that_quantizes_its_own_gradients_is_refused_by_its_forward_product():
    loss = lambda p, x: jnp.sum(jnp.sin(matmul(p, x)))  # noqa: E731
    rule = qpass.Rule(weight="int8", grad="int8", lora=LORA)
    with pytest.raises(RuleError, match=r"Drop lora= .*the function differentiates it itself"):
        qpass.value_and_grad(qpass.transform(loss, rule)).plan(W, X)
