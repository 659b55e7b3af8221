"""Folds as a table for the terminal."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text


def folds_table(folds: Sequence[Any], refusals: Sequence[Any]) -> Group:
    """What is divided and multiplied by the same factors; below, what is refused and why."""
    found = _table("Products", "Divided", "Multiplied", "Factors")
    for fold in folds:
        cells = (_lines(names) for names in (fold.sites, fold.absorbed_by, fold.weights))
        found.add_row(*cells, Text(_factors(fold)))
    refused = _table("Products", "No fold, because")
    for refusal in refusals:
        refused.add_row(_lines(refusal.sites), Text(refusal.reason))
    return Group(found, *([Text(), refused] if refusals else []))


def rotations_table(rotations: Sequence[Any], refusals: Sequence[Any]) -> Group:
    """What is turned and which gains become 1; below, what is refused and why."""
    found = _table("Products", "Turned", "Gains", "Matrix")
    for one in rotations:
        cells = (_lines(names) for names in (one.sites, one.paths, one.absorbed))
        found.add_row(*cells, Text(_matrix(one)))
    refused = _table("Products", "No rotation, because")
    for refusal in refusals:
        refused.add_row(_lines(refusal.sites), Text(refusal.reason))
    return Group(found, *([Text(), refused] if refusals else []))


def _matrix(rotation: Any) -> str:
    blocks = rotation.size // rotation.block
    size = f"{rotation.size}" if blocks == 1 else f"{blocks} of {rotation.block}"
    return f"{size}, keeps means" if rotation.keeps_ones else size


def _table(*columns: str) -> Table:
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    return drawn


def _lines(names: Sequence[str]) -> Text:
    return Text("\n".join(names))


def _factors(fold: Any) -> str:
    shape = "×".join(map(str, fold.shape))
    groups = int(fold.groups.max()) + 1
    return shape if groups == fold.groups.size else f"{shape}, {groups} groups"
