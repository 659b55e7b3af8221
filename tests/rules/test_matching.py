"""The first rule that fits a site decides it."""

import re

import pytest

from qpass.errors import RuleError
from qpass.rules import Rule, as_rules, match_rules
from tests.rules.stand_in import DOWN, LOGITS, MODEL, QUERY, UP

MLP = Rule(path="**/mlp/**", weight="int8")
UP_ONLY = Rule(path="**/up/**", keep=True)
REST = Rule(weight="int4 g32")


def test_first_match_wins():
    matching = match_rules([UP_ONLY, MLP, REST], MODEL)
    assert matching.chosen == (0, 1, 2, None, 2, None)


def test_the_order_of_rules_decides():
    assert match_rules([MLP, UP_ONLY], [UP, DOWN]).chosen == (0, 0)
    assert match_rules([UP_ONLY, MLP], [UP, DOWN]).chosen == (0, 1)


def test_each_rule_knows_what_it_fits_and_what_was_taken():
    matching = match_rules([UP_ONLY, MLP, REST], [UP, DOWN, QUERY])
    assert matching.matched == ((UP.id,), (UP.id, DOWN.id), (UP.id, DOWN.id, QUERY.id))
    assert matching.taken == (0, 1, 2)


def test_a_rule_without_selectors_takes_the_forward_products():
    assert match_rules(REST, [UP, LOGITS]).chosen == (0, None)


def test_no_rules_and_no_sites():
    assert match_rules([], [UP, DOWN]).chosen == (None, None)
    assert match_rules([MLP], []).chosen == ()
    assert match_rules([MLP], []).matched == ((),)


def test_matching_is_a_function_of_its_arguments():
    assert match_rules([UP_ONLY, MLP], MODEL) == match_rules((UP_ONLY, MLP), list(MODEL))


def test_where_that_raises_names_the_rule_and_the_site():
    def heads(site):
        return site.equation.out.index("n")

    rule = Rule(name="heads", where=heads, weight="int8")
    with pytest.raises(RuleError, match="raised ValueError: substring not found") as error:
        match_rules([MLP, rule], [UP, DOWN])
    assert UP.id in str(error.value)
    assert "rule 1 (heads: where=" in str(error.value)
    assert isinstance(error.value.__cause__, ValueError)


def test_one_rule_may_be_given_alone():
    assert as_rules(MLP) == (MLP,)
    assert as_rules(rule for rule in (MLP, REST)) == (MLP, REST)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([{"path": "a"}], "Give rules as qpass.Rule(...); number 0 is {'path': 'a'}"),
        ([MLP, "int8"], "number 1 is 'int8'"),
        ([Rule(name="a", keep=True), MLP, Rule(name="a", keep=True)], "'a' is rule 0 and rule 2"),
    ],
)
def test_malformed_rules_are_errors(rules, words):
    with pytest.raises(RuleError, match=re.escape(words)):
        match_rules(rules, MODEL)
