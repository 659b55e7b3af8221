"""Why one site of a plan is as it is: the way of its operands, what rules said, what is stored."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from qpass.views import document
from qpass.views.row import Row
from qpass.views.text import to_text

FORMAT = "qpass-why"
VERSION = 1


@dataclass(frozen=True)
class Line:
    """One station on the way of an operand: what happens, the type after it, the source line."""

    what: str
    type: str
    source: str = ""


@dataclass(frozen=True)
class Operand:
    """An operand: `lines` lead from the leaf, or from what made the value, to the product."""

    name: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Said:
    """What a rule says of the site: `decides: int8 x int8`, or why it does not fit."""

    rule: int
    text: str
    says: str
    fits: bool


@dataclass(frozen=True)
class Explanation:
    """Why a site is quantized as it is, or left float. Prints as text, draws itself with rich.

    Attributes:
        row: the site with its decision.
        operands: where each operand comes from.
        rules: every rule in order, with what it says of the site.
        storage: whether its weight is stored quantized, and why not.
        advice: what would have it stored, where it is not.
    """

    row: Row
    operands: tuple[Operand, ...]
    rules: tuple[Said, ...]
    storage: str
    advice: str

    def to_json(self) -> str:
        """All of it as JSON."""
        return document.write(FORMAT, VERSION, **asdict(self))

    def __str__(self) -> str:
        return to_text(self)

    def __rich__(self) -> Any:
        return Group(*_sections(self))


def _sections(told: Explanation) -> Iterator[Any]:
    row = told.row
    yield Text(row.id, style="bold")
    yield _indented(Text(text, style="dim") for text in filter(None, _facts(row)))
    yield from _section("Operands", _operands(told.operands))
    yield from _section("Rules", _rules(told.rules) if told.rules else Text("none given"))
    yield from _section("Decision", _decision(row))
    if told.storage:
        stored = (Text(told.storage), *filter(None, (Text(told.advice, style="cyan"),)))
        yield from _section("Storage", *stored)
    if row.kernel:
        refused = (Text(f"not {name}: {why}", style="dim") for name, why in row.refused)
        yield from _section("Kernel", Text(row.kernel), *refused)


def _facts(row: Row) -> Iterator[str]:
    yield "  ".join(filter(None, (row.op, row.equation, f"{row.operands} → {row.out}")))
    runs = f"runs {row.count} times" if row.count > 1 else ""
    scope = f"scope {row.scope}" if row.scope else ""
    yield "  ".join(filter(None, (row.role, row.source, scope, runs)))
    yield row.relation


def _section(title: str, *content: Any) -> Iterator[Any]:
    yield Text()
    yield Text(title, style="bold")
    yield _indented(content)


def _indented(content: Iterable[Any]) -> Padding:
    return Padding(Group(*content), (0, 0, 0, 2))


def _operands(operands: Sequence[Operand]) -> Table:
    table = _grid(4)
    for operand in operands:
        for number, line in enumerate(operand.lines):
            name = "" if number else operand.name
            source = Text(line.source, style="dim")
            table.add_row(Text(name, style="bold"), Text(line.what), Text(line.type), source)
    return table


def _rules(said: Sequence[Said]) -> Table:
    table = _grid(3)
    for rule in said:
        style = "green" if rule.fits else "dim"
        table.add_row(
            Text(f"rule {rule.rule}"), Text(rule.text, style="cyan"), Text(rule.says, style=style)
        )
    return table


def _decision(row: Row) -> Group:
    head = Text(row.scheme, style="green") if row.quantized else Text(f"float: {row.reason}")
    return Group(head, *(Text(note, style="yellow") for note in row.told))


def _grid(columns: int) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(columns):
        table.add_column(overflow="fold")
    return table
