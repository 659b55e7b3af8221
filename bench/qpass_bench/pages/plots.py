"""Plots of a report, as SVG: speed by shape, roofline, random shapes, size against quality."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure  # no pyplot: no window system, no global state

from qpass_bench.running.roofline import read_report

Row = Mapping[str, Any]


def svg(figure: Figure) -> str:
    """The figure as SVG text, the same for the same figures."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def speed(rows: Sequence[Row]) -> Figure:
    """Speed over the best float32, a line a case, a colour a variant."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    figure = Figure(figsize=(9, 1.2 + 0.22 * len(cases)), layout="constrained")
    axes = figure.add_subplot(xscale="log")
    for variant, own in _by_variant(rows).items():
        x = [row["ratio"] for row in own]
        axes.plot(x, [cases.index(row["case"]) for row in own], "o", label=variant, alpha=0.8)
    axes.axvline(1, color="0.5", linewidth=1)
    axes.set_yticks(range(len(cases)), cases, fontsize=7)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    for numbers in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        numbers("{x:g}")
    axes.tick_params(axis="x", which="both", labelsize=8)
    axes.grid(axis="x", which="both", alpha=0.25)
    axes.set_xlabel("times as fast as the best float32")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return figure


def roofline(rows: Sequence[Row], report: Mapping[str, Any]) -> Figure:
    """Operations a second over operations for a byte of weight, under what the machine can do."""
    roof = read_report(report)
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    for variant, own in _by_variant(rows).items():
        intensity = [row["gop_per_s"] / row["gb_per_s"] for row in own]
        axes.plot(intensity, [row["gop_per_s"] for row in own], "o", label=variant, alpha=0.7)
    x = np.geomspace(0.3, 1e4, 200)
    slope = min(roof.reads.values())
    for units, peak in roof.peaks.items():
        axes.plot(x, np.minimum(peak, slope * x) / 1e9, color="0.4", linewidth=1)
        axes.annotate(
            f"{units} {peak / 1e9:.0f} Gop/s", (x[-1], peak / 1e9), ha="right", va="bottom"
        )
    axes.set_xlabel("operations for each byte of weights")
    axes.set_ylabel(f"Gop/s; memory reads {slope / 1e9:.0f} GB/s")
    axes.legend(frameon=False, fontsize=7, loc="lower right")
    return figure


def sweep(rows: Sequence[Row]) -> Figure:
    """Speed of random shapes over how much work they are."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    for variant, own in _by_variant(rows).items():
        work = [row["sizes"]["m"] * row["sizes"]["k"] * row["sizes"]["n"] for row in own]
        axes.plot(work, [row["ratio"] for row in own], ".", label=variant)
    axes.axhline(1, color="0.5", linewidth=1)
    axes.set_xlabel("M × K × N")
    axes.set_ylabel("times as fast as the best float32")
    axes.legend(frameon=False, fontsize=8)
    return figure


def quality(variants: Sequence[Row]) -> Figure:
    """Perplexity over size, for the variants of the demo."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for variant in variants:
        size = variant["sizes"]["bytes"] / 1e6
        axes.plot(size, variant["perplexity"], "o")
        text = f"{variant['name']}\n{variant['speed']['decode']['ratio']:.2f}× decode"
        axes.annotate(text, (size, variant["perplexity"]), (6, 6), textcoords="offset points")
    axes.margins(0.25)
    axes.set_xlabel("parameters, MB")
    axes.set_ylabel("perplexity (less is better)")
    return figure


def _by_variant(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["variant"], []).append(row)
    return found
