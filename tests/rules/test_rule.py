"""Rules are checked and put in their final form when they are made."""

import dataclasses
import re

import pytest

from qpass.errors import RuleError, UnknownTypeError
from qpass.numerics.qtypes import fp8_e4m3, int4, int8
from qpass.numerics.schemes import Backward, PerChannel, PerGroup, PerTensor, Scheme
from qpass.rules import Rule
from qpass.rules.selectors import ROLES


@pytest.mark.parametrize(
    ("given", "qtype", "granularity"),
    [
        ("int8", int8, PerChannel()),
        ("int8 tensor", int8, PerTensor()),
        ("int4 g32", int4, PerGroup(32)),
        (fp8_e4m3, fp8_e4m3, PerChannel()),
        (int4.grouped(128), int4, PerGroup(128)),
    ],
)
def test_quantizers_are_put_in_one_form(given, qtype, granularity):
    rule = Rule(path="**", weight=given)
    assert rule.weight.qtype is qtype
    assert rule.weight.granularity == granularity


def test_scheme_holds_the_quantizers():
    rule = Rule(weight="int8", act="int8", grad="fp8_e5m2")
    assert rule.scheme == Scheme(rule.weight, rule.act, rule.grad)
    assert Rule(path="a", keep=True).scheme is None


def test_lists_of_texts_become_tuples_so_that_rules_hash():
    assert Rule(path=["a", "b"], keep=True) == Rule(path=("a", "b"), keep=True)
    assert len({Rule(path=["a", "b"], keep=True), Rule(path=("a", "b"), keep=True)}) == 1


def test_a_rule_can_be_changed_by_replace():
    rule = dataclasses.replace(Rule(path="**/mlp/**", weight="int8"), weight="int4 g32")
    assert rule.describe() == "path=**/mlp/** weight=int4 g32"


def test_fields_are_given_by_name_only():
    with pytest.raises(TypeError):
        Rule("**/mlp/**", weight="int8")


@pytest.mark.parametrize(
    ("role", "roles"),
    [
        (None, {"forward"}),
        ("drhs", {"drhs"}),
        (("forward", "activations"), {"forward", "activations", "qk", "pv"}),
        ("qk", {"qk"}),
        ("*", set(ROLES) - {"lookup"}),
    ],
)
def test_roles(role, roles):
    assert (
        Rule(
            role=role, weight=None if role in ("drhs", "qk") else "int8", act="int8", grad="int8"
        ).roles
        == roles
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"path": "**/mlp/**", "weight": int4.grouped(128)}, "path=**/mlp/** weight=int4 g128"),
        ({"path": ("a", "b/*"), "keep": True}, "path=a|b/* keep"),
        ({"op": "ragged_dot", "weight": "int8", "act": int8}, "op=ragged_dot weight=int8 act=int8"),
        ({"role": "activations", "act": "int8"}, "role=activations act=int8"),
        ({"name": "head", "einsum": "btd,dv->btv", "keep": True}, "head: einsum=btd,dv->btv keep"),
        ({"scope": "Net/**", "where": callable, "keep": True}, "scope=Net/** where=callable keep"),
        ({"weight": "int8", "grad": "int8"}, "weight=int8 grad=int8"),
        (
            {"weight": "int8", "dlhs": "int8 sr", "drhs": Backward("fp8_e5m2", "int4")},
            "weight=int8 dlhs=int8 sr drhs=int4 x fp8_e5m2",
        ),
        (
            {"weight": "int8", "grad": "int8", "dlhs": Backward(operand="int4")},
            "weight=int8 grad=int8 dlhs=operand int4",
        ),
    ],
)
def test_describe(fields, text):
    assert Rule(**fields).describe() == text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "Decide something"),
        ({"path": "a"}, "Decide something"),
        ({"path": "a", "keep": False}, "Decide something"),
        ({"keep": True, "weight": "int8"}, "Drop keep=True or weight="),
        ({"keep": True, "grad": "int8"}, "Drop keep=True or grad="),
        ({"act": "int8"}, "Give weight= beside act="),
        ({"grad": "int8"}, "Give weight= or act= beside grad="),
        ({"act": "int8", "role": "dlhs", "dlhs": "int8"}, "Drop dlhs="),
        ({"weight": "int8", "drhs": Backward(operand="int8")}, "Give drhs= a quantizer"),
        ({"keep": True, "dlhs": "int8"}, "Drop keep=True or dlhs="),
        ({"weight": "int8", "dlhs": "int8 g8 static"}, "Give dlhs grad= static without groups"),
        ({"act": "int8", "role": "*"}, "Give weight= beside act="),
        ({"act": "int8", "role": ("activations", "forward")}, "Give weight= beside act="),
        ({"weight": "int8", "act": "int8", "role": "activations"}, "Give act= alone"),
        ({"weight": "int4 g32", "act": "int8 g48"}, "groups of 32, act groups of 48"),
        ({"path": "", "keep": True}, "Give path= a text that is not empty"),
        ({"path": [], "keep": True}, "Give path= a text that is not empty"),
        ({"path": ("a", ""), "keep": True}, "Give path= a text that is not empty"),
        ({"scope": "  ", "keep": True}, "Give scope= a text that is not empty"),
        ({"einsum": "", "keep": True}, "Give einsum= a text that is not empty"),
        ({"op": "", "keep": True}, "Give op= a text that is not empty"),
        ({"role": "", "keep": True}, "Give role= a text that is not empty"),
        ({"path": 3, "keep": True}, "got 3"),
        ({"path": "re:(", "keep": True}, "regular expression"),
        ({"path": "a**", "keep": True}, "'**' alone between slashes"),
        ({"scope": "/Net", "keep": True}, "without '/' at its ends"),
        ({"einsum": "ab,bc->ad", "keep": True}, "'d' is in the output only"),
        ({"einsum": "ab->ba", "keep": True}, "two operands or more"),
        ({"op": "dot_genral", "keep": True}, "did you mean 'dot_general'"),
        ({"op": "softmax_", "keep": True}, "'dot_general', 'ragged_dot_general'"),
        ({"role": "forwards", "keep": True}, "did you mean 'forward'"),
        ({"where": "x", "keep": True}, "Give where= a function"),
        ({"keep": "yes"}, "Give keep=True or leave it out"),
        ({"name": "", "keep": True}, "Give name="),
        ({"weight": "int8 g"}, "'int8 g'"),
        ({"weight": 8}, "8"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_an_error_at_once(fields, words):
    with pytest.raises(RuleError, match=re.escape(words)):
        Rule(**fields)


@pytest.mark.parametrize("operand", ["weight", "act", "grad"])
def test_an_unknown_type_is_an_error_with_the_nearest(operand):
    others = {} if operand == "weight" else {"weight": "int8"}
    with pytest.raises(UnknownTypeError, match=r"'int9'.*id you mean 'int8'") as error:
        Rule(path="**/mlp/**", **{operand: "int9"}, **others)
    assert f"{operand}=int9" in str(error.value)
    assert "path=**/mlp/**" in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"weight": "int4 g32", "act": "int8"},
        {"weight": "int8", "act": "int8 g64"},
        {"weight": "int4 g32", "act": "int8 g32"},
        {"act": "int8", "role": "activations"},
        {"grad": "int8", "role": ("dlhs", "drhs")},
        {"weight": "int8", "act": "int8", "dlhs": "fp8_e5m2"},
        {"keep": True},
        {"einsum": "bsd,df,fe->bse", "weight": "int8"},
    ],
)
def test_decisions_that_can_be_meant(fields):
    assert isinstance(Rule(**fields), Rule)
