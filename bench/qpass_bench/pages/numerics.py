"""The page of numerics: tables and plot of round-trip errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qpass_bench.costs.roundtrip import GRANULARITIES, OWN
from qpass_bench.pages.markdown import table, template

DATA = {
    "normal": "Normal values",
    "outliers": "One value in a thousand fifty times as large",
    "weights": "Weights of SmolLM2-135M",
}


def page(report: Mapping[str, Any], demo: Mapping[str, Any]) -> str:
    """``docs/numerics.md`` from what ``roundtrip`` and the demo measured."""
    *_, int4 = demo["variants"]
    return template("numerics").substitute(
        date=report["date"],
        layer=report["layer"],
        int4=_normal(report, "int4", "channel"),
        int4_g32=_normal(report, "int4", "32"),
        int8=_normal(report, "int8", "channel"),
        int4_perplexity=f"{int4['perplexity_ratio']:.3f}",
        types="\n".join(f"**{title}**\n\n{types(report, name)}" for name, title in DATA.items()),
        ranges=ranges(report),
        dialects=dialects(report),
    )


def _normal(report: Mapping[str, Any], qtype: str, granularity: str) -> str:
    (row,) = (row for row in report["types"] if row["type"] == qtype)
    return _figure(row["cells"][granularity]["normal"])


def types(report: Mapping[str, Any], data: str) -> str:
    """A row a type, a column a granularity."""
    head = ("type", "bits", *GRANULARITIES, OWN)
    return table(head, (_type_row(row, data) for row in report["types"]))


def _type_row(row: Mapping[str, Any], data: str) -> list[str]:
    cells = row["cells"]
    bits = min(cell["bits"] for cell in cells.values())
    shown = (_figure(cells.get(column, {}).get(data)) for column in (*GRANULARITIES, OWN))
    return [row["type"], f"{bits:.2f}", *shown]


def ranges(report: Mapping[str, Any]) -> str:
    """A row a range method, a column a quantizer and kind of data."""
    quantizers = list(report["ranges"][0]["cells"])
    head = ("range", *(f"{q}, {data}" for q in quantizers for data in DATA))
    return table(head, map(_range_row, report["ranges"]))


def _range_row(row: Mapping[str, Any]) -> list[str]:
    cells = row["cells"].values()
    return [row["range"], *(_figure(cell.get(data)) for cell in cells for data in DATA)]


def dialects(report: Mapping[str, Any]) -> str:
    """A row a quantizer: the published error, and what each dialect gives."""
    names = list(report["dialects"][0]["cells"])
    head = ("quantizer", "published", *names)
    return table(head, map(_dialect_row, report["dialects"]))


def _dialect_row(row: Mapping[str, Any]) -> list[str]:
    return [row["quantizer"], _figure(row["published"]), *map(_figure, row["cells"].values())]


def _figure(error: float | None) -> str:
    return "" if error is None else f"{error:.5f}"


def plot(report: Mapping[str, Any], file: Any) -> None:
    """Draw error over bits, a panel for each kind of data, a line for each type."""
    import matplotlib as mpl
    from matplotlib.figure import Figure  # no pyplot: no window system, no global state

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "qpass", "font.size": 8}):
        figure = Figure(figsize=(10, 4.4), layout="constrained")
        panels = figure.subplots(1, len(DATA), sharey=True)
        for panel, (data, title) in zip(panels, DATA.items(), strict=True):
            _panel(panel, report["types"], data, title)
        panels[0].set_ylabel("mean |error| / mean |value|")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right", frameon=False)
        figure.savefig(file, metadata={"Date": None} if str(file).endswith(".svg") else None)


def _panel(panel: Any, rows: Sequence[Mapping[str, Any]], data: str, title: str) -> None:
    rows = [row for row in rows if "fnuz" not in row["type"]]  # as good as their namesakes
    for (x, y), row, style in zip(_lines(rows, data), rows, _styles(), strict=False):
        panel.plot(x, y, label=row["type"], markersize=4, linewidth=1, **style)
    panel.set(xscale="log", yscale="log", title=title, xlabel="bits an element, with scales")
    panel.set_xticks([2, 3, 4, 6, 8, 12], labels=["2", "3", "4", "6", "8", "12"])
    panel.minorticks_off()


def _lines(rows: Sequence[Mapping[str, Any]], data: str) -> Iterator[tuple[list, list]]:
    for row in rows:
        cells = sorted(row["cells"].values(), key=lambda cell: cell["bits"])
        yield [cell["bits"] for cell in cells], [cell[data] for cell in cells]


def _styles() -> Iterator[dict[str, Any]]:
    """Colours by turns, then the same with other marks."""
    for mark in "os^D":
        for colour in range(8):
            yield {"marker": mark, "color": f"C{colour}"}
