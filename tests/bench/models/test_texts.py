"""The text, read from a module that is never run."""

import pytest

from qpass_bench.models.texts import passage, verses

FIRST, SECOND = "1. In the beginning [it was] dark.\n", "2. And then\n  there was light. "
MODULE = f'''
from nowhere import Bible
raise_if_run = Bible(
    "version",
    """{FIRST}{SECOND}""",
    {{8001001: 0, 8001002: {len(FIRST)}}},
    {{8001001: {len(FIRST)}, 8001002: {len(FIRST + SECOND)}}},
)
'''


@pytest.fixture
def module(tmp_path):
    path = tmp_path / "bible.py"
    path.write_text(MODULE, encoding="utf-8")
    return path


def test_verses_lose_numbers_brackets_and_line_breaks(module):
    assert verses(module) == {
        8001001: "In the beginning it was dark.",
        8001002: "And then there was light.",
    }


def test_passage_starts_at_its_book_and_counts_verses():
    bible = {7001001: "no", 8001002: "two", 8001001: "one", 9001001: "three"}
    assert passage(bible, book=8, count=2) == "one two"
    assert passage(bible, book=8) == "one two three"


def test_another_kind_of_module_is_refused(tmp_path):
    path = tmp_path / "other.py"
    path.write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="not a pythonbible module"):
        verses(path)
