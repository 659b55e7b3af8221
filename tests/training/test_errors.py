"""Wrong states say what is wrong, where, and what to do."""

import jax
import jax.numpy as jnp
import pytest

import qpass
from qpass import training
from qpass.errors import CallError, StateError
from tests.training.common import FORWARD, WHOLE, batch, loss, parameters

HEAD = "head/dot_general.0"


@pytest.fixture(scope="module")
def q():
    return qpass.transform(loss, FORWARD)


@pytest.fixture
def state(q):
    return q.init_state(parameters(), batch())


def test_no_state(q):
    with pytest.raises(StateError, match=r"y, state = q.apply.*none for .*head/dot_general.0"):
        q(parameters(), batch())
    q.plan(parameters(), batch())


def test_rules_without_delayed_scaling():
    q = qpass.transform(loss, qpass.Rule(weight="int8", act="int8"))
    with pytest.raises(StateError, match="these rules have none"):
        q.init_state(parameters(), batch())


def test_a_site_is_missing(q, state):
    del state[HEAD]["act"]
    with pytest.raises(StateError, match=r"there is none for head/dot_general.0 \(act\)"):
        q.apply(state, parameters(), batch())


def test_the_state_of_another_program(q, state):
    state["encoder/dot_general.0"] = state[HEAD]
    for call in (q.apply, lambda state, *args: q.with_state(state)(*args)):
        with pytest.raises(StateError, match=r"does not scale encoder/dot_general.0 \(act\)"):
            call(state, parameters(), batch())


def test_another_number_of_layers(q):
    state = q.init_state(parameters(layers=2), batch())
    with pytest.raises(StateError, match=r"bound of layers/dot_general.0 \(act\) is .*\[2\], not"):
        q.apply(state, parameters(), batch())


def test_another_length_of_history(q):
    longer = qpass.transform(loss, qpass.Rule(weight="fp8_e4m3 delayed", act="fp8_e4m3 delayed"))
    state = longer.init_state(parameters(), batch())
    with pytest.raises(StateError, match=r"history of .* is float32\[3, 1024\], not .*\[3, 4\]"):
        q.apply(state, parameters(), batch())


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -1])
def test_magnitudes_that_are_none(q, state, value):
    history = state[HEAD]["act"]["history"]
    state[HEAD]["act"]["history"] = history.at[0].set(value)
    with pytest.raises(StateError, match=r"finite magnitudes; that of head/dot_general.0 \(act\)"):
        q.apply(state, parameters(), batch())


def test_something_else_than_a_state(q, state):
    for what in (None, parameters(), [state]):
        with pytest.raises(StateError, match=r"Give the state of q.init_state"):
            q.apply(what, parameters(), batch())
    state[HEAD]["act"] = {"scale": jnp.ones(())}
    with pytest.raises(StateError, match="is to have the arrays bound and history"):
        q.apply(state, parameters(), batch())


def test_gradients_that_nobody_would_tell():
    """The state of a whole step serves the forward pass as it is, but cannot be gone on with."""
    q = qpass.transform(loss, WHOLE)
    state = q.init_state(parameters(), batch())
    forward = qpass.transform(loss, FORWARD)
    for fn in (q, forward):
        jax.eval_shape(fn.with_state(state), parameters(), batch())
    with pytest.raises(StateError, match=r"as step = qpass.value_and_grad\(q\)"):
        q.apply(state, parameters(), batch())
    with pytest.raises(StateError, match=r"does not scale head/dot_general.0 \(grad\)"):
        forward.apply(state, parameters(), batch())


def test_a_derivative_rule_has_no_results_of_its_own():
    @jax.custom_vjp
    def product(x, w):
        return x @ w

    product.defvjp(lambda x, w: (x @ w, (x, w)), lambda r, g: (g @ r[1].T, r[0].T @ g))
    w, x = parameters()["head"], batch()
    q = qpass.transform(lambda w, x: product(x, w).sum(), FORWARD)
    state = q.init_state(w, x)
    with pytest.raises(StateError, match="Differentiate inside of what is transformed"):
        q.apply(state, w, x)
    step = qpass.value_and_grad(q)
    jax.eval_shape(step.apply, step.init_state(w, x), w, x)


def test_one_operand_in_two_ways():
    other = qpass.Rule(role=("dlhs", "drhs"), weight="fp8_e4m3 delayed,8", grad="fp8_e5m2")
    q = qpass.transform(jax.value_and_grad(loss), (FORWARD, other))
    with pytest.raises(StateError, match=r"ask for 'delayed,4' and 'delayed,8'"):
        q.init_state(parameters(), batch())


def test_merging(q, state):
    with pytest.raises(StateError, match="got none"):
        qpass.merge_states()
    others = q.init_state(parameters(layers=2), batch())
    with pytest.raises(StateError, match=r"these differ in layers/dot_general.0 act bound"):
        qpass.merge_states(state, others)


def test_gradients_of_what_is_no_function():
    with pytest.raises(CallError, match=r"made; got function"):
        qpass.value_and_grad(loss)
    q = qpass.transform(loss, FORWARD, params=lambda path: "layers" in path)
    with pytest.raises(CallError, match="give value_and_grad the argument to differentiate"):
        qpass.value_and_grad(q)
    named = qpass.transform(lambda x, params: loss(params, x), FORWARD, params="params")
    step = qpass.value_and_grad(named)
    state = step.init_state(batch(), parameters())
    (_, grads), _ = jax.eval_shape(step.apply, state, batch(), parameters())
    assert jax.tree.structure(grads) == jax.tree.structure(parameters())


def test_variables_without_a_state():
    step = training.overwriting(qpass.transform(jax.value_and_grad(loss), WHOLE))
    with pytest.raises(StateError, match=r"training.variables\(params, state\).*got \['head'"):
        step(parameters(), batch())
