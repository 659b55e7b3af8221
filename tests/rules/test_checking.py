"""A rule that fits nothing says why and what is near; one that is never reached is noted."""

import dataclasses

import pytest

from qpass.errors import RuleError
from qpass.rules import Findings, Rule, check_matching, match_rules
from tests.rules.stand_in import DOWN, EXPERTS, LOGITS, MODEL, QUERY, UP, StandIn


def check(rules, sites=MODEL, strict=True):
    return check_matching(match_rules(rules, sites), rules, sites, strict)


def why(sites=MODEL, **selectors):
    """The error of a rule that fits nothing."""
    with pytest.raises(RuleError) as error:
        check([Rule(**selectors, keep=True)], sites)
    return str(error.value)


def test_rules_that_all_decide_something_give_no_findings():
    rules = [Rule(path="**/mlp/**", weight="int8"), Rule(op="ragged_dot", weight="fp8_e4m3")]
    assert check(rules) == Findings((), ())


def test_the_error_names_the_rule_by_number_and_text():
    rules = [Rule(path="**/mlp/**", weight="int8"), Rule(path="**/mpl/**", weight="int4 g32")]
    with pytest.raises(RuleError, match=r"rule 1 \(path=\*\*/mpl/\*\* weight=int4 g32\)"):
        check(rules)


def test_all_unmatched_rules_are_in_one_error():
    with pytest.raises(RuleError) as error:
        check([Rule(path="a", keep=True), Rule(op="conv", keep=True)])
    assert "rule 0 (path=a keep)" in str(error.value)
    assert "rule 1 (op=conv keep)" in str(error.value)


def test_without_strict_the_texts_are_returned():
    findings = check([Rule(path="**/mpl/**", keep=True)], strict=False)
    (text,) = findings.warnings
    assert text == why(path="**/mpl/**")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("**/mpl/**", "None has the name 'mpl'; did you mean 'mlp'?"),
        ("**/MLP/**", "None has the name 'MLP'; did you mean 'mlp'?"),
        ("param/layers/**", "None has the name 'param'; did you mean 'params'?"),
        ("kernel", "path='**/kernel' would fit 3."),
        ("mlp", "path='**/mlp/**' would fit 2."),
        ("params/layers/mlp", "path='params/layers/mlp/**' would fit 2."),
        ("re:params/layers/mlp/up", "Did you mean 'params/layers/mlp/up/kernel'"),
        ("zebra", "There are: 'params/layers/mlp/up/kernel', "),
    ],
)
def test_an_unmatched_path_says_what_is_near(path, words):
    text = why(path=path)
    assert f"path={path} fits none of the 4 weight paths" in text
    assert words in text


def test_a_path_where_no_product_has_a_weight():
    assert "no product of this program has one: does params=" in why([LOGITS], path="**/mlp/**")


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        ("Net/layer/**", "None has the name 'layer'; did you mean 'layers'?"),
        ("mlp", "scope='**/mlp/**' would fit 2."),
    ],
)
def test_an_unmatched_scope_says_what_is_near(scope, words):
    assert words in why(scope=scope)


def test_a_scope_where_there_is_none():
    assert "choose by path=" in why([StandIn()], scope="Net/**")


def test_an_unmatched_einsum_shows_the_nearest_equations_as_the_user_wrote_them():
    text = why(einsum="BTD,DNH->BTNH")
    assert "is not among the 4 equations of this program; near: 'BTD,NDH->BTNH'" in text


def test_an_unmatched_einsum_far_from_all_lists_them():
    assert "there are: 'abc,cd->abd'" in why([UP, DOWN], einsum="a,a->")


def test_an_einsum_where_no_product_has_an_equation():
    assert "no product of this program has one" in why([EXPERTS], einsum="ab,bc->ac")


def test_an_unmatched_op_counts_what_there_is():
    assert "there are: dot_general (5), ragged_dot_general (1)" in why(op="conv")


def test_an_unmatched_role_counts_what_there_is():
    assert "there are: forward (4), activations (1), drhs (1)" in why(role="dlhs")


def test_where_that_is_never_true():
    text = why(path="**/mlp/**", where=lambda site: False)
    assert "is false for all 2 that its other selectors fit" in text


def test_where_is_not_asked_of_products_that_the_other_selectors_exclude():
    text = why(path="**/mlp/**", scope="**/attn/**", where=lambda site: 1 / 0)
    assert "No product fits both" in text


def test_selectors_that_never_fit_together_are_named():
    text = why(path="**/mlp/**", scope="**/attn/**")
    assert "No product fits both path=**/mlp/** and scope=**/attn/**" in text
    assert "path=**/mlp/** fits 2, scope=**/attn/** fits 2" in text


def test_three_selectors_that_fit_pairwise_only():
    """Each pair of path, scope and op shares a product, but none has all three."""
    sites = [
        StandIn(id="0", weight_path="a", scope="s", op="scaled_dot"),
        StandIn(id="1", weight_path="a", scope="t"),
        StandIn(id="2", weight_path="b", scope="s"),
    ]
    assert "no product fits all of them" in why(sites, path="a", scope="s", op="dot_general")


def test_the_default_role_is_explained_where_it_is_to_blame():
    text = why(einsum="bqhd,bkhd->bhqk")
    assert "Without role= a rule is for 'forward'; these are: activations (1)." in text


def test_a_role_that_was_given_is_not_explained():
    text = why(einsum="bqhd,bkhd->bhqk", role="forward")
    assert "No product fits both" in text
    assert "Without role=" not in text


def test_a_program_without_products():
    assert "This program has no product at all." in why([], path="**")


def test_sites_are_told_apart_by_position_not_by_equality():
    twin = dataclasses.replace(UP, id="twin", scope="Other")
    assert "No product fits both" in why([twin, QUERY], scope="Other", path="**/query/*")


def test_a_rule_that_is_never_reached_is_noted():
    rules = [Rule(path="**/mlp/**", weight="int8"), Rule(path="**/up/**", keep=True)]
    findings = check(rules)
    assert findings.warnings == ()
    (note,) = findings.notes
    assert "rule 1 (path=**/up/** keep) decides nothing" in note
    assert "taken by rule 0 (path=**/mlp/** weight=int8)" in note


def test_a_rule_taken_by_two_others_names_both():
    rules = [
        Rule(path="**/up/**", weight="int8"),
        Rule(path="**/down/**", keep=True),
        Rule(path="**/mlp/**", weight="int4 g32"),
    ]
    (note,) = check(rules).notes
    assert "rule 0" in note
    assert "rule 1" in note


def test_a_rule_partly_taken_is_not_noted():
    rules = [Rule(path="**/up/**", keep=True), Rule(path="**/mlp/**", weight="int8")]
    assert check(rules).notes == ()
