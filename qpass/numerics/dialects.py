"""Dialects: the last bits of the formulas, so that results can be held to another library's.

A dialect is a value; the formulas in `qpass.numerics.formulas` take their constants from it. A
dialect decides scales and codes. What codes stand for, `f32(codes) * scale`, is the same in all,
so a stored tensor need not say which one wrote it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from qpass.errors import UnknownDialectError
from qpass.suggest import did_you_mean

if TYPE_CHECKING:
    from qpass.numerics.qtypes import QType

type Guard = Callable[[jax.Array, jax.Array, np.dtype], jax.Array]


def zeros_alone(amax: jax.Array, scale: jax.Array, dtype: np.dtype) -> jax.Array:
    """Scale 1 for a block of zeros; any other scale is at least the least normal number."""
    return jnp.where(amax == 0, 1, jnp.maximum(scale, jnp.finfo(dtype).tiny))


def below_root_of_tiny(amax: jax.Array, scale: jax.Array, dtype: np.dtype) -> jax.Array:
    """Scale 1 where it is below the root of the least normal number (f16: below 0.0078)."""
    return jnp.where(scale < np.sqrt(float(jnp.finfo(dtype).tiny)), 1, scale)


@dataclass(frozen=True)
class Dialect:
    """What is left open when type and granularity are given.

    Attributes:
        name: what rules and plans call it.
        guard: from the largest magnitudes, the scales and the dtype they are rounded to, the
            scales that are used: what becomes of zero and of very small ones.
        headroom: how far beyond the greatest code of an integer type the largest magnitude is
            mapped, in steps. With half a step, all of the last step's interval is used.
        full_range: whether symmetric integer codes go one lower than the negative of the greatest.
        signed: whether the larger side of a block lies on the longer side of the codes, with a
            negative scale where that takes one (see `qpass.numerics.formulas.parameters`).
        scale_dtype: what scales and quotients are rounded to; None: the dtype of the array. They
            are held in float32 in any case.
        divides: whether a quotient is one where XLA leaves it (see `qpass.numerics.formulas`);
            else it is always a product with the reciprocal.
    """

    name: str
    guard: Guard
    headroom: float = 0.0
    full_range: bool = False
    signed: bool = False
    scale_dtype: str | None = "float32"
    divides: bool = False

    def bound(self, qtype: QType) -> float:
        """What the largest magnitude of a block is mapped to in a symmetric range."""
        return qtype.qmax - qtype.middle + (self.headroom if qtype.kind == "int" else 0)

    def limits(self, qtype: QType, symmetric: bool = True) -> tuple[float, float]:
        """The least and the greatest code."""
        if self.full_range or not symmetric or qtype.kind != "int":
            return qtype.qmin, qtype.qmax
        return 2 * qtype.middle - qtype.qmax, qtype.qmax

    def precision(self, dtype: np.dtype) -> np.dtype:
        """What scales and quotients of an array of that dtype are rounded to."""
        return jnp.dtype(self.scale_dtype or dtype)

    def __str__(self) -> str:
        return self.name


QPASS = Dialect("qpass", zeros_alone, full_range=True, signed=True)
# Qwix 0.1.8, symmetric absmax, as XLA compiles it for CPU.
QWIX = Dialect("qwix", below_root_of_tiny, 0.5, full_range=True, scale_dtype=None, divides=True)

DIALECTS: tuple[Dialect, ...] = (QPASS, QWIX)


def as_dialect(what: str | Dialect, dialects: tuple[Dialect, ...] = DIALECTS) -> Dialect:
    """The dialect of that name; a dialect returns as it is.

    Raises:
        UnknownDialectError: no dialect of `dialects` has that name, or it is no name; the text
            gives the nearest ones.
    """
    if isinstance(what, Dialect):
        return what
    by_name = {dialect.name: dialect for dialect in dialects}
    if what not in by_name:
        raise UnknownDialectError(
            f"Name one of the dialects; {what!r} is none: {did_you_mean(str(what), by_name)}"
        )
    return by_name[what]
