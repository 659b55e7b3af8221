"""The table of types on the page about them is that of the types as they are."""

from pathlib import Path

from qpass.numerics import QTYPES
from qpass_bench.pages import numeric_types

PAGE = Path(__file__).parents[2] / "docs" / "numeric-types.md"


def test_the_table_is_up_to_date():
    assert f"<!-- table: types -->\n\n{numeric_types.types()}" in PAGE.read_text(encoding="utf-8")


def test_every_type_has_a_line():
    lines = numeric_types.types().splitlines()
    assert [line.split("`")[1] for line in lines[2:]] == [qtype.name for qtype in QTYPES]
    assert lines[-1].endswith("| 4 | -6 to 6 | 16 neighbours | e4m3 and a global scale | 4.5 |")
