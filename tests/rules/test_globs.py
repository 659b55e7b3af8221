"""Globs over paths, held against a matcher that tries every split."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpass.errors import RuleError
from qpass.rules.globs import path_test


def name_fits(glob, name):
    if not glob or not name:
        return not glob.strip("*") and not name
    if glob[0] == "*":
        return name_fits(glob[1:], name) or name_fits(glob, name[1:])
    return glob[0] in ("?", name[0]) and name_fits(glob[1:], name[1:])


def oracle(glob, names):
    """Try every number of names for each "**"."""
    if not glob:
        return not names
    if glob[0] == "**":
        return any(oracle(glob[1:], names[start:]) for start in range(len(names) + 1))
    return bool(names) and name_fits(glob[0], names[0]) and oracle(glob[1:], names[1:])


NAMES = st.lists(st.text("ab", min_size=1, max_size=3), max_size=4)
GLOBS = st.lists(
    st.one_of(
        st.just("**"), st.text("ab*?", min_size=1, max_size=3).filter(lambda s: "**" not in s)
    ),
    min_size=1,
    max_size=4,
)


@given(GLOBS, NAMES)
def test_globs_agree_with_trying_every_split(glob, names):
    assert path_test("/".join(glob))("/".join(names)) == oracle(glob, names)


@pytest.mark.parametrize(
    ("glob", "path", "fits"),
    [
        ("kernel", "kernel", True),
        ("kernel", "mlp/kernel", False),
        ("mlp/up", "mlp/up/kernel", False),
        ("*/kernel", "mlp/kernel", True),
        ("*/kernel", "layers/mlp/kernel", False),
        ("layer_*/kernel", "layer_12/kernel", True),
        ("layer_?/kernel", "layer_12/kernel", False),
        ("layer_??/kernel", "layer_12/kernel", True),
        ("**/mlp/**", "params/layers/mlp/up/kernel", True),
        ("**/mlp/**", "mlp", True),
        ("**/mlp/**", "params/mlp_2/kernel", False),
        ("**/kernel", "kernel", True),
        ("params/**/kernel", "params/kernel", True),
        ("params/**/kernel", "params/a/b/kernel", True),
        ("params/**/kernel", "state/a/kernel", False),
        ("**", "a/b", True),
        ("**", "", True),
        ("*", "", False),
        ("Kernel", "kernel", False),
        ("a.c", "abc", False),
        ("blocks[0]/w", "blocks[0]/w", True),
        ("blocks[0]/w", "blocks0/w", False),
        ("re:.*/(up|down)/kernel", "mlp/up/kernel", True),
        ("re:.*/(up|down)/kernel", "mlp/up/kernel/more", False),
        ("re:up", "mlp/up", False),
    ],
)
def test_globs(glob, path, fits):
    assert path_test(glob)(path) is fits


@pytest.mark.parametrize(
    ("glob", "words"),
    [
        ("/a/b", "without '/' at its ends"),
        ("a/b/", "without '/' at its ends"),
        ("a//b", "without '//'"),
        ("mlp**/kernel", "'mlp**'"),
        ("***/kernel", "'***'"),
        ("re:(", "regular expression"),
    ],
)
def test_malformed_globs_are_errors(glob, words):
    with pytest.raises(RuleError, match=re.escape(words)):
        path_test(glob)
