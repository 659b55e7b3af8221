"""Random shapes: how the slowest of them do, and whether the plan said so beforehand.

What the plan said (`qpass.views.Row.slow`) is in a row as "planned", word by word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SLOW = 0.8
"""Speed over the best float32 below which a plan should have said something."""


def summary(rows: Sequence[Mapping[str, Any]], slow: float = SLOW) -> list[dict[str, Any]]:
    """A line for each variant: how many shapes there are, quantiles, and how many are slow."""
    own = [row for row in rows if row["suite"] == "sweep" and row["kind"] == "qpass"]
    names = sorted({row["variant"] for row in own})
    return [_line(name, [row for row in own if row["variant"] == name], slow) for name in names]


def _line(variant: str, rows: Sequence[Mapping[str, Any]], slow: float) -> dict[str, Any]:
    ratios = sorted(row["ratio"] for row in rows)
    below = [row for row in rows if row["ratio"] < slow]
    return {
        "variant": variant,
        "shapes": len(rows),
        "least": ratios[0],
        "tenth": ratios[len(ratios) // 10],
        "median": ratios[len(ratios) // 2],
        "slow": len(below),
        "unsaid": sum(not row["planned"] for row in below),
        "worst": min(rows, key=lambda row: row["ratio"])["case"],
    }
