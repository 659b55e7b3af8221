"""An explanation as text and as JSON: everything in it is drawn, whatever the names are."""

import json

import pytest

from qpass.views import to_text
from qpass.views.explanation import Explanation, Line, Operand, Said
from tests.views.plans import HEAD, NASTY, QUERY, SCORES

LINES = (
    Line("layers/attn/q/kernel (parameter)", "f32[30,576,9,64]"),
    Line("scan slice", "f32[576,9,64]", "decoder.py:40"),
    Line("rhs of dot_general", "f32[576,9,64]", "decoder.py:41"),
)
RULES = (
    Said(0, "path=embedding weight=int4", "path='embedding' does not fit 'layers/attn/q'", False),
    Said(1, QUERY.rule_text, "decides: int8 x int8", True),
)


def told(row, storage="", advice=""):
    return Explanation(row, (Operand("rhs", LINES),), RULES, storage, advice)


def test_everything_is_drawn():
    text = to_text(told(QUERY, "stored as int8", "Do something else."), width=200)
    for words in (
        QUERY.id,
        "f32[1,512,576] × f32[576,9,64] → f32[1,512,9,64]",
        "forward  decoder.py:41  scope decoder/layers/attn/q  runs 30 times",
        "rhs  layers/attn/q/kernel (parameter)",
        "scan slice",
        "decoder.py:40",
        "path='embedding' does not fit",
        "decides: int8 x int8",
        "stored as int8\n  Do something else.",
        "cpu_int8\n  not hopper_int8: runs on cuda, not on cpu",
    ):
        assert words in text


def test_what_is_not_there_takes_no_space():
    text = to_text(told(SCORES), width=200)
    assert "float: both operands are activations" in text
    assert "Storage" not in text
    assert "Kernel" not in text
    assert "dequantized at add in decoder.py:77" in str(told(HEAD))


def test_names_are_never_read_as_markup():
    text = to_text(told(NASTY), width=200)
    assert NASTY.id in text
    assert "[/]" in text


@pytest.mark.parametrize("width", [40, 80])
def test_narrow_terminals_fold(width):
    lines = to_text(told(QUERY), width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0] == QUERY.id


def test_json():
    found = json.loads(told(QUERY, "stored", "advice").to_json())
    assert (found["format"], found["version"]) == ("qpass-why", 1)
    assert found["row"]["equation"] == QUERY.equation
    assert found["operands"][0]["lines"][1] == {
        "what": "scan slice",
        "type": "f32[576,9,64]",
        "source": "decoder.py:40",
    }
    assert [said["fits"] for said in found["rules"]] == [False, True]
    assert (found["storage"], found["advice"]) == ("stored", "advice")
