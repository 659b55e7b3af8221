"""Numbers as a person reads them."""

import math


def bytes_text(size: int) -> str:
    """`512 B`, `1.5 kB`, `98.4 MB`: three digits, units of 1000."""
    if size < 1000:
        return f"{size} B"
    value, unit = size / 1000, "kB"
    for larger in ("MB", "GB", "TB", "PB"):
        if value >= 999.5:
            value, unit = value / 1000, larger
    return f"{value:.{_decimals(value)}f} {unit}"


def _decimals(value: float) -> int:
    """As many as leave three digits in all."""
    return 2 if value < 9.995 else 1 if value < 99.95 else 0


def ratio_text(after: float, before: float) -> str:
    """`0.26×`, or nothing when there is nothing to compare with."""
    return f"{after / before:.2f}×" if before else ""


def decibels(value: float) -> str:
    """`31.4 dB`; `exact` when nothing was lost; `not a number` when either side was not finite."""
    if math.isnan(value):
        return "not a number"
    return "exact" if value == math.inf else f"{value:.1f} dB"


def percent(value: float) -> str:
    """`2.70%`: two decimals, or two digits where the value is smaller than they can show."""
    if math.isnan(value):
        return "not a number"
    return f"{value:.2%}" if value == 0 or value >= 0.0001 else f"{100 * value:.1e}%"


def plural(count: int, noun: str) -> str:
    """`1 site`, `2 sites`; `-f` becomes `-ves` (leaf, leaves)."""
    many = f"{noun[:-1]}ves" if noun.endswith("f") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else many}"
