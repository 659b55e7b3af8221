"""Layers that differ in nothing but their number, told once."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from qpass.views.row import Row

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Fold:
    """Rows that say the same; `row` speaks for them, with `{0..29}` or `*` where names differ."""

    row: Row
    members: tuple[Row, ...]


def unfolded(rows: Iterable[Row]) -> tuple[Fold, ...]:
    """Each row for itself."""
    return tuple(Fold(row, (row,)) for row in rows)


def fold(rows: Iterable[Row]) -> tuple[Fold, ...]:
    """Fold rows whose names differ only in numbers and that are alike in all else.

    A fold stands where the first of its rows stood.
    """
    groups: dict[Row, list[Row]] = {}
    for row in rows:
        groups.setdefault(_nameless(row), []).append(row)
    return tuple(Fold(_spokesman(members), tuple(members)) for members in groups.values())


_NAMES = ("id", "weight", "scope", "forward")


def _nameless(row: Row) -> Row:
    """What rows must share: where operands come from differs between a first layer and the rest."""
    names = {field: without_numbers(getattr(row, field)) for field in _NAMES}
    notes = tuple(map(without_numbers, row.notes))
    return replace(row, **names, notes=notes, operands_from=())


def _spokesman(members: Sequence[Row]) -> Row:
    names = {field: common_name([getattr(row, field) for row in members]) for field in _NAMES}
    notes = zip(*(row.notes for row in members), strict=True)
    return replace(members[0], **names, notes=tuple(map(common_name, notes)))


def without_numbers(name: str) -> str:
    """`layers/3/mlp` -> `layers/#/mlp`: what names of unrolled layers have in common."""
    return _NUMBER.sub("#", name)


def common_name(names: Sequence[str]) -> str:
    """One name for many that differ only in numbers: `layers/{0..29}/mlp/up`.

    A place where the numbers are the same keeps its number, one where they run on without a gap
    shows the range, and any other becomes `*`.
    """
    places = iter(zip(*(_NUMBER.findall(name) for name in names), strict=True))
    return _NUMBER.sub(lambda _: _range(next(places)), names[0])


def _range(numbers: Sequence[str]) -> str:
    if len(set(numbers)) == 1:
        return numbers[0]
    values = sorted({int(number) for number in numbers})
    if values[-1] - values[0] == len(values) - 1:
        return f"{{{values[0]}..{values[-1]}}}"
    return "*"
