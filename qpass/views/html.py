"""A plan as a self-contained HTML page."""

from collections.abc import Iterator, Sequence

from qpass.views.bars import Bar, bars
from qpass.views.fold import common_name, without_numbers
from qpass.views.page import Cell, facts, page, section, table, tiles
from qpass.views.row import Row
from qpass.views.summary import Leaf, Summary, quantized_leaves, summarize
from qpass.views.units import bytes_text, plural, ratio_text

_MOST_BARS = 24
_QUANTIZED, _FLOAT = "quantized", "left float"


def to_html(rows: Sequence[Row], title: str = "qpass plan", remarks: Sequence[str] = ()) -> str:
    """The sums, bars of bytes before and after, the rules, and every site in a sortable table.

    `remarks` are lines on what concerns no single site.
    """
    return page(title, *plan_sections(rows, remarks))


def plan_sections(rows: Sequence[Row], remarks: Sequence[str] = ()) -> tuple[str, ...]:
    """What `to_html` shows, as sections for a larger page."""
    summary = summarize(rows)
    lists = _lists(summary, remarks)
    return (tiles(_figures(summary)), *_bytes(rows), *lists, _sites(rows))


def _figures(summary: Summary) -> Iterator[tuple[str, str]]:
    yield f"{summary.quantized:,}", f"of {plural(summary.sites, 'site')} quantized"
    yield f"{summary.left_float:,}", "left float"
    if summary.leaves:
        yield bytes_text(summary.bytes_before), f"in {plural(summary.leaves, 'leaf')} before"
        yield bytes_text(summary.bytes_after), "in the same leaves after"
        yield ratio_text(summary.bytes_after, summary.bytes_before), "after / before"


def _bytes(rows: Sequence[Row]) -> Iterator[str]:
    groups = _leaf_bars(quantized_leaves(rows))
    if groups:
        picture = bars(groups, "bytes of each quantized parameter leaf before and after")
        yield section(
            "Bytes", picture, note="Each quantized parameter leaf: before above, after below."
        )


def _leaf_bars(leaves: Sequence[Leaf]) -> list[Bar]:
    """Largest first; leaves that differ only in the number of their layer are one bar."""
    groups: dict[str, list[Leaf]] = {}
    for leaf in leaves:
        groups.setdefault(without_numbers(leaf.path), []).append(leaf)
    found = sorted(groups.values(), key=_before, reverse=True)
    shown, rest = found[:_MOST_BARS], [leaf for group in found[_MOST_BARS:] for leaf in group]
    drawn = [_bar(common_name([leaf.path for leaf in group]), group) for group in shown]
    return [*drawn, _bar(f"{plural(len(rest), 'other leaf')}", rest)] if rest else drawn


def _before(leaves: Sequence[Leaf]) -> int:
    return sum(leaf.bytes_before for leaf in leaves)


def _bar(name: str, leaves: Sequence[Leaf]) -> Bar:
    before, after = _before(leaves), sum(leaf.bytes_after for leaf in leaves)
    change = f"{bytes_text(before)} → {bytes_text(after)}"
    return Bar(name, (("before", before), ("after", after)), change)


def _lists(summary: Summary, remarks: Sequence[str]) -> Iterator[str]:
    rules = [f"rule {n}: {text} ({plural(sites, 'site')})" for n, text, sites in summary.rules]
    refused = [
        f"{kernel} refused at {plural(sites, 'site')}: {why}"
        for kernel, why, sites in summary.refused
    ]
    found = {"Remarks": remarks, "Rules": rules, "Kernels that were refused": refused}
    yield from (section(title, facts(lines)) for title, lines in found.items() if lines)


def _sites(rows: Sequence[Row]) -> str:
    columns = ("Site", "Weight", "Product", "Rule", "Decision", "Before", "After")
    cells = [(_QUANTIZED if row.quantized else _FLOAT, _cells(row)) for row in rows]
    return section("Sites", table(columns, cells, kinds=(_QUANTIZED, _FLOAT)))


def _cells(row: Row) -> tuple[Cell, ...]:
    runs = f"runs {row.count} times" if row.count > 1 else ""
    where = " · ".join(filter(None, (row.source, runs)))
    role = "" if row.role == "forward" else row.role
    shapes = f"{row.operands} → {row.out}"
    after = row.bytes_after if row.quantized else 0
    return (
        Cell(row.id, (row.other_scope, where), look="code"),
        Cell(row.weight, look="code"),
        Cell(row.equation, (shapes, f"{row.op} {role}".strip()), look="code"),
        Cell("" if row.rule is None else str(row.rule), (row.rule_text,), key=_rule_key(row)),
        _decision(row),
        Cell(
            bytes_text(row.bytes_before) if row.weight else "", key=row.bytes_before, look="number"
        ),
        Cell(bytes_text(after) if after else "", key=after, look="number"),
    )


def _rule_key(row: Row) -> int:
    return -1 if row.rule is None else row.rule


def _decision(row: Row) -> Cell:
    refused = tuple(f"not {kernel}: {why}" for kernel, why in row.refused)
    if row.quantized:
        kernel = f"by {row.kernel}" if row.kernel else ""
        return Cell(row.scheme, (kernel, *row.told, *refused), look="quantized")
    return Cell(row.reason, (*row.told, *row.unsaid, *refused), look="reason")
