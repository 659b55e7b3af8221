from dataclasses import replace

import pytest

from qpass.views import Row, to_table, to_text
from tests.views.plans import NASTY, RULE, SCANNED, UNROLLED


def words(text: str) -> str:
    """Text without the line breaks and columns that a width brings."""
    return " ".join(text.split())


def test_every_site_is_there_with_its_decision():
    text = to_text(to_table(SCANNED), width=140)
    lines = [line.split("  ") for line in text.splitlines()]
    heads = {line[0] for line in lines}
    assert {row.id for row in SCANNED} <= heads
    assert "int8 x int8 by cpu_int8" in text
    assert "both operands are activations" in text
    assert "dequantized at add in decoder.py:77" in text
    assert "layers/attn/q/kernel" in text
    assert "f32[1,512,576] × f32[576,9,64]" in text


def test_the_rules_and_sums_stand_below():
    text = to_text(to_table(SCANNED), width=140).splitlines()
    assert text[-5:] == [
        f"rule 1  {RULE}  1 site",
        'rule 2  Rule(path="router/**", keep=True)  1 site',
        "4 sites  2 quantized, 2 left float",
        "2 quantized leaves  153 MB → 24.4 MB  0.16×",
        "hopper_int8 refused at 1 site: runs on cuda, not on cpu",
    ]


@pytest.mark.parametrize("width", [60, 100, 120, 140])
@pytest.mark.parametrize("details", [False, True])
def test_no_line_is_wider_than_the_terminal(width, details):
    text = to_text(to_table((*SCANNED, NASTY), details=details), width=width)
    assert max(map(len, text.splitlines())) <= width


def test_at_100_columns_numbers_stay_whole():
    lines = to_text(to_table(SCANNED), width=100).splitlines()
    assert any(line.endswith(" 39.8 MB") for line in lines)
    assert any(line.endswith("→ 10.0 MB") for line in lines)


def test_folded_layers_say_how_many_they_are():
    text = to_text(to_table(UNROLLED, folded=True), width=140)
    assert "layers/{0..3}/attn/q/kernel  4 sites" in text
    assert "10 sites  5 quantized, 5 left float" in text
    assert len(text.splitlines()) < len(to_text(to_table(UNROLLED), width=140).splitlines())


def test_details_name_the_source_and_the_refused_kernels():
    text = words(to_text(to_table(SCANNED, details=True), width=200))
    assert "decoder/layers/attn/q decoder.py:41" in text
    assert "not hopper_int8: runs on cuda, not on cpu" in text
    assert "→ f32[1,512,9,64]" in text


def test_names_are_never_markup():
    text = to_text(to_table((NASTY,)), width=200)
    assert NASTY.id in text
    assert NASTY.rule_text in text


def test_color_only_when_asked():
    assert "\x1b[" not in to_text(to_table(SCANNED))
    assert "\x1b[" in to_text(to_table(SCANNED), color=True)


def test_an_empty_plan_says_so():
    assert "0 sites  0 quantized, 0 left float" in to_text(to_table(()))


def test_remarks_stand_last():
    text = to_text(to_table(SCANNED, remarks=["rule 3 has no effect", "[b]"]), width=140)
    assert text.splitlines()[-2:] == ["rule 3 has no effect", "[b]"]


def test_an_equation_that_cannot_be_looked_into_shows_its_name():
    row = Row("opaque.0", "pallas_call", "", "opaque", "f32[4]", "", "f32[4]", reason="opaque")
    head, below = to_text(to_table((row,)), width=140).splitlines()[2:4]
    assert head.split() == ["opaque.0", "pallas_call", "opaque"]
    assert below.split() == ["opaque", "f32[4]"]


def test_details_say_what_a_product_has_to_do_with_its_forward_one():
    (first, *_) = SCANNED
    backward = replace(first, id="up/dot_general.1", role="dlhs", forward=first.id)
    again = replace(first, id="up/dot_general.2", forward=first.id)
    text = words(to_text(to_table([first, backward, again], details=True), width=300))
    assert text.count(f"differentiates {first.id}") == 1
    assert text.count(f"runs {first.id} again") == 1
