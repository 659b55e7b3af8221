import json
from dataclasses import asdict, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpass.errors import PlanError
from qpass.views import Row, from_json, to_json
from tests.views.plans import NASTY, SCANNED

texts = st.text(max_size=12)
sizes = st.integers(0, 2**63)
rows = st.builds(
    Row,
    *(texts,) * 7,
    rule=st.none() | st.integers(0, 99),
    refused=st.lists(st.tuples(texts, texts), max_size=2).map(tuple),
    bytes_before=sizes,
    bytes_after=sizes,
    scheme=texts,
    notes=st.lists(texts, max_size=2).map(tuple),
)


@given(st.lists(rows, max_size=4).map(tuple))
def test_round_trip(plan):
    assert from_json(to_json(plan)) == plan


def test_keys_are_stable():
    document = json.loads(to_json((*SCANNED, NASTY)))
    assert list(document) == ["format", "version", "summary", "sites"]
    assert list(document["sites"][0]) == [field.name for field in fields(Row)]
    assert (document["format"], document["version"]) == ("qpass-plan", 1)
    summary = document["summary"]
    assert summary["quantized"] == 3
    assert summary["schemes"] == {"int8 x int8": 2, "int4 weight-only": 1}
    assert summary["rules"][-1] == {
        "rule": 2,
        "text": 'Rule(path="router/**", keep=True)',
        "sites": 1,
    }
    assert summary["refused"][0]["kernel"] == "hopper_int8"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", '"format": "qpass-plan"'),
        ('{"format": "qpass-comparison"}', '"format": "qpass-plan"'),
        ('{"format": "qpass-plan", "version": 9}', "reads version 1, not 9"),
        ('{"format": "qpass-plan", "version": 1, "sites": [{"id": "a"}]}', "site 0 lacks or adds"),
    ],
)
def test_what_is_no_plan_is_refused(text, says):
    with pytest.raises(PlanError, match=says):
        from_json(text)


def test_malformed_refusals_are_named():
    site = {**asdict(replace(SCANNED[0])), "refused": [["only a name"]]}
    text = json.dumps({"format": "qpass-plan", "version": 1, "sites": [site]})
    with pytest.raises(PlanError, match=r"`refused` is a list of \[kernel, reason\]"):
        from_json(text)
