"""What compiled programs send between devices, read from their text."""

import math
import re
from dataclasses import dataclass

KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
CALL = re.compile(rf"= (.*?) ({KINDS})(?:-start)?\(")
ARRAY = re.compile(r"\b([a-z]+\d+\w*)\[([\d,]*)\]")


@dataclass(frozen=True)
class Sent:
    """One array that a collective gives: its kind, the element type, the shape."""

    kind: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self):
        return math.prod(self.shape) * int(re.findall(r"\d+", self.dtype)[0]) // 8


def sent(compiled):
    """Every result of a collective in an optimized program."""
    return [
        Sent(kind, dtype, tuple(int(n) for n in dims.split(",") if n))
        for result, kind in CALL.findall(compiled.as_text())
        for dtype, dims in ARRAY.findall(result)
    ]
