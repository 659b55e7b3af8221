"""The table of all numeric types, for the page about them."""

from __future__ import annotations

from qpass.numerics import QTYPES, QType
from qpass_bench.pages.markdown import table

HEAD = ("type", "codes", "bits", "range", "a scale for", "scales", "bits with scales")


def types() -> str:
    """A row a type, from the types themselves."""
    return table(HEAD, map(row, QTYPES))


def row(qtype: QType) -> tuple[str, ...]:
    """What a type is, and what an element of it takes in blocks of the type."""
    scale = qtype.scale_format
    with_scales = qtype.bits + 8 * scale.dtype.itemsize / qtype.block if qtype.block else None
    return (
        f"`{qtype.name}`",
        codes(qtype),
        str(qtype.bits),
        f"{qtype.qmin:g} to {qtype.qmax:g}",
        f"{qtype.block} neighbours" if qtype.block else "channel",
        str(scale),
        f"{with_scales:g}" if with_scales else "",
    )


def codes(qtype: QType) -> str:
    """What codes are, and whether they are stored in fewer bits than their dtype has."""
    what = {
        "int": "integers",
        "float": f"{qtype.dtype}",
        "table": f"a table of {len(set(qtype.table))} values",
    }
    return what[qtype.kind] + (", packed" if qtype.packed else "")
