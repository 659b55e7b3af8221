"""Dialects: the last bits of the formulas, so that results can be held to another library's.

A dialect is a value; the formulas in `qpass.numerics.formulas` take their constants from it. A
dialect decides scales and codes. What codes stand for, `f32(codes) * scale`, is the same in all,
so a stored tensor need not say which one wrote it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from qpass.errors import RuleError, UnknownDialectError
from qpass.numerics.scale_formats import E4M3_ALONE, FLOAT32, E8M0Logarithm, ScaleFormat
from qpass.suggest import did_you_mean

if TYPE_CHECKING:
    from qpass.numerics.qtypes import QType

type Formats = Callable[[QType, np.dtype], ScaleFormat]
type Guard = Callable[[jax.Array, jax.Array, np.dtype, bool], jax.Array]


def zeros_alone(amax: jax.Array, scale: jax.Array, dtype: np.dtype, symmetric: bool) -> jax.Array:
    """Scale 1 for a block of zeros; any other scale is normal, and so is its reciprocal."""
    tiny = jnp.finfo(dtype).tiny
    return jnp.where(amax == 0, 1, jnp.clip(scale, tiny, 1 / tiny))


def below_root_of_tiny(
    amax: jax.Array, scale: jax.Array, dtype: np.dtype, symmetric: bool
) -> jax.Array:
    """Scale 1 where it is below the root of the least normal number (f16: below 0.0078)."""
    return jnp.where(scale < np.sqrt(float(jnp.finfo(dtype).tiny)), 1, scale)


def least_normal(amax: jax.Array, scale: jax.Array, dtype: np.dtype, symmetric: bool) -> jax.Array:
    """A scale is at least the least normal number."""
    return jnp.maximum(scale, jnp.finfo(dtype).tiny)


def least_epsilon(amax: jax.Array, scale: jax.Array, dtype: np.dtype, symmetric: bool) -> jax.Array:
    """At least the least normal number; at least 2**-23 where there is a zero point."""
    return jnp.maximum(scale, jnp.finfo(dtype).tiny if symmetric else 2.0**-23)


def as_they_are(amax: jax.Array, scale: jax.Array, dtype: np.dtype, symmetric: bool) -> jax.Array:
    """Any scale; the caller sees to blocks of zeros."""
    return scale


def of_the_type(qtype: QType, dtype: np.dtype) -> ScaleFormat:
    """Scales are stored as the type says."""
    return qtype.scale_format


def without_global_scale(qtype: QType, dtype: np.dtype) -> ScaleFormat:
    """Powers of two by a logarithm in the array's dtype, and e4m3 scales that stand alone."""
    if qtype.scale_format == FLOAT32:
        return FLOAT32
    narrow = qtype.scale_format.dtype == E4M3_ALONE.dtype
    return E4M3_ALONE if narrow else E8M0Logarithm(dtype)


@dataclass(frozen=True)
class Dialect:
    """What is left open when type, granularity and range are given.

    Attributes:
        name: what rules and plans call it.
        guard: from the largest magnitudes, the scales, the dtype they are rounded to and whether
            there is no zero point, the scales that are used: what becomes of zero and of very small
            ones.
        headroom: how far beyond the greatest code of an integer type the largest magnitude is
            mapped, in steps, where there is no zero point. With half a step, all of the last step's
            interval is used.
        full_range: whether symmetric integer codes go one lower than the negative of the greatest.
        signed: whether the larger side of a block lies on the longer side of the codes, with a
            negative scale where that takes one (see `qpass.numerics.formulas.parameters`).
        of_zeros: the largest magnitude that a block of zeros is taken to have, where the guard does
            not see to it. Reciprocals that are infinite all the same are taken for 1.
        scale_dtype: what every step towards a scale or a zero point is rounded to; None: the dtype
            of the array. Scales are held in float32 in any case.
        quotient_dtype: what `1 / scale` and `x * (1 / scale)` are rounded to; None: the dtype of
            the array.
        true_scales: whether scales and zero points are quotients as IEEE 754 has them; else they
            are products with a reciprocal.
        divides: whether codes come from `x / scale` as XLA compiles it for CPU: a product with the
            reciprocal, in float32 for bf16, and a quotient where every element has its own scale.
        saturates: whether scales stay so small that no code means more than the dtype of the array
            can hold.
        zero_first: whether a zero point is added before rounding; else after it.
        wide_floats: whether scales of float types are rounded once, from float32.
        kinds: kinds of types that it has formulas for.
        asymmetric: whether it has zero points.
        formats: from a type and the dtype that scales are rounded to, what scales are stored as.
    """

    name: str
    guard: Guard
    headroom: float = 0.0
    full_range: bool = False
    signed: bool = False
    of_zeros: float = 0.0
    scale_dtype: str | None = "float32"
    quotient_dtype: str | None = "float32"
    true_scales: bool = False
    divides: bool = False
    saturates: bool = False
    zero_first: bool = False
    wide_floats: bool = False
    kinds: tuple[str, ...] = ("int", "float", "table")
    asymmetric: bool = True
    formats: Formats = of_the_type

    def bound(self, qtype: QType) -> float:
        """What the largest magnitude of a block is mapped to in a symmetric range."""
        return qtype.qmax - qtype.middle + (self.headroom if qtype.kind == "int" else 0)

    def limits(self, qtype: QType, symmetric: bool = True) -> tuple[float, float]:
        """The least and the greatest code."""
        if self.full_range or not symmetric or qtype.kind != "int":
            return qtype.qmin, qtype.qmax
        return 2 * qtype.middle - qtype.qmax, qtype.qmax

    def precision(self, dtype: np.dtype) -> np.dtype:
        """What steps towards scales of an array of that dtype are rounded to."""
        return jnp.dtype(self.scale_dtype or dtype)

    def quotient_precision(self, dtype: np.dtype) -> np.dtype:
        """What quotients of an array of that dtype are rounded to."""
        return jnp.dtype(self.quotient_dtype or dtype)

    def check(self, qtype: QType, symmetric: bool) -> None:
        """Refuse what the library that the dialect follows does not have.

        Raises:
            RuleError: a kind of type without formulas, or a zero point where there are none.
        """
        if qtype.kind not in self.kinds:
            raise RuleError(
                f"Name an integer type for the dialect {self}, or another dialect: "
                f"it has no formulas for {qtype.name}."
            )
        if not symmetric and not self.asymmetric:
            raise RuleError(
                f"Leave out asymmetric for the dialect {self}, or name another dialect: "
                "the library that it follows has no zero points."
            )

    def __str__(self) -> str:
        return self.name


QPASS = Dialect("qpass", zeros_alone, full_range=True, signed=True, saturates=True)
# Qwix 0.1.8, as XLA compiles it for CPU.
QWIX = Dialect(
    "qwix",
    below_root_of_tiny,
    headroom=0.5,
    full_range=True,
    scale_dtype=None,
    quotient_dtype=None,
    divides=True,
    zero_first=True,
    formats=without_global_scale,
)
# torchao 0.18 on CPU, Int8DynActInt4WeightQATQuantizer with float32 scales.
TORCHAO = Dialect(
    "torchao",
    least_epsilon,
    headroom=0.5,
    full_range=True,
    scale_dtype=None,
    true_scales=True,
    kinds=("int",),
)
# torchao 0.18 on CPU, QATConfig(Int8DynamicActivationIntxWeightConfig()).
TORCHAO_INTX = replace(TORCHAO, name="torchao_intx", guard=least_normal, quotient_dtype=None)
# aqtp 0.9.0, AQT v2, as XLA compiles it for CPU.
AQT = Dialect(
    "aqt",
    as_they_are,
    headroom=0.5,
    of_zeros=1.0,
    scale_dtype=None,
    quotient_dtype=None,
    wide_floats=True,
    kinds=("int", "float"),
    asymmetric=False,
)

DIALECTS: tuple[Dialect, ...] = (QPASS, QWIX, TORCHAO, TORCHAO_INTX, AQT)


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
