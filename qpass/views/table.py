"""A plan as a table for the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from qpass.views.fold import Fold, fold, unfolded
from qpass.views.row import Row
from qpass.views.summary import Summary, summarize
from qpass.views.units import bytes_text, plural, ratio_text


def to_table(
    rows: Sequence[Row],
    *,
    folded: bool = False,
    details: bool = False,
    title: str = "",
    remarks: Sequence[str] = (),
) -> Group:
    """Draw the rows, with the rules and the sums below; two lines a row from 100 columns on.

    Args:
        rows: of a plan.
        folded: tell rows of unrolled layers that say the same only once.
        details: add the scope, the source line, where the operands of a site left float come from,
            and the refused kernels.
        title: a line above.
        remarks: lines below, on what concerns no single site.
    """
    table = _frame(title)
    for entry in fold(rows) if folded else unfolded(rows):
        row = entry.row
        table.add_row(
            _site(entry, details), _product(row, details), _decision(row, details), _bytes(row)
        )
    summary = summarize(rows)
    below = (Text(remark, style="yellow") for remark in remarks)
    return Group(table, Text(), rules(summary), sums(summary), *below)


def _frame(title: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        title=title or None,
        title_justify="left",
    )
    table.add_column("Site", overflow="fold")
    table.add_column("Product", overflow="fold")
    table.add_column("Decision", overflow="fold")
    table.add_column("Bytes", justify="right", no_wrap=True)
    return table


def _cell(head: Text, *below: Text) -> Group:
    """What matters flush, what explains it indented, so that rows can be told apart."""
    return Group(head, *(Padding(text, (0, 0, 0, 2)) for text in below if text.plain))


def _site(entry: Fold, details: bool) -> Group:
    row = entry.row
    told = (row.other_scope, row.source, row.relation) if details else ()
    origin = " ".join(filter(None, told))
    return _cell(Text(row.id, style="bold"), _below(entry), Text(origin, style="dim"))


def _below(entry: Fold) -> Text:
    """The weight, the role where it is not the usual one, and how often there is such a site."""
    row, sites = entry.row, len(entry.members)
    usual = row.role == "forward"
    text = Text(row.weight or ("no weight" if usual else ""), style="dim")
    times = (
        ("" if usual else row.role, "not dim magenta"),
        (_times(sites, row.count), "not dim cyan"),
    )
    for words, style in times:
        if words:
            text.append(f"{'  ' if text else ''}{words}", style=style)
    return text


def _times(sites: int, runs: int) -> str:
    alike = f"{sites} sites" if sites > 1 else ""
    return " ".join(filter(None, (alike, f"×{runs}" if runs > 1 else "")))


def _product(row: Row, details: bool) -> Group:
    result = f" → {row.out}" if details else ""
    return _cell(Text(row.equation or row.op), Text(f"{row.operands}{result}", style="dim"))


def _decision(row: Row, details: bool) -> Group:
    head = _scheme(row) if row.quantized else Text(row.reason, style="dim italic")
    rule = Text("" if row.rule is None else f"rule {row.rule}", style="dim")
    notes = (Text(note, style="yellow") for note in row.told)
    more = (*row.unsaid, *(f"not {kernel}: {why}" for kernel, why in row.refused))
    return _cell(head, rule, *notes, *(Text(text, style="dim") for text in more if details))


def _scheme(row: Row) -> Text:
    return Text.assemble((row.scheme, "green"), f" by {row.kernel}" if row.kernel else "")


def _bytes(row: Row) -> Group:
    if not row.bytes_before:
        return Group()
    if not row.quantized:
        return Group(Text(bytes_text(row.bytes_before), style="dim"))
    return Group(Text(bytes_text(row.bytes_before)), Text(f"→ {bytes_text(row.bytes_after)}"))


def rules(summary: Summary) -> Text:
    """The rules that decided something, one a line, with the number of sites each decided."""
    return Text("\n").join(
        Text.assemble(f"rule {rule}  ", (text, "cyan"), (f"  {plural(n, 'site')}", "dim"))
        for rule, text, n in summary.rules
    )


def sums(summary: Summary) -> Text:
    """The last lines: sites, bytes, and which kernels were refused for which reason."""
    saved = ratio_text(summary.bytes_after, summary.bytes_before)
    text = Text.assemble(
        (f"{plural(summary.sites, 'site')}  ", "bold"),
        f"{summary.quantized:,} quantized, {summary.left_float:,} left float\n",
        (f"{plural(summary.leaves, 'quantized leaf')}  ", "bold"),
        f"{bytes_text(summary.bytes_before)} → {bytes_text(summary.bytes_after)}  {saved}".rstrip(),
    )
    for kernel, why, count in summary.refused:
        text.append(f"\n{kernel} refused at {plural(count, 'site')}: {why}", style="dim")
    return text
