"""Bar plots as inline SVG, colored by the style sheet of the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH = 1000
_VALUES = 150  # what values may take to the right of the longest bar
_THICK = 9
_CHARACTER = 7  # width of one in a name: monospace of 11.5 px
_CHARACTERS = 56  # the most that a name shows


@dataclass(frozen=True)
class Bar:
    """A named group: (CSS class, length) of each bar, top to bottom, and what stands beside."""

    name: str
    lengths: tuple[tuple[str, float], ...]
    value: str


def bars(groups: Sequence[Bar], label: str) -> str:
    """Horizontal bars on one scale; `label` says to a screen reader what they show.

    Lengths are drawn relative to the largest one and must be finite; negative ones are drawn as 0.
    """
    left = max((len(_shortened(bar.name)) for bar in groups), default=0) * _CHARACTER + 10
    longest = max((length for bar in groups for _, length in bar.lengths), default=0.0)
    scale = (_WIDTH - left - _VALUES) / longest if longest > 0 else 0.0
    parts, top = [], 4
    for bar in groups:
        parts.append(_group(bar, left, top, scale))
        top += _height(bar)
    return (
        f'<svg class="bars" viewBox="0 0 {_WIDTH} {top}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _height(bar: Bar) -> int:
    return max(_THICK * len(bar.lengths), 14) + 8


def _group(bar: Bar, left: int, top: int, scale: float) -> str:
    widths = [(look, max(length, 0.0) * scale) for look, length in bar.lengths]
    # A bar of nothing still shows that it is there.
    rectangles = "".join(
        f'<rect class="{escape(look)}" x="{left}" y="{top + n * _THICK}"'
        f' width="{max(width, 1.0):.1f}" height="{_THICK - 1}" rx="1.5"/>'
        for n, (look, width) in enumerate(widths)
    )
    middle = top + _THICK * len(widths) / 2 + 4
    end = left + max((width for _, width in widths), default=0.0) + 8
    return (
        f"<g><title>{escape(bar.name)}: {escape(bar.value)}</title>"
        f'<text class="name" x="{left - 10}" y="{middle}" text-anchor="end">'
        f"{escape(_shortened(bar.name))}</text>{rectangles}"
        f'<text class="value" x="{end:.1f}" y="{middle}">{escape(bar.value)}</text></g>'
    )


def _shortened(name: str) -> str:
    """The end of a path tells more than its start."""
    return name if len(name) <= _CHARACTERS else f"…{name[1 - _CHARACTERS :]}"
