"""The demo on a terminal: plans, figures and what the models said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qpass_bench.demo import report
from qpass_bench.running.contestant import Contestant


def show_plans(contestants: Sequence[Contestant], console: Console) -> None:
    """Print the plan of every rewritten contestant."""
    for c in contestants:
        if c.plan is not None:
            console.rule(f"Plan: {c.name}")
            console.print(c.plan.table())


def show(result: dict[str, Any], folder: Path, console: Console) -> None:
    """Print the figures, the completions and where the report is."""
    console.rule(result["model"]["name"])
    console.print(to_table(report.columns(result), result["variants"]))
    for variant in result["variants"]:
        console.print(completion(variant))
    if result["encoder"]:
        console.rule(result["encoder"]["name"])
        console.print(
            to_table(report.encoder_columns(result["encoder"]), result["encoder"]["variants"])
        )
    for note in result["notes"]:
        console.print(note, style="dim", markup=False)
    console.print(f"Report: {folder / 'report.html'} ({result['seconds']:.0f} s)")


def completion(variant: dict[str, Any]) -> Text:
    """Who was asked what, and the answer, never read as markup."""
    said = variant["completion"]
    parts = (variant["name"], "bold"), (f" {said['prompt'].strip()} ", "dim"), said["text"].strip()
    return Text.assemble(*parts)


def to_table(columns: Sequence[report.Column], rows: Sequence[dict[str, Any]]) -> Table:
    """The same figures as on the page, for a terminal."""
    shown = Table(*(name for name, _ in columns), show_lines=True)
    for row in rows:
        shown.add_row(*(write(row) for _, write in columns))
    return shown
