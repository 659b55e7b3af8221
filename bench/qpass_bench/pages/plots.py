"""Plots of a report, as SVG: speed by shape, roofline, random shapes, size against quality."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # no pyplot: no window system, no global state

from qpass_bench.running.roofline import read_report

Row = Mapping[str, Any]
COLOURS = 10
"""Of matplotlib's cycle."""


def svg(figure: Figure) -> str:
    """The figure as SVG text, the same for the same figures."""
    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "qpass"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def speed(rows: Sequence[Row]) -> Figure:
    """Speed over the best float32, a line a case, a colour a variant."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    figure = Figure(figsize=(9, 1.2 + 0.22 * len(cases)), layout="constrained")
    axes = figure.add_subplot(xscale="log")
    for variant, own in _by_variant(rows).items():
        x = [row["ratio"] for row in own]
        axes.plot(x, [cases.index(row["case"]) for row in own], "o", label=variant, alpha=0.8)
    _speeds(axes, cases)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return figure


def roofline(rows: Sequence[Row], report: Mapping[str, Any]) -> Figure:
    """Operations a second over operations for a byte of weight, under what the machine can do."""
    roof = read_report(report)
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    shapes = cycle("o" * COLOURS + "s" * COLOURS + "^" * COLOURS)
    for (variant, own), shape in zip(_by_variant(rows).items(), shapes, strict=False):
        intensity = [row["gop_per_s"] / row["gb_per_s"] for row in own]
        speeds = [row["gop_per_s"] for row in own]
        axes.plot(intensity, speeds, shape, label=variant, alpha=0.7)
    x = np.geomspace(0.3, 1e4, 200)
    slopes = {"memory": roof.reads[max(roof.reads)], "a cache": max(roof.reads.values())}
    top = max(roof.peaks.values())
    for (name, slope), line in zip(slopes.items(), ("-", ":"), strict=True):
        label = f"{name}, {slope / 1e9:.0f} GB/s"
        axes.plot(x, np.minimum(top, slope * x) / 1e9, line, color="0.4", linewidth=1, label=label)
    for units, peak in roof.peaks.items():
        axes.axhline(peak / 1e9, color="0.8", linewidth=1, zorder=0)
        axes.annotate(f"{units} {peak / 1e9:.0f}", (x[-1], peak / 1e9), fontsize=7, va="center")
    axes.set_xlabel("operations for each byte of weights")
    axes.set_ylabel("Gop/s; at the right what XLA reaches")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=7)
    return figure


def sweep(rows: Sequence[Row]) -> Figure:
    """Speed of random shapes, a line a scheme, those apart of which the plan had said something."""
    found = _by_variant(rows)
    names = sorted(found)
    figure = Figure(figsize=(9, 1.2 + 0.22 * len(names)), layout="constrained")
    axes = figure.add_subplot(xscale="log")
    labels = "the plan said nothing", "the plan spoke of slowness"
    for said, label in enumerate(labels):
        own = [row for row in rows if bool(row["planned"]) == said]
        at = [names.index(row["variant"]) for row in own]
        ratios = [row["ratio"] for row in own]
        axes.plot(ratios, at, "o", markersize=4, alpha=0.6, label=label)
    _speeds(axes, names)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return figure


def _speeds(axes: Axes, names: Sequence[str]) -> None:
    """Lines by name, and speed over float32 along them."""
    axes.axvline(1, color="0.5", linewidth=1)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_ylim(len(names) - 0.5, -0.5)
    for numbers in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        numbers("{x:g}")
    axes.tick_params(axis="x", which="both", labelsize=8)
    axes.grid(axis="x", which="both", alpha=0.25)
    axes.set_xlabel("times as fast as the best float32")


def quality(variants: Sequence[Row]) -> Figure:
    """Perplexity over size, for the variants of the demo."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for variant in variants:
        size = variant["sizes"]["bytes"] / 1e6
        axes.plot(size, variant["perplexity"], "o")
        text = f"{variant['name']}\n{variant['speed']['decode']['ratio']:.2f}× decode"
        axes.annotate(text, (size, variant["perplexity"]), (6, 6), textcoords="offset points")
    axes.margins(0.35, 0.25)
    axes.set_xlabel("parameters, MB")
    axes.set_ylabel("perplexity (less is better)")
    return figure


def _by_variant(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["variant"], []).append(row)
    return found
