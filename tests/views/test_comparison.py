import json
import math

import pytest

from qpass.errors import PlanError
from qpass.views import (
    SiteError,
    errors_from_json,
    errors_table,
    errors_to_html,
    errors_to_json,
    to_text,
    worst_first,
)

GOOD = SiteError("layers/0/dot_general.0", "layers/0/kernel", "int8 x int8", 39.5, 0.0106)
POOR = SiteError("layers/1/dot_general.0", "layers/1/kernel", "int4 g32", 12.0, 0.251)
EXACT = SiteError("conv.0", "conv/kernel", "int8 x int8", math.inf, 0.0)
BROKEN = SiteError("dot_general.9", "", "fp8_e5m2", math.nan, math.nan)
ERRORS = (GOOD, EXACT, BROKEN, POOR)


def test_worst_first():
    assert worst_first(ERRORS) == (BROKEN, POOR, GOOD, EXACT)


def test_ties_keep_the_order_of_the_program():
    first, second = (SiteError(name, "", "", 20.0, 0.1) for name in "ba")
    assert worst_first((first, second)) == (first, second)


def test_table():
    lines = to_text(errors_table(ERRORS), width=110).splitlines()[2:]
    assert [line.split()[0] for line in lines] == [e.site for e in worst_first(ERRORS)]
    assert lines[1].split()[-3:] == ["12.0", "dB", "25.10%"]
    assert "exact" in lines[3]
    assert "not a number" in lines[0]


def test_json_round_trip_with_numbers_that_json_has_not():
    text = errors_to_json(ERRORS)
    back = errors_from_json(text)
    assert [e.site for e in back] == [e.site for e in worst_first(ERRORS)]
    assert back[1:] == (POOR, GOOD, EXACT)
    assert math.isnan(back[0].sqnr_db)
    json.loads(text, parse_constant=pytest.fail)  # no bare NaN or Infinity


@pytest.mark.parametrize("text", ["", "{}", '{"format": "qpass-plan", "version": 1}'])
def test_what_is_no_comparison_is_refused(text):
    with pytest.raises(PlanError, match="Pass JSON written by qpass"):
        errors_from_json(text)


def test_a_malformed_site_is_named():
    document = json.loads(errors_to_json(ERRORS))
    document["sites"][2]["sqnr_db"] = "loud"
    with pytest.raises(PlanError, match="site 2 is malformed"):
        errors_from_json(json.dumps(document))


def test_page_draws_what_is_finite_and_lists_everything():
    html = errors_to_html(ERRORS)
    assert html.count("<rect") == 3
    assert html.count('<rect class="bad"') == 1
    assert html.count("<tr data-kind") == 4
    assert "1 more site in the table" in html


def test_an_empty_comparison_has_a_page_and_a_table():
    assert "<h1>" in errors_to_html(())
    assert "Site" in to_text(errors_table(()))
