"""A path that fits a parameter which reaches no product says who reads it instead."""

import jax
import jax.numpy as jnp
import pytest

import qpass
from qpass.errors import RuleError
from qpass.rules import Rule, check_matching, match_rules
from tests.rules.stand_in import MODEL

READERS = {
    "params/norm/scale": ("mul at model.py:3",),
    "params/norm/bias": ("add at model.py:4", "add at model.py:4", "a", "b", "c", "d"),
    "params/unused": (),
}


def why(*paths):
    rules = [Rule(path=paths, keep=True)]
    with pytest.raises(RuleError) as error:
        check_matching(match_rules(rules, MODEL), rules, MODEL, True, READERS)
    return str(error.value)


def test_one_parameter():
    assert "path=**/scale fits a parameter that is no product's weight" in why("**/scale")
    assert "'params/norm/scale' is read by mul at model.py:3." in why("**/scale")
    assert "is read by nothing" in why("params/unused")


def test_several_are_told_in_full_up_to_a_length():
    text = why("params/norm/*")
    assert "fits parameters that are no product's weight" in text
    assert "'params/norm/bias' is read by add at model.py:4, a, b and 2 more." in text


def test_a_path_that_fits_none_gets_the_usual_hint():
    assert "None has the name 'mpl'; did you mean 'mlp'?" in why("**/mpl/**")


def test_the_readers_of_a_real_program():
    def fn(p, x):
        x = p["table"][jnp.arange(4)] * p["scale"] + x
        return x @ (p["head"] + p["lora_a"] @ p["lora_b"])

    def says(path):
        plan = qpass.transform(fn, Rule(path=path, weight="int8")).plan
        with pytest.raises(RuleError) as error:
            plan(params, jnp.ones((4, 8)))
        return str(error.value)

    params = {name: jnp.ones((8, 8)) for name in ("table", "head", "lora_a", "lora_b", "unused")}
    params["scale"] = jnp.ones(8)
    here = "at test_elsewhere.py:"
    assert f"'table' is read by gather {here}" in says("table")
    assert f"'head' is read by add {here}" in says("head")
    assert f"'lora_a' is read by dot_general {here}" in says("lora_a")
    assert "'unused' is read by nothing" in says("unused")
    assert "Without role= a rule is for 'forward' products." in says("lora_b")
    assert "there are: weights (1), activations (1)" in says("lora_b")
    assert "did you mean 'lora_b'" in says("lora_c") or "Did you mean" in says("lora_c")


@pytest.mark.parametrize("count", [1, 2])
def test_a_rule_whose_products_are_taken_says_by_which(count):
    def fn(p, x):
        return x @ p["a"] @ p["b"]

    params = jax.eval_shape(lambda: {"a": jnp.ones((8, 8)), "b": jnp.ones((8, 8))})
    rules = [Rule(path="*", weight="int8"), Rule(path="?" if count == 2 else "a", weight="int4")]
    (text,) = qpass.transform(fn, rules).plan(params, jnp.ones((4, 8))).findings
    which = "the only product that it fits is" if count == 1 else "all 2 products that it fits are"
    assert f"rule 1 ({rules[1].describe()}) decides nothing: {which} taken by rule 0" in text
