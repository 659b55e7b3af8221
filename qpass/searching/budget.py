"""What a search may spend: bits, bytes, time or loss."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from qpass.errors import PlanError

UNITS: Mapping[str, int] = MappingProxyType(
    {
        "B": 1,
        "kB": 10**3,
        "MB": 10**6,
        "GB": 10**9,
        "KiB": 1 << 10,
        "MiB": 1 << 20,
        "GiB": 1 << 30,
    }
)
"""Bytes in each unit of size."""
TIMES: Mapping[str, float] = MappingProxyType({"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9})
"""Nanoseconds in each unit of time."""
_TEXT = re.compile(r"(?P<amount>\d+(\.\d+)?(e[-+]?\d+)?)\s*(?P<unit>[A-Za-z]+|%)")


@dataclass(frozen=True)
class Budget:
    """An amount not to be exceeded; as text "4.5 bits", "80 MB", "30%", "2 ms", "0.02 loss".

    Attributes:
        amount: positive.
        unit: "bits" for each number of the weights that are searched, scales included; a unit of
            `UNITS` or "%" (of the float tree) for the whole tree of parameters; a unit of `TIMES`
            for the products of the weights that are searched, in one call; or "loss", in what the
            loss is measured in.
    """

    amount: float
    unit: str

    def __str__(self) -> str:
        blank = "" if self.unit == "%" else " "
        return f"{self.amount:g}{blank}{self.unit}"

    def nbytes(self, numbers: int, rest: int, whole: int) -> int:
        """Bytes for the weights that are searched.

        Args:
            numbers: how many numbers these have.
            rest: bytes of the tree that are not theirs.
            whole: bytes of the float tree.

        Raises:
            PlanError: the budget is not more than the rest.
        """
        if self.unit == "bits":
            return int(self.amount * numbers / 8)
        asked = self.amount * whole / 100 if self.unit == "%" else self.amount * UNITS[self.unit]
        if asked <= rest:
            raise PlanError(
                f"give more than {rest:,} bytes, which is what the parameters take that are not "
                f"searched; got {self}."
            )
        return int(asked) - rest


def as_budget(given: str | Budget) -> Budget:
    """Read a budget.

    Raises:
        PlanError: the text is none, or the amount is zero.
    """
    if isinstance(given, Budget):
        return given
    match = _TEXT.fullmatch(given.strip()) if isinstance(given, str) else None
    if match is None or match["unit"] not in (*UNITS, *TIMES, "%", "bits", "loss"):
        raise PlanError(
            f"give a budget as '4.5 bits', '80 MB', '30%', '2 ms' or '0.02 loss'; units of size "
            f"are {', '.join(UNITS)}, of time {', '.join(TIMES)}; got {given!r}."
        )
    if not float(match["amount"]) > 0:
        raise PlanError(f"give a budget above zero; got {given!r}.")
    return Budget(float(match["amount"]), match["unit"])
