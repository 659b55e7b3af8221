"""How many scales a tensor gets, and the quantizer: a numeric type with a granularity."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qpass.errors import RuleError
from qpass.numerics.dialects import QPASS, Dialect, as_dialect

if TYPE_CHECKING:
    from qpass.numerics.qtypes import QType


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole tensor."""

    def __str__(self) -> str:
        return "tensor"


@dataclass(frozen=True)
class PerChannel:
    """One scale for each index of every axis that the contraction does not reduce."""

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True)
class PerGroup:
    """Per channel, and the innermost contracted axis is cut in groups of `size` elements.

    The last group is shorter where `size` does not divide the axis.

    Raises:
        RuleError: `size` is not a positive integer.
    """

    size: int

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise RuleError(f"Give a group size that is an int of 1 or more; got {self.size!r}.")

    def __str__(self) -> str:
        return f"g{self.size}"


type Granularity = PerTensor | PerChannel | PerGroup


@dataclass(frozen=True)
class Quantizer:
    """What a tensor is quantized to: a numeric type, the granularity of its scales, a dialect.

    `dialect` None: that of the transformation, `qpass` where it names none.
    """

    qtype: QType
    granularity: Granularity = PerChannel()
    dialect: Dialect | None = None

    def in_dialect(self, dialect: str | Dialect) -> Quantizer:
        """This quantizer in a dialect, given by name or as a value.

        Raises:
            UnknownDialectError: no dialect has that name.
        """
        return replace(self, dialect=as_dialect(dialect))

    def __str__(self) -> str:
        shown = "" if self.dialect in (None, QPASS) else str(self.dialect)
        return " ".join(filter(None, (self.qtype.name, str(self.granularity), shown)))
