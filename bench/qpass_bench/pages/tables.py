"""A report of the benchmark on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qpass_bench.running.regressions import Change, Comparison
from qpass_bench.running.sweep import SLOW, summary

Report = Mapping[str, Any]
SPREAD = "fastest to slowest"
FIGURES = (
    "ms",
    SPREAD,
    "tokens/s",
    "of roofline",
    "× float32",
    "× bfloat16",
    "error",
    "compile, s",
)
"""Headings of the figures of a row."""
LISTED = 12
"""Reasons, rows and the like that are listed before the rest is counted."""


def shown(report: Report) -> RenderableType:
    """The rows of every case, the sums of a sweep, the roofline, and who is missing."""
    listed = [row for row in report["rows"] if row["suite"] != "sweep"]
    cases = groupby(listed, lambda row: f"{row['suite']}: {row['case']}")
    parts: list[RenderableType] = [case_table(name, list(rows)) for name, rows in cases]
    if len(listed) < len(report["rows"]):
        parts.append(sweep_table(report["rows"]))
    return Group(*parts, *map(Text, (about(report), roofline(report), *gaps(report))))


def case_table(case: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each contender of a case."""
    table = _table("Variant", "Kernel", title=Text(case, style="bold"))
    for name in FIGURES:
        table.add_column(name, justify="right")
    for row in rows:
        variant, *others = cells(row)
        table.add_row(Text(variant), *others)
    return table


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What the terminal and the page say of a row: who, in which kernel, and the `FIGURES`."""
    low, high = row["ms_range"]
    error = row.get("error")
    return (
        row["variant"],
        row["kernel"],
        milliseconds(row["ms"]),
        f"{milliseconds(low)} to {milliseconds(high)}",
        f"{row['tokens_per_s']:,.0f}",
        f"{row['of_roofline']:.0%} {row['bound']}",
        _times(row.get("ratio")),
        _times(row.get("ratio_bfloat16")),
        "" if error is None else f"{error:.1g}",
        f"{row['compile_s']:.2g}",
    )


def milliseconds(ms: float) -> str:
    """Three digits, or all before the point."""
    return f"{ms:.3g}" if ms < 999.5 else f"{ms:,.0f}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}×"


def sweep_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Quantiles of random shapes; a variant a row."""
    table = _table("Random shapes")
    heads = ("Shapes", "Slowest", "Tenth", "Median", f"Below {SLOW}×", "… and not planned so")
    for name in heads:
        table.add_column(name, justify="right")
    table.add_column("Slowest shape")
    for line in summary(rows):
        speeds = (_times(line[key]) for key in ("least", "tenth", "median"))
        table.add_row(
            line["variant"],
            str(line["shapes"]),
            *speeds,
            str(line["slow"]),
            str(line["unsaid"]),
            line["worst"],
        )
    return table


def about(report: Report) -> str:
    """What was run, on what, when, and with whom."""
    m = report["machine"]
    peers = "; ".join(f"{name} {about}" for name, about in report.get("peers", {}).items())
    return (
        f"{m['cpu']} ({', '.join(m['flags']) or 'no known flags'}"
        f"{f'; kept to {m["isa"]}' if m.get('isa') else ''}), {m['cores']} cores, "
        f"jax {m['jax']}, qpass {m['qpass']}, native kernels: {m['native']}; {report['date']}; "
        f"medians of {report['rounds']} interleaved rounds in {report['sittings']} sittings"
        f"{f'. Peers: {peers}' if peers else ''}"
    )


def roofline(report: Report) -> str:
    """The bandwidths and peaks of the run in a line."""
    roof = report["roofline"]
    reads = ", ".join(f"{_size(int(n))} {b / 1e9:.0f}" for n, b in roof["read"].items())
    peaks = ", ".join(f"{units} {ops / 1e9:.0f}" for units, ops in roof["peak"].items())
    return f"Reads, GB/s: {reads}; copies {roof['copy'] / 1e9:.0f}. Products, Gop/s: {peaks}."


def _size(count: int) -> str:
    return f"{count / 2**20:g} MiB"


def gaps(report: Report) -> Iterator[str]:
    """Why contenders and cases are missing, each reason once with how often."""
    found: dict[str, list[str]] = {}
    for entry in report["missing"]:
        found.setdefault(f"{entry['variant']} did not run: {entry['why']}", []).append(
            entry["case"]
        )
    for entry in report["skipped"]:
        found.setdefault(f"{entry['case']} was skipped: {entry['why']}", []).append("")
    for line, cases in list(found.items())[:LISTED]:
        yield line if len(cases) == 1 else f"{line} ({len(cases)} cases)"
    if len(found) > LISTED:
        yield f"and {len(found) - LISTED} more reasons in the JSON"


def comparison(found: Comparison) -> RenderableType:
    """Regressions and improvements, what both runs lack, and what to know."""
    parts: list[RenderableType] = [Text(f"Note: {warning}.") for warning in found.warnings]
    for verdict in ("regression", "improvement"):
        changes = found.called(verdict)
        if changes:
            parts.append(changes_table(f"{verdict.capitalize()}s", changes))
    counts = [f"{len(found.called(v))} {v}s" for v in ("regression", "improvement")]
    others = f"{len(found.gone)} rows gone, {len(found.added)} new"
    parts.append(Text(f"{', '.join(counts)} among {len(found.changes)} rows; {others}."))
    return Group(*parts)


def changes_table(title: str, changes: Sequence[Change]) -> Table:
    """How much each row changed, and how surely."""
    table = _table(title, "Variant")
    for name in ("× float32 then", "now", "Change", "p, corrected"):
        table.add_column(name, justify="right")
    table.add_column("Best float32 then, now")
    for c in changes:
        figures = _times(c.old), _times(c.new), f"{c.factor - 1:+.1%}", f"{c.p:.2g}"
        bases = Text("" if c.old_base == c.new_base else f"{c.old_base}, {c.new_base}")
        table.add_row(f"{c.key[0]}: {c.key[1]}", c.key[2], *figures, bases)
    return table


def _table(*names: str, title: Text | None = None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for name in names:
        table.add_column(name)
    return table
