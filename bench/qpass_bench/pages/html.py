"""A report of the benchmark as one HTML page that needs nothing but itself."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure

from qpass.views.page import Cell, facts, page, section, table
from qpass_bench.pages import plots
from qpass_bench.pages.tables import FIGURES, SPREAD, about, cells, gaps, roofline
from qpass_bench.running.sweep import SLOW, summary

Report = Mapping[str, Any]
TITLE = "qpass bench"
READ_ME = (
    "Contenders take turns; a time is the median of all rounds. × float32: the median over rounds "
    "of float32's time by the contender's, where float32 is the faster of two layouts of weights. "
    "Of roofline: the least time in which weights can be read and multiplied, by the time taken."
)
SORTED_BY = ("ms", "tokens_per_s", "of_roofline", "ratio", "ratio_bfloat16", "error", "compile_s")
"""What the columns of figures are sorted by; "fastest to slowest" stands below "ms"."""


def to_html(report: Report, demo: Report | None = None) -> str:
    """The page of a run; with the report of the demo also size against quality."""
    return page(TITLE, facts((about(report), roofline(report))), *_sections(report, demo))


def _sections(report: Report, demo: Report | None) -> Iterator[str]:
    rows = report["rows"]
    for suite in dict.fromkeys(row["suite"] for row in rows):
        own = [row for row in rows if row["suite"] == suite and "ratio" in row]
        rivals = [row for row in own if row["kind"] != "float"]
        if suite == "sweep":
            yield section("Random shapes", picture(plots.sweep(rivals)), _sweep(rows))
        elif rivals:
            yield section(f"Speed of {suite}", picture(plots.speed(rivals)))
    if rows:
        yield section("Roofline", picture(plots.roofline(rows, report["roofline"])))
    if demo:
        note = (
            f"{demo['model']['name']}, {demo['text']['tokens']:,} tokens of {demo['text']['name']}"
        )
        drawn = picture(plots.quality(demo["variants"]))
        yield section("Size against quality", drawn, note=note)
    yield section("Figures", figures(rows), note=READ_ME)
    yield section("What did not run", facts(gaps(report)) or "<p>Everything ran.</p>")


def picture(figure: Figure) -> str:
    """A figure inside the page, apart from its styles and names."""
    data = b64encode(plots.svg(figure).encode()).decode()
    label = escape(figure.axes[0].get_xlabel())
    look = "max-width:100%;background:#fff;border-radius:6px"
    return f'<img alt="{label}" style="{look}" src="data:image/svg+xml;base64,{data}">'


def figures(rows: Sequence[Mapping[str, Any]]) -> str:
    """Every row in a table that can be sorted and filtered."""
    kinds = tuple(dict.fromkeys(row["kind"] for row in rows))
    columns = ("case", "variant", *(name for name in FIGURES if name != SPREAD))
    return table(columns, [(row["kind"], tuple(_cells(row))) for row in rows], kinds)


def _cells(row: Mapping[str, Any]) -> Iterator[Cell]:
    name, kernel, ms, spread, *numbers = cells(row)
    yield Cell(row["case"], (row["suite"],), look="code")
    yield Cell(name, (kernel,))
    yield Cell(ms, (spread,), row["ms"], "number")
    for number, key in zip(numbers, SORTED_BY[1:], strict=True):
        yield Cell(number, (), row.get(key), "number")


def _sweep(rows: Sequence[Mapping[str, Any]]) -> str:
    return facts(
        f"{line['variant']}: {line['shapes']} shapes, slowest {line['least']:.2f}×, a tenth below "
        f"{line['tenth']:.2f}×, median {line['median']:.2f}×; {line['slow']} below {SLOW}×, "
        f"{line['unsaid']} of these without a word in the plan"
        for line in summary(rows)
    )
