"""6. A rule without effect passed without a word."""

import jax
import jax.numpy as jnp
import pytest

import qpass
from tests.peers.common import arrays, same
from tests.peers.qwix_side import is_stored
from tests.programs import CASES, rules

WITHOUT_EFFECT = {
    "no such layer": {"path": "nothing"},
    "no such operation": {"op_names": ("dot_genral",)},
    "activation alone": {"weight": None},
}


def test_a_rule_that_matches_nothing():
    q = qpass.transform(CASES["matmul"].fn, rules("int8", path="nothing"))
    with pytest.raises(qpass.RuleError, match="nothing"):
        q(*CASES["matmul"].arguments())


def test_a_typo_in_an_operation():
    with pytest.raises(qpass.RuleError, match="dot_general"):
        qpass.Rule(op="dot_genral", weight="int8")


def test_a_quantized_activation_without_a_quantized_weight():
    with pytest.raises(qpass.RuleError, match="weight="):
        qpass.Rule(act="int8")


@pytest.mark.parametrize("given", WITHOUT_EFFECT.values(), ids=WITHOUT_EFFECT)
def test_qwix_says_nothing(qwix, given):
    def fn(p, x):
        return jnp.dot(x, p["w"])

    params, x = arrays(4, 16, w=(16, 12))
    result, stored = qwix.served(fn, params, x, qwix.rules(**given))
    same(result, jax.jit(fn)(params, x))
    assert not is_stored(stored["w"])
