"""The matrix as the table of ``docs/frameworks.md``, written by a run and read again by tests."""

import re
from collections.abc import Callable
from pathlib import Path

from tests.matrix.cells import MARKS, Cell, check
from tests.matrix.frameworks import (
    EMPTY,
    FRAMEWORKS,
    MAPPED_TABLE,
    OWN,
    REMARKS,
    ROWS,
    subject,
    transform,
)

PAGE = Path(__file__).parents[2] / "docs" / "frameworks.md"
BETWEEN = re.compile(r"(<!-- matrix -->\n).*(<!-- end of the matrix -->)", re.DOTALL)
ALL = "✓" * len(MARKS)
NOTES = tuple(dict.fromkeys([*REMARKS.values(), *EMPTY.values()]))


def run(column: str, row: str) -> str:
    """Check a cell; what the table shows in it.

    Raises:
        AssertionError: a mark is not earned.
    """
    if (column, row) in EMPTY:
        return f"– {_note(EMPTY[column, row])}"
    name = f"`{transform(column, row).name}` " if row in OWN else ""
    remark = REMARKS.get((column, row))
    check(Cell(subject(column), transform(column, row), remark == MAPPED_TABLE))
    return f"{name}{ALL}{' ' + _note(remark) if remark else ''}"


def _note(text: str) -> str:
    return f"[{NOTES.index(text) + 1}]"


def shown() -> dict[tuple[str, str], str]:
    """The committed table by column and row."""
    lines = [line for line in _inner().splitlines() if line.startswith("| ")]
    header, _, *rows = ([part.strip() for part in line[1:-1].split("|")] for line in lines)
    return {
        (column, row[0]): text
        for row in rows
        for column, text in zip(header[1:], row[1:], strict=True)
    }


def shown_notes() -> list[str]:
    """The committed notes, in order."""
    return re.findall(r"^\d+\. (.*)$", _inner(), re.MULTILINE)


def _inner() -> str:
    found = BETWEEN.search(PAGE.read_text(encoding="utf-8"))
    assert found, f"{PAGE} has lost the marks of its table"
    return found[0]


def write(cell: Callable[[str, str], str] = run) -> None:
    """Put the table of a new run into the page."""
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(
        BETWEEN.sub(lambda match: f"{match[1]}\n{render(cell)}\n{match[2]}", text), "utf-8"
    )


def render(cell: Callable[[str, str], str]) -> str:
    """The table and its notes."""
    lines = [["", *FRAMEWORKS], ["---"] * (1 + len(FRAMEWORKS))]
    lines += [[row, *(cell(column, row) for column in FRAMEWORKS)] for row in ROWS]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n".join(f"{k}. {note}" for k, note in enumerate(NOTES, 1))
    return f"{table}\n\n{notes}\n"
