"""Schemes: which quantizer each operand of a contraction gets."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from qpass.errors import RuleError
from qpass.numerics.dialects import DIALECTS
from qpass.numerics.granularity import Granularity, PerChannel, PerGroup, PerTensor
from qpass.numerics.qtypes import QTYPES, QType, find_qtype
from qpass.numerics.quantizer import Quantizer
from qpass.suggest import did_you_mean

__all__ = [
    "Granularity",
    "PerChannel",
    "PerGroup",
    "PerTensor",
    "Quantizer",
    "Scheme",
    "as_quantizer",
]

_DIALECTS = tuple(dialect.name for dialect in DIALECTS)


@dataclass(frozen=True)
class Scheme:
    """The quantizers of a contraction; `None` leaves that operand in float."""

    weight: Quantizer | None = None
    act: Quantizer | None = None
    grad: Quantizer | None = None

    def __str__(self) -> str:
        return _forward(self.weight, self.act) + (f", grad {self.grad}" if self.grad else "")


def _forward(weight: Quantizer | None, act: Quantizer | None) -> str:
    if weight and act:
        return f"{weight} x {act}"
    if weight:
        return f"{weight} weight-only"
    return f"{act} act-only" if act else "float"


def as_quantizer(what: str | QType | Quantizer, qtypes: tuple[QType, ...] = QTYPES) -> Quantizer:
    """The quantizer meant by a user: `"int8"`, a type, or a quantizer, which returns as it is.

    A bare name or type means per channel, of a block format its blocks. The printed forms
    `"int4 g32"` and `"int8 tensor"` are read too, and with a dialect "int8 qwix" and
    "int4 g32 qwix".

    Raises:
        UnknownTypeError: a name that no type has.
        RuleError: a text after the name that means no granularity or dialect, or a value of another
            kind.
    """
    if isinstance(what, Quantizer):
        return what
    if isinstance(what, QType):
        return what.as_quantizer()
    if not isinstance(what, str):
        raise RuleError(
            f"Give a quantizer as a name such as 'int8', a type such as qpass.int8, or "
            f"qpass.int4.grouped(128); got {what!r}."
        )
    return _parse(what, qtypes)


def _parse(text: str, qtypes: tuple[QType, ...]) -> Quantizer:
    name, *words = text.split(" ")
    quantizer = find_qtype(name, qtypes).as_quantizer()
    if words and words[-1] in _DIALECTS:
        quantizer = quantizer.in_dialect(words.pop())
    if words and (granularity := _granularity(words[0])):
        quantizer, words = replace(quantizer, granularity=granularity), words[1:]
    if words:
        meant = did_you_mean(words[-1], ("tensor", *_DIALECTS))
        raise RuleError(
            "Write a quantizer as 'int8', 'int8 tensor' or 'int4 g32', and a dialect last, as "
            f"'int4 g32 qwix'; got {text!r}: {meant}"
        )
    return quantizer


def _granularity(word: str) -> Granularity | None:
    if match := re.fullmatch(r"g(\d+)", word):
        return PerGroup(int(match[1]))
    return PerTensor() if word == "tensor" else None
