"""Schemes: which quantizer each operand of a contraction gets."""

from __future__ import annotations

from dataclasses import dataclass

from qpass.errors import RuleError
from qpass.numerics.granularity import Granularity, PerChannel, PerGroup, PerTensor
from qpass.numerics.qtypes import QTYPES, QType
from qpass.numerics.quantizer import Quantizer
from qpass.numerics.quantizer_text import read_quantizer

__all__ = [
    "Granularity",
    "PerChannel",
    "PerGroup",
    "PerTensor",
    "Quantizer",
    "Scheme",
    "as_quantizer",
]


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

    A bare name or type means per channel, of a block format its blocks. Every printed form is read,
    as `"int4 g32 mse"` or `"int8 asym qwix"`; see `qpass.numerics.quantizer_text`.

    Raises:
        UnknownTypeError: a name that no type has.
        RuleError: a word after the name that means nothing, contradicts another or cannot be asked
            of the type, or a value of another kind.
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
    return read_quantizer(what, qtypes)
