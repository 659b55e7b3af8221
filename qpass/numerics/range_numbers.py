"""The numbers in a range: what is allowed, and how they are written."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from qpass.errors import RuleError

_TINY = float(np.finfo(np.float32).tiny)
_LARGEST = float(np.finfo(np.float32).max)


def number(method: str, what: str, value: Any) -> float:
    """A Python float that float32 can hold as a normal number or zero.

    Raises:
        RuleError: it is no such number.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not _holds(float(value)):
        raise RuleError(
            f"Give the {what} of the range {method!r} as a finite number that float32 can hold; "
            f"got {value!r}."
        )
    return float(value)


def positive(method: str, what: str, value: Any) -> float:
    """A Python float above 0 that float32 can hold.

    Raises:
        RuleError: it is no such number.
    """
    if (found := number(method, what, value)) <= 0:
        raise RuleError(f"Give a {what} above 0 to the range {method!r}; got {shown(found)}.")
    return found


def assign(value: Any, **fields: Any) -> None:
    """Set fields of a frozen dataclass while it is made."""
    for name, field in fields.items():
        object.__setattr__(value, name, field)


def shown(value: float) -> str:
    """The shortest text that reads back as the number; whole numbers without a point."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e9 else repr(value)


def _holds(value: float) -> bool:
    return value == 0 or _TINY <= abs(value) <= _LARGEST
