"""What the rule of a forward product says of gradients decides its backward products."""

import jax
import jax.numpy as jnp
import pytest

import qpass
from qpass import Backward, Rule

P = {"up": jnp.ones((16, 24)), "down": jnp.ones((24, 8))}
X = jnp.ones((6, 16))


def loss(p, x):
    return (jnp.tanh(x @ p["up"]) @ p["down"]).var()


def actions(*rules, fn=loss):
    plan = qpass.transform(jax.grad(fn), rules).plan(P, X)
    return {d.site.id: d for d in plan.decisions}


def schemes(*rules):
    found = actions(*rules).values()
    return [(d.site.role, str(d.action.scheme) if d.action else "float") for d in found]


def test_backward_products_inside_take_the_quantizers_of_their_forward_product():
    assert schemes(Rule(weight="int4", act="int8", grad="fp8_e5m2")) == [
        ("forward", "int4 x int8, grad fp8_e5m2"),
        ("forward", "int4 x int8, grad fp8_e5m2"),
        ("drhs", "int8 x fp8_e5m2"),
        ("dlhs", "int4 x fp8_e5m2"),
        ("drhs", "int8 x fp8_e5m2"),
    ]


def test_one_backward_product_may_differ_or_stay_float():
    both = Rule(weight="int8", act="int8", grad="int8", drhs=Backward("fp8_e5m2", "fp8_e4m3"))
    assert schemes(both)[2:4] == [("drhs", "fp8_e4m3 x fp8_e5m2"), ("dlhs", "int8 x int8")]
    one = Rule(weight="int8", act="int8", dlhs="fp8_e5m2")
    assert schemes(one)[2:4] == [("drhs", "float"), ("dlhs", "int8 x fp8_e5m2")]
    assert (
        str(actions(one)["up/dot_general.0"].action.scheme) == "int8 x int8, dlhs int8 x fp8_e5m2"
    )


def test_a_weight_only_rule_quantizes_the_activation_of_drhs_as_the_gradient():
    assert schemes(Rule(weight="int4", grad="int8"))[2:4] == [
        ("drhs", "int8 x int8"),
        ("dlhs", "int4 x int8"),
    ]


def test_a_rule_that_names_the_role_wins():
    rules = (
        Rule(role="drhs", keep=True),
        Rule(role="dlhs", weight="int4", grad="int4"),
        Rule(weight="int8", act="int8", grad="int8"),
    )
    assert schemes(*rules)[2:] == [("drhs", "float"), ("dlhs", "int4 x int4"), ("drhs", "float")]


def test_what_stays_float_forward_stays_float_backward():
    rules = (Rule(path="up", keep=True), Rule(weight="int8", act="int8", grad="int8"))
    found = actions(*rules)
    assert [d.action is None for d in found.values()] == [True, False, False, False, True]


@pytest.mark.parametrize(
    ("drhs", "words"),
    [
        (Backward("int8 g2", "int8 g3"), "drhs stays float: groups of 2 of the gradient and of 3"),
    ],
)
def test_what_cannot_be_quantized_is_told_at_the_forward_product(drhs, words):
    found = actions(Rule(weight="int8", act="int8", grad="int8", drhs=drhs))
    forward = found["up/dot_general.0"]
    assert forward.action.scheme.drhs is None
    assert any(note.startswith(words) for note in forward.notes)
    assert [d.site.role for d in found.values() if d.action is None] == ["drhs", "drhs"]


def test_the_plan_of_a_forward_pass_says_what_its_backward_pass_will_run():
    q = qpass.transform(loss, [Rule(weight="int8", act="int8", grad="fp8_e5m2 sr")])
    assert [row.scheme for row in q.plan(P, X).rows] == ["int8 x int8, grad fp8_e5m2 sr"] * 2
