"""Match: which operand is the weight, in every role that a rule may name."""

import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.programs import normal

RNG = np.random.default_rng(0)
TABLE = np.asarray(normal(RNG, (8, 8)))


def decide(fn, rule, *args):
    (decision,) = qpass.transform(fn, [rule]).plan(*args).decisions
    return decision


def params():
    return {"a": normal(RNG, (8, 8)), "b": normal(RNG, (8, 8))}


@pytest.mark.parametrize(
    ("fn", "weight"),
    [(lambda p, x: x @ TABLE, 1), (lambda p, x: TABLE @ x, 0)],
    ids=["right", "left"],
)
def test_a_constant_is_the_weight_where_a_rule_asks_for_constants(fn, weight):
    rule = qpass.Rule(role="constant", weight="int8")
    decision = decide(fn, rule, params(), jnp.ones((8, 8)))
    assert decision.action.weight == weight


@pytest.mark.parametrize("weight", [None, "int4"])
def test_products_of_two_weights(weight):
    """The right one is the weight; with `act=` alone both are quantized to that."""
    p = params()
    rule = qpass.Rule(role="weights", weight=weight, act="int8")
    fn = lambda p, x: p["a"] @ p["b"] + x  # noqa: E731
    decision = decide(fn, rule, p, jnp.ones((8, 8)))
    assert decision.action.weight == 1
    assert decision.action.quantizer.qtype.name == (weight or "int8")
    q = qpass.transform(fn, [rule])
    stored = q.quantize(p, jnp.ones((8, 8)))
    assert isinstance(stored["b"], qpass.QTensor)
    np.testing.assert_array_equal(q(stored, jnp.ones((8, 8))), q(p, jnp.ones((8, 8))))


def test_products_of_activations_quantize_both():
    rule = qpass.Rule(role="activations", act="fp8_e4m3")
    decision = decide(lambda p, x: (x + p["a"]) @ x, rule, params(), jnp.ones((8, 8)))
    assert decision.action.weight == 1
    assert str(decision.action.scheme) == "fp8_e4m3 x fp8_e4m3"
    assert not decision.stored


@pytest.mark.parametrize("role", ["dlhs", "drhs", "tangent"])
def test_backward_products_are_refused_with_the_reason(role):
    import jax

    rule = qpass.Rule(role=role, weight="int8")
    fn = jax.grad(lambda p, x: jnp.sin(jnp.sin(x @ p["a"]) @ p["b"]).sum())
    q = qpass.transform(fn, [rule])
    with pytest.raises(qpass.RuleError, match=r"backward and tangent|fits no product"):
        q.plan(params(), jnp.ones((2, 8)))
