"""Sections of the page on performance that are written from runs of `qpass bench`."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import groupby
from typing import Any

from qpass_bench.pages.markdown import table
from qpass_bench.pages.tables import about, gaps, milliseconds, roofline
from qpass_bench.running.session import Asked
from qpass_bench.running.sweep import SLOW, summary

Row = Mapping[str, Any]
Report = Mapping[str, Any]

TITLES = {
    "products": "Speed of single products",
    "blocks": "Speed of transformer blocks",
    "models": "Speed of whole models",
    "sweep": "Speed of random shapes",
}
"""Suites that have a section each, where a run of them is committed."""
XLA = " (XLA)"
OPTIONS = {"pattern": "--filter", "only": "--only"}
READ_ME = """## How fast products are

In the sections that follow "×" is times as fast as float32 in the faster of two layouts of the
weight: the median over rounds [slowest, fastest round]; "%" is the share of the
[roofline](benchmarks.md#the-roofline), "(XLA)" the same scheme without compiled kernels.
"""


def sections(reports: Mapping[str, Report]) -> str:
    """A section for each run, by suite; nothing for suites without one."""
    found = [section(suite, reports[suite]) for suite in TITLES if suite in reports]
    return "".join(f"{text}\n" for text in (found and [READ_ME, *found]))


def section(suite: str, report: Report) -> str:
    """Heading, machine, picture and tables of a run."""
    own = {"sweep": _sweep, "models": _models}.get(suite, _cases)
    every = f"[all figures, to sort and filter](bench-{suite}.html)"
    machine = about(report).rstrip(".")
    parts = (
        f"## {TITLES[suite]}",
        f"Written from one run of `{command(report)}`: {machine}. {roofline(report)}",
        f"![{TITLES[suite]}](images/speed-{suite}.svg)",
        *own(report["rows"]),
        f"Operations over bytes: [roofline](images/roofline-{suite}.svg); {every}.",
        *(f"- {line}" for line in gaps(report)),
    )
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def command(report: Report) -> str:
    """What was typed for this run, as far as it says something else than the defaults."""
    plain = {field.name: field.default for field in fields(Asked)}
    asked = {k: v for k, v in report["options"].items() if k in plain and v != plain[k]}
    words = ["qpass bench", report["options"]["suite"]]
    for name, value in asked.items():
        if name not in ("suite", "peers"):
            words += [OPTIONS.get(name, f"--{name}")] + [_quoted(value)] * (value is not True)
    return " ".join(words)


def _quoted(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


def _cases(rows: Sequence[Row]) -> Iterator[str]:
    yield by_rows(rows)
    yield by_case(rows)
    yield "Slower than float32, and why:"
    yield "\n".join(f"- {line}" for line in slower(rows)) or "Nothing is."


def _models(rows: Sequence[Row]) -> Iterator[str]:
    for case, own in groupby(rows, lambda row: row["case"]):
        yield f"{case}:"
        yield contenders(list(own))
    yield "Slower than float32, and why:"
    yield "\n".join(f"- {line}" for line in slower(rows)) or "Nothing is."


def _sweep(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        f"Each shape is tried with a few of the schemes. A shape slower than {SLOW}× of which the "
        "plan had said nothing was timed again with more rounds before it counted as unsaid."
    )
    head = ("scheme", "shapes", "slowest", "tenth", "median", f"below {SLOW}×", "unsaid", "slowest")
    keys = ("least", "tenth", "median")
    yield table(
        head,
        (
            (
                line["variant"],
                line["shapes"],
                *(f"{line[key]:.2f}×" for key in keys),
                line["slow"],
                line["unsaid"],
                line["worst"],
            )
            for line in summary(rows)
        ),
    )


def rivals(rows: Sequence[Row], xla: bool = False) -> list[Row]:
    """Rows of qpass; ``xla``: also those without compiled kernels."""
    own = [row for row in rows if row["kind"] == "qpass" and "ratio" in row]
    return own if xla else [row for row in own if not row["variant"].endswith(XLA)]


def drawn(rows: Sequence[Row]) -> list[Row]:
    """Rows that are drawn: of qpass and of other libraries."""
    peers = [r for r in rows if r["kind"] not in ("qpass", "float") and "ratio" in r]
    return [*rivals(rows), *peers]


def under_the_roof(rows: Sequence[Row]) -> list[Row]:
    """The same, and float32 in its better layout."""
    best = [{**r, "variant": "float32"} for r in rows if r["variant"] == r.get("best_float32")]
    return [*best, *drawn(rows)]


def by_rows(rows: Sequence[Row]) -> str:
    """Slowest, median and fastest case of each scheme, apart by how many rows there are."""
    groups = list(dict.fromkeys(map(_group, rows)))
    own = rivals(rows, xla=True)
    names = dict.fromkeys(row["variant"] for row in own)
    return table(
        ("scheme", *groups),
        (
            (n, *(_span([r for r in own if (r["variant"], _group(r)) == (n, g)]) for g in groups))
            for n in names
        ),
    )


def _group(row: Row) -> str:
    if row["sizes"]["kind"] != "product":
        return row["sizes"]["kind"]
    m = row["sizes"]["m"]
    return "M = 1" if m == 1 else "M = 2 to 16" if m <= 16 else "more rows"


def _span(rows: Sequence[Row]) -> str:
    ratios = [row["ratio"] for row in rows]
    if not ratios:
        return ""
    return f"{min(ratios):.2f} to {max(ratios):.2f}, median {statistics.median(ratios):.2f}×"


def by_case(rows: Sequence[Row]) -> str:
    """A row for each case: float32's time and better layout, bfloat16, schemes, best of others."""
    names = tuple(dict.fromkeys(row["variant"] for row in rivals(rows)))
    cases = [list(own) for _, own in groupby(rows, lambda row: row["case"])]
    others = any(row["kind"] not in ("float", "qpass") for row in rows)
    head = ("", "float32", "bfloat16", *names, *["best of others"] * others)
    return table(head, (_case(own, names, others) for own in cases))


def _case(rows: Sequence[Row], names: Sequence[str], others: bool) -> tuple[str, ...]:
    by_name = {row["variant"]: row for row in rows}
    cells = (figure(by_name.get(name)) for name in names)
    return rows[0]["case"], _base(rows), _bfloat16(rows), *cells, *[_best_other(rows)] * others


def _base(rows: Sequence[Row]) -> str:
    base = next((r for r in rows if r["variant"] == r.get("best_float32")), None)
    if base is None:
        return ""
    layout = base["variant"].removeprefix("float32").strip() or "[in, out]"
    return f"{milliseconds(base['ms'])} ms {layout}"


def _bfloat16(rows: Sequence[Row]) -> str:
    found = [r["ratio"] for r in rows if r["variant"].startswith("bfloat16") and "ratio" in r]
    return f"{max(found):.2f}×" if found else ""


def _best_other(rows: Sequence[Row]) -> str:
    found = [r for r in rows if r["kind"] not in ("float", "qpass") and "ratio" in r]
    best = max(found, key=lambda row: row["ratio"], default=None)
    return f"{best['ratio']:.2f}× {best['variant']}" if best else ""


def figure(row: Row | None) -> str:
    """Speed over float32 with its spread, and the share of the roofline."""
    if row is None or "ratio" not in row:
        return ""
    low, high = min(row["ratios"]), max(row["ratios"])
    return f"{row['ratio']:.2f}× [{low:.2f}, {high:.2f}] {row['of_roofline']:.0%}"


def contenders(rows: Sequence[Row]) -> str:
    """A row for each contender of a case."""
    head = ("", "weights, MB", "ms", "tokens/s", "× float32, of roofline", "bound")
    return table(
        head,
        (
            (
                row["variant"],
                f"{row['bytes'] / 1e6:.1f}",
                milliseconds(row["ms"]),
                f"{row['tokens_per_s']:,.1f}",
                figure(row),
                row["bound"],
            )
            for row in rows
        ),
    )


def slower(rows: Sequence[Row]) -> Iterator[str]:
    """What is slower than float32, a line for each scheme, bound and reason of the plan."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rivals(rows):
        if row["ratio"] < 1:
            found.setdefault((row["variant"], row["bound"], _reason(row)), []).append(row)
    for (variant, bound, reason), own in found.items():
        worst = min(own, key=lambda row: row["ratio"])
        where = f"{worst['ratio']:.2f}× at {worst['case']}"
        more = f", and {len(own) - 1} more" if len(own) > 1 else ""
        yield f"{variant}: {where}{more}; {bound} binds; the plan {reason}."


def _reason(row: Row) -> str:
    words = dict.fromkeys(text.partition(": ")[2] or text for text in row["planned"])
    return f'says "{"; ".join(words)}"' if words else "says nothing"
