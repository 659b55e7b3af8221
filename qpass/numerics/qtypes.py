"""Numeric types: one value for each."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from qpass.errors import UnknownTypeError
from qpass.numerics.dialects import Dialect
from qpass.numerics.granularity import PerChannel, PerGroup, PerTensor, Quantizer
from qpass.suggest import did_you_mean


@dataclass(frozen=True)
class QType:
    """A numeric type that a tensor can be quantized to.

    Attributes:
        name: what rules and plans call it.
        dtype: the dtype of the stored codes; int4 takes half a byte an element in its buffer.
        qmin: the least code, `-qmax`: the range is symmetric, so that zero is exact and negation
            never saturates.
        qmax: the greatest code; the largest magnitude of a tensor is mapped to it.
        kind: "int" (codes are rounded to integers, ties to even) or "float" (the cast rounds).
    """

    name: str
    dtype: np.dtype
    qmin: float
    qmax: float
    kind: str = "int"

    def grouped(self, size: int) -> Quantizer:
        """This type with a scale for every `size` elements of the innermost contracted axis.

        Raises:
            RuleError: `size` is not a positive integer.
        """
        return Quantizer(self, PerGroup(size))

    def per_channel(self) -> Quantizer:
        """This type with a scale for each index of the axes that are not contracted."""
        return Quantizer(self, PerChannel())

    def per_tensor(self) -> Quantizer:
        """This type with one scale for the whole tensor."""
        return Quantizer(self, PerTensor())

    def in_dialect(self, dialect: str | Dialect) -> Quantizer:
        """This type per channel, in a dialect given by name or as a value.

        Raises:
            UnknownDialectError: no dialect has that name.
        """
        return self.per_channel().in_dialect(dialect)

    @property
    def bits(self) -> int:
        """Bits that one code takes in memory."""
        return jnp.iinfo(self.dtype).bits if self.kind == "int" else jnp.finfo(self.dtype).bits

    def __str__(self) -> str:
        return self.name


int8 = QType("int8", jnp.dtype(jnp.int8), -127, 127)
int4 = QType("int4", jnp.dtype(jnp.int4), -7, 7)
fp8_e4m3 = QType("fp8_e4m3", jnp.dtype(jnp.float8_e4m3fn), -448.0, 448.0, "float")
fp8_e5m2 = QType("fp8_e5m2", jnp.dtype(jnp.float8_e5m2), -57344.0, 57344.0, "float")

QTYPES: tuple[QType, ...] = (int8, int4, fp8_e4m3, fp8_e5m2)


def find_qtype(name: str, qtypes: tuple[QType, ...] = QTYPES) -> QType:
    """The type of that name.

    Raises:
        UnknownTypeError: no type of `qtypes` has that name; the text gives the nearest ones.
    """
    by_name = {qtype.name: qtype for qtype in qtypes}
    if name not in by_name:
        raise UnknownTypeError(
            f"Name one of the quantized types; {name!r} is none: {did_you_mean(name, by_name)}"
        )
    return by_name[name]
