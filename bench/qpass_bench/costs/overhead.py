"""The cost of qpass itself: of a call, of memory while quantizing, and of bytes on disk.

What transforming costs is measured by `qpass_bench.costs.transform`, the time of quantizing by
`qpass_bench.costs.quantizing`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType

from qpass_bench.costs import calls, on_disk, peak
from qpass_bench.running import memory
from qpass_bench.running.machine import details
from qpass_bench.running.terminal import drawn

SCHEMA = "qpass-overhead/1"
Report = Mapping[str, Any]
Cells = tuple[str, ...]


def steps() -> int:
    """How often `run` calls its ``tick``."""
    return 2 + len(peak.cases())


def run(rounds: int = 20, tick: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Measure everything; a report ready for JSON. No memory where the system does not tell it."""
    return {
        "schema": SCHEMA,
        "date": time.strftime("%Y-%m-%d"),
        "machine": details(),
        "programs": calls.programs(),
        "calls": calls.times(rounds, tick),
        "memory": list(_memory(peak.cases() if memory.supported() else (), tick)),
        "disk": on_disk.rows(),
    }


def _memory(models: Iterable[peak.Model], tick: Callable[[], None]) -> Iterable[dict[str, Any]]:
    for model in models:
        yield peak.measure(model)
        tick()


PROGRAMS = ("program", "equations", "operations when compiled", "arrays among the arguments")
CALLS = ("call", "µs", "fastest to slowest, µs", "of float")
MEMORY = ("model, quantizer", "leaf, MB", "peak, leaves", "bound, leaves", "over the bound")
DISK = ("weight", "memory, MB", "disk, MB", "memory, of float", "disk, of float")


def tables(report: Report) -> Iterable[tuple[Cells, Sequence[Cells]]]:
    """Heading and rows of the tables, in words."""
    yield PROGRAMS, [_program(row) for row in report["programs"]]
    yield CALLS, [_call(row) for row in report["calls"]]
    yield MEMORY, [_peak(row) for row in report["memory"]]
    yield DISK, [_disk(row) for row in report["disk"]]


def shown(report: Report) -> RenderableType:
    """The tables for a terminal."""
    return Group(*(drawn(head, rows) for head, rows in tables(report)))


def _program(row: Report) -> Cells:
    return row["program"], *(str(row[key]) for key in ("equations", "instructions", "leaves"))


def _call(row: Report) -> Cells:
    low, high = row["us_range"]
    return row["call"], f"{row['us']:.1f}", f"{low:.1f} to {high:.1f}", f"{row['of_float']:.2f}×"


def _peak(row: Report) -> Cells:
    words = f"{row['leaves']} × {row['dtype']}", row["weight"]
    notes = "donated" if row["donate"] else "kept", "freed at once" if row["mapped"] else ""
    figures = (f"{row[key]:.2f}" for key in ("peak", "bound"))
    name = ", ".join(filter(None, (*words, *notes)))
    return name, f"{row['leaf_mb']:.1f}", *figures, f"{row['excess']:+.2f}"


def _disk(row: Report) -> Cells:
    sizes = (f"{row[key] / 1e6:.2f}" for key in ("memory", "disk"))
    return row["weight"], *sizes, *(f"{row[k]:.3f}×" for k in ("memory_ratio", "disk_ratio"))
