"""What `qpass bench experts` found, as a table in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qpass_bench.pages.markdown import table, template
from qpass_bench.training.experts import missed

Report = Mapping[str, Any]
HEAD = (
    "",
    "perplexity",
    "over float",
    "allowed",
    "products of experts quantized",
    "experts, MB",
    "router",
)


def rows(report: Report) -> Iterable[tuple[str, ...]]:
    """A row a rule, as in `HEAD`; float first."""
    before = report["rows"][0]["bytes_before"]
    yield "float", f"{report['perplexity']:.4f}", "", "", "", f"{before / 1e6:.1f}", ""
    for row in report["rows"]:
        yield (
            row["name"],
            f"{row['perplexity']:.4f}",
            f"{row['over_float']:+.2%}",
            f"{row['within']:.0%}",
            f"{row['experts']} of {row['experts_in_all']}",
            f"{row['bytes_after'] / 1e6:.1f}",
            row["router"],
        )


def title(report: Report) -> str:
    """What was learned, in a line."""
    return (
        f"{report['name']}: {report['parameters']:,} parameters, {report['steps']} steps of "
        f"{report['batch']} windows, judged on {report['held_out']:,} others"
    )


def shown(report: Report) -> RenderableType:
    """The table for a terminal, and what was missed."""
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title(report), title_justify="left")
    for number, name in enumerate(HEAD):
        drawn.add_column(name, justify="right" if 0 < number < len(HEAD) - 1 else "left")
    for row in rows(report):
        drawn.add_row(*row)
    return Group(drawn, Text("\n".join([*missed(report), f"{report['seconds']:.0f} s in all."])))


def section(report: Report) -> str:
    """The part of ``docs/experts.md`` that is written from a run."""
    machine = report["machine"]
    return template("experts").substitute(
        cpu=machine["cpu"],
        cores=machine["cores"],
        jax=machine["jax"],
        date=report["date"],
        seconds=f"{report['seconds']:.0f}",
        title=title(report),
        table=table(HEAD, rows(report)),
        missed="".join(f"\nMissed: {line}.\n" for line in missed(report)),
    )
