"""A search as a table for the terminal."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from qpass.rules import Rule
from qpass.searching.choose import Option
from qpass.searching.measured import Sensitivity, Weight
from qpass.views.units import bytes_text, percent


def to_table(
    found: Sensitivity, chosen: Sequence[Option], rules: Sequence[Rule], sums: str
) -> Group:
    """Each weight in each scheme, the chosen one marked; below the rules, refusals and sums."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("Weight", "", "Scheme"):
        table.add_column(name, overflow="fold")
    for name in ("Bytes", "Loss", "Error of products", "Time on CPU"):
        table.add_column(name, justify="right", no_wrap=True)
    for weight, option in zip(found.weights, chosen, strict=True):
        _add(table, weight, option)
    told = [f"rule {number}  {rule.describe()}" for number, rule in enumerate(rules)]
    refused = [f"not searched: {path}: {why}" for path, why in found.refused.items()]
    return Group(
        table,
        Text(),
        *(Text(line, style="cyan") for line in told),
        *(Text(line, style="yellow") for line in refused),
        Text(sums, style="bold"),
    )


def _add(table: Table, weight: Weight, chosen: Option) -> None:
    for option in weight.options:
        first, last = option is weight.options[0], option is weight.options[-1]
        taken = option == chosen
        cells = (
            weight.path if first else "",
            "→" if taken else "",
            option.scheme,
            bytes_text(option.nbytes),
            f"{option.loss:.3g}",
            "" if option.error is None else percent(option.error),
            "" if option.nanoseconds is None else f"{option.nanoseconds / 1e3:,.0f} µs",
        )
        style: Any = "green" if taken else None
        table.add_row(*cells, style=style, end_section=last)
