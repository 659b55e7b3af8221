"""What a rule says of one site: each failing selector, with the value that it fails on."""

import pytest

from qpass import Rule, RuleError
from qpass.rules.matching import match_rules
from qpass.rules.verdicts import verdicts
from tests.rules.stand_in import EXPERTS, LOGITS, MODEL, QUERY


def failed(site, **fields):
    decision = {} if fields.get("keep") else {"weight": "int8"}
    (verdict,) = verdicts([Rule(**fields, **decision)], site)
    assert verdict.fits == (not verdict.failed)
    return list(verdict.failed)


def test_each_selector_gives_both_sides():
    assert failed(QUERY, path="**/mlp/**") == [
        f"path='**/mlp/**' does not fit {QUERY.weight_path!r}"
    ]
    assert failed(QUERY, path=("a", "b"))[0].startswith("path='a' or 'b' does not fit")
    assert failed(QUERY, scope="Other/*") == [f"scope='Other/*' does not fit {QUERY.scope!r}"]
    assert failed(QUERY, op="conv") == ["op='conv' does not fit 'dot_general'"]
    (said,) = failed(QUERY, einsum="ab,bc->ac")
    assert said.startswith("einsum='ab,bc->ac' does not fit ")
    assert repr(str(QUERY.equation)) in said


def test_what_a_site_does_not_have():
    (path, role) = failed(LOGITS, path="**")
    assert path == "path='**' does not fit a product without a weight"
    assert role == "without role= it is for 'forward' products; this is 'activations'"
    assert failed(LOGITS, role="dlhs", keep=True) == ["role='dlhs' does not fit 'activations'"]
    assert "a ragged_dot_general, which has none" in failed(EXPERTS, einsum="ab,bc->ac")[0]


def test_where_is_asked_only_where_the_others_fit():
    def fails(site):
        raise AssertionError("asked of the wrong site")

    assert len(failed(QUERY, path="nowhere", where=fails)) == 1
    with pytest.raises(RuleError, match="asked of the wrong site"):
        failed(QUERY, where=fails)
    (said,) = failed(QUERY, where=lambda site: False)
    assert said.endswith("is false here")


def test_they_agree_with_matching():
    rules = [
        Rule(path="**/attn/**", keep=True),
        Rule(op="ragged_dot", weight="int8"),
        Rule(role="*", keep=True),
        Rule(where=lambda site: len(site.rhs_shape) == 3, weight="int8"),
    ]
    matched = match_rules(rules, MODEL).matched
    for index, ids in enumerate(matched):
        assert tuple(s.id for s in MODEL if verdicts(rules, s)[index].fits) == ids
