"""Bar charts as inline SVG: no library, no script, no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LABEL, FIGURE, ROW, BAR = 540, 145, 140, 32, 20
SPAN = WIDTH - LABEL - FIGURE


@dataclass(frozen=True)
class Bar:
    """A labelled value, the text beside it, its colour class, and the range that was seen."""

    label: str
    value: float
    text: str
    colour: str
    low: float | None = None
    high: float | None = None


def chart(title: str, bars: Sequence[Bar]) -> str:
    """Horizontal bars from zero, to one scale, with whiskers where a range is known."""
    top = max(max(bar.value, bar.high or 0.0) for bar in bars) or 1.0
    rows = "".join(_row(bar, i * ROW, SPAN / top) for i, bar in enumerate(bars))
    height = len(bars) * ROW
    spoken = ", ".join(f"{bar.label} {bar.text}" for bar in bars)
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}: {escape(spoken)}">{rows}</svg></figure>'
    )


def _row(bar: Bar, y: float, scale: float) -> str:
    middle = y + ROW / 2
    end = LABEL + max(bar.value, bar.high or 0.0) * scale
    return (
        f'<text x="{LABEL - 8}" y="{middle}" class="label">{escape(bar.label)}</text>'
        f'<rect x="{LABEL}" y="{middle - BAR / 2}" width="{bar.value * scale:.1f}" height="{BAR}" '
        f'rx="2" class="{escape(bar.colour)}">'
        f"<title>{escape(f'{bar.label}: {bar.text}')}</title></rect>"
        f"{_whisker(bar, middle, scale)}"
        f'<text x="{end + 6:.1f}" y="{middle}" class="figure">{escape(bar.text)}</text>'
    )


def _whisker(bar: Bar, middle: float, scale: float) -> str:
    if bar.low is None or bar.high is None:
        return ""
    left, right = LABEL + bar.low * scale, LABEL + bar.high * scale
    return (
        f'<path class="whisker" d="M{left:.1f} {middle}H{right:.1f}'
        f'M{left:.1f} {middle - 4}v8M{right:.1f} {middle - 4}v8"/>'
    )
