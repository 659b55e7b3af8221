"""Framework by transform: each cell of ``docs/frameworks.md`` is earned, none is blank.

One cell of each row has a turn in every run, and with them every column; the slow tests have all.
"""

import jax
import pytest

from tests.matrix import table
from tests.matrix.frameworks import EMPTY, FRAMEWORKS, OWN, REMARKS, ROWS, subject, transform
from tests.matrix.transforms import total

CELLS = {row: [col for col in FRAMEWORKS if (col, row) not in EMPTY] for row in ROWS}
SOME = [(cols[2 * i % len(cols)], row) for i, (row, cols) in enumerate(CELLS.items())]
EVERY = [
    pytest.param(column, row, marks=() if (column, row) in SOME else pytest.mark.slow)
    for row, columns in CELLS.items()
    for column in columns
]


@pytest.mark.parametrize(("column", "row"), EVERY)
def test_a_cell_earns_what_the_table_shows(column, row):
    pytest.importorskip(FRAMEWORKS[column][0])
    assert table.run(column, row) == table.shown()[column, row]


def test_every_row_and_column_has_a_turn():
    columns, rows = zip(*SOME, strict=True)
    assert set(columns) == set(FRAMEWORKS)
    assert set(rows) == set(ROWS)


def test_the_table_is_whole():
    assert list(table.shown()) == [(column, row) for row in ROWS for column in FRAMEWORKS]
    assert table.shown_notes() == list(table.NOTES)
    assert all(table.shown()[cell] == table.run(*cell) for cell in EMPTY)


def test_frameworks_have_no_more_transforms_than_the_table():
    for column, (package, _) in FRAMEWORKS.items():
        pytest.importorskip(package)
        own = {row for row, kind in OWN.items() if kind in subject(column).own}
        assert own == {row for row in OWN if (column, row) not in EMPTY}
    assert not hasattr(pytest.importorskip("haiku"), "jit")
    assert not hasattr(pytest.importorskip("equinox"), "filter_scan")


def test_jax_has_no_reverse_mode_of_a_while_loop():
    one = subject("functions, dicts")
    loop = transform("functions, dicts", "`while_loop`").lift(one.apply)
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(lambda p: total(loop(p, one.x)))(one.params)


def test_remarks_are_about_cells():
    assert all(column in CELLS[row] for column, row in REMARKS)
