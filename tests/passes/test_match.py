"""Match: which operand is the weight, in every role that a rule may name."""

import time

import jax
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


def test_tangent_products_are_refused_with_the_reason():
    curve = jax.custom_jvp(lambda x, w: x @ w)
    curve.defjvp(lambda p, t: (p[0] @ p[1], t[0] @ p[1] + p[0] @ t[1]))
    q = qpass.transform(lambda p, x: curve(x, p["a"]), [qpass.Rule(role="tangent", weight="int8")])
    with pytest.raises(qpass.RuleError, match="linear in a tangent stays float"):
        q.plan(params(), jnp.ones((2, 8)))


def loss(p, x):
    return jnp.sin(jnp.sin(x @ p["a"]) @ p["b"]).sum()


def backward(rule):
    plan = qpass.transform(jax.grad(loss), [rule]).plan(params(), jnp.ones((2, 8)))
    return {d.site.role: d.action for d in plan.decisions if d.action}


def test_a_rule_that_names_backward_products_quantizes_them():
    actions = backward(qpass.Rule(role=("dlhs", "drhs"), act="int8", grad="fp8_e5m2"))
    assert {role: str(action.scheme) for role, action in actions.items()} == {
        "dlhs": "int8 x fp8_e5m2",
        "drhs": "int8 x fp8_e5m2",
    }
    actions = backward(qpass.Rule(role="dlhs", weight="int4", grad="int8"))
    assert {role: str(action.scheme) for role, action in actions.items()} == {"dlhs": "int4 x int8"}


def test_a_rule_for_weights_alone_names_no_product_of_activations():
    with pytest.raises(qpass.RuleError, match="role='drhs' has no weight"):
        qpass.Rule(role="drhs", weight="int8")


def test_a_weight_made_of_parameters_is_named_in_a_program_of_any_size():
    """Ten thousand equations; what they depend on is found in one pass over them."""

    def fn(p, x):
        for k in range(1000):
            w = p[k % 50] * p[(k + 1) % 50] + 1.0
            x = jnp.tanh(jnp.tanh(x * 0.5 + 1.0) @ w) + jnp.sin(x) * x
        return x

    weights = [jax.ShapeDtypeStruct((4, 4), jnp.float32)] * 50
    start = time.process_time()  # of this process: the machine may be shared
    plan = qpass.transform(fn, []).plan(weights, jax.ShapeDtypeStruct((2, 4), jnp.float32))
    seconds = time.process_time() - start
    assert len(plan.decisions) == 1000
    assert len(plan.program.jaxpr.eqns) >= 10_000
    for k, decision in enumerate(plan.decisions):
        (note,) = decision.notes
        names = " and ".join(sorted({str(k % 50), str((k + 1) % 50)}, key=int))
        assert note.startswith("rhs: add at test_match.py:")
        assert f"computes a new value from {', '.join(names.split(' and '))}" in note
    assert seconds < 5
