"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table


def drawn(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1, title: str | None = None
) -> Table:
    """Rows of text; all columns but the first `words` are aligned to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for number, name in enumerate(head):
        table.add_column(name, justify="left" if number < words else "right")
    for row in rows:
        table.add_row(*row)
    return table
