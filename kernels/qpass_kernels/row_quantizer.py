"""Rows that are quantized on the way into a product, and what can do that in its own way."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Rows:
    """Floats `[rows, k]` that become int8 codes, with a float32 scale for each group of a row.

    The formula is that of qpass's own dialect: symmetric, to the nearest, and with the least scale
    that clips nothing (`qpass.numerics.formulas`).

    Attributes:
        rows, k: sizes.
        group: neighbours that share a scale; the last group of a row may be shorter.
        dtype: name of the floats' own dtype, whose greatest number bounds the scales.
    """

    rows: Any
    k: Any
    group: Any
    dtype: str

    @property
    def groups(self) -> int:
        """Scales of a row."""
        return -(-self.k // self.group)


@dataclass(frozen=True)
class RowQuantizer:
    """One way to quantize rows; codes and scales have the bits of the formula.

    Attributes:
        supports: Rows -> None, or the reason for refusing them.
        run: (rows, x float32 `[rows, k]`) -> int8 codes `[rows, k]` and float32 scales `[rows,
            groups]`. Traceable; asked only for supported rows.
        widens: whether `run` takes x in its own dtype.
    """

    supports: Callable[[Rows], str | None]
    run: Callable[[Rows, Any], tuple[Any, Any]]
    widens: bool = False


def most(name: str) -> np.float32:
    """The scale with which code -128 means about the greatest number of the dtype."""
    return np.float32(float(jnp.finfo(name).max) * (1 - 2**-22) / 128)
