"""The page about rules: its tables are the sites and the rules of these tests."""

import doctest
import re
from pathlib import Path

import pytest

from qpass.graph.equation import parse_equation
from qpass.numerics.qtypes import fp8_e4m3, int4, int8
from qpass.rules import Rule, check_matching, match_rules
from qpass.rules.selectors import ROLES
from tests.rules.stand_in import StandIn

PAGE = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
NAMES = {"Rule": Rule, "fp8_e4m3": fp8_e4m3, "int4": int4, "int8": int8}


def rows(*head):
    """The rows of every table with these first columns; "\\|" in a cell is "|"."""
    found, wanted = [], False
    for line in PAGE.splitlines():
        row = [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        wanted = tuple(row[: len(head)]) == head or (wanted and bool(row))
        found += [row] if wanted and row[0] != head[0] and not row[0].startswith("---") else []
    return found


def site(name, op, equation, path, scope, role, shape):
    return StandIn(
        id=name,
        op=op,
        equation=parse_equation(equation) if equation else None,
        einsum_label=equation or None,
        weight_path=path,
        scope=scope,
        role=role,
        rhs_shape=tuple(map(int, shape.split(","))),
    )


def rule(text):
    return eval(text.strip("`"), dict(NAMES))


SITES = [site(*row) for row in rows("product", "operation")]
TAKES = rows("rule", "takes")
ERRORS = rows("rule", "the error says")
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_tables_of_the_page_are_found():
    assert len(SITES) == 9
    assert len(TAKES) == 23
    assert len(ERRORS) == 7
    assert len(CODE) == 3


@pytest.mark.parametrize(("text", "takes"), TAKES)
def test_a_rule_takes_what_the_page_says(text, takes):
    assert list(match_rules(rule(text), SITES).matched[0]) == takes.split("; ")


@pytest.mark.parametrize(("text", "words"), ERRORS)
def test_a_rule_that_fits_nothing_says_what_the_page_says(text, words):
    given = rule(text)
    findings = check_matching(match_rules(given, SITES), given, SITES, strict=False)
    assert words in findings.warnings[0]


def test_every_role_is_on_the_page():
    named = re.findall(r'`"([^"]*)"`', " ".join(row[0] for row in rows("role", "the product")))
    assert set(named) == {*ROLES, "*"}


@pytest.mark.parametrize("ways", [row[0] for row in rows("written", "means")])
def test_ways_to_write_a_quantizer_mean_the_same(ways):
    texts = ways.strip("`").split("`, `")
    assert len(texts) > 1
    assert len({rule(f"Rule(weight={text})") for text in texts}) == 1


@pytest.mark.parametrize("code", CODE)
def test_the_code_of_the_page_runs(code):
    if ">>>" not in code:
        exec(code, dict(NAMES))
        return
    test = doctest.DocTestParser().get_doctest(code, dict(NAMES), "rules.md", None, None)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test)
    assert runner.failures == 0
    assert runner.tries > 0
