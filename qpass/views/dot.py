"""A plan as a graph for Graphviz: weights, the sites that multiply them, and who feeds whom."""

from collections.abc import Iterable, Iterator, Sequence

from qpass.errors import PlanError
from qpass.views.row import Row
from qpass.views.units import bytes_text

_QUANTIZED = 'style="filled", fillcolor="#d7ecd9"'
_FLOAT = 'style="filled,dashed", fillcolor="#eeeeee"'


def to_dot(rows: Sequence[Row], edges: Iterable[tuple[str, str]] = ()) -> str:
    """Draw the plan from left to right.

    Args:
        rows: of a plan.
        edges: (site id, site id) pairs: the first one's result reaches the second.

    Raises:
        PlanError: an edge names a site that no row has.
    """
    lines = (*_weights(rows), *(_site(row) for row in rows), *_reads(rows), *_flow(rows, edges))
    return "\n".join(("digraph plan {", *_STYLE, *(f"  {line}" for line in lines), "}", ""))


_STYLE = (
    "  rankdir=LR;",
    '  node [fontname="Helvetica", fontsize=10];',
    '  edge [fontname="Helvetica", fontsize=9];',
)


def _quoted(*lines: str) -> str:
    """One DOT string; each argument becomes a line of the label."""
    return '"' + "\\n".join(_escape(line) for line in lines if line) + '"'


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _weights(rows: Sequence[Row]) -> Iterator[str]:
    sizes = {row.weight: row.bytes_before for row in rows if row.weight}
    for path, size in sizes.items():
        label = _quoted(path, bytes_text(size))
        yield f"{_quoted(f'weight:{path}')} [shape=cylinder, label={label}];"


def _site(row: Row) -> str:
    decision = row.scheme if row.quantized else row.reason
    label = _quoted(row.id, row.equation, decision, row.kernel)
    look = _QUANTIZED if row.quantized else _FLOAT
    return f"{_quoted(row.id)} [shape=box, {look}, label={label}];"


def _reads(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row.weight:
            label = f" [label={_quoted(row.scheme)}]" if row.scheme else ""
            yield f"{_quoted(f'weight:{row.weight}')} -> {_quoted(row.id)}{label};"


def _flow(rows: Sequence[Row], edges: Iterable[tuple[str, str]]) -> Iterator[str]:
    known = {row.id for row in rows}
    for source, target in edges:
        for end in (source, target):
            if end not in known:
                raise PlanError(f"Edge {source!r} -> {target!r}: the plan has no site {end!r}.")
        yield f"{_quoted(source)} -> {_quoted(target)};"
