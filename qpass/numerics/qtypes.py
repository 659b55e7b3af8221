"""Numeric types: one value for each."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from qpass.errors import RuleError, UnknownTypeError
from qpass.numerics.granularity import PerChannel, PerGroup
from qpass.numerics.quantizer import Choices, Quantizer
from qpass.numerics.scale_formats import E4M3_GLOBAL, E8M0, E8M0_RCEIL, FLOAT32, ScaleFormat
from qpass.numerics.tables import FP6_E2M3, NF4
from qpass.suggest import did_you_mean


@dataclass(frozen=True)
class QType(Choices):
    """A numeric type that a tensor can be quantized to.

    Attributes:
        name: what rules and plans call it.
        dtype: the dtype of codes in a program.
        qmin: the least value that a code stands for.
        qmax: the greatest value that a code stands for.
        kind: "int" (codes are rounded to integers, ties to even), "float" (the cast rounds) or
            "table" (codes are places in `table`).
        packed: bits that a stored code takes, where they are packed more densely than `dtype`.
        table: the values that codes stand for, in the order of codes.
        block: elements that share a scale where only the type is named; 0: per channel.
        scale_format: what scales are stored as.
        derivative: of quantizers that name none: "straight_through", or "masked".
    """

    name: str
    dtype: np.dtype
    qmin: float
    qmax: float
    kind: str = "int"
    packed: int = 0
    table: tuple[float, ...] = ()
    block: int = 0
    scale_format: ScaleFormat = FLOAT32
    derivative: str = "straight_through"

    def as_quantizer(self) -> Quantizer:
        """What the bare name means: per channel, or the blocks of a block format."""
        return Quantizer(self, PerGroup(self.block) if self.block else PerChannel())

    def check_asymmetric(self) -> None:
        """Refuse a zero point where the formulas have none.

        Raises:
            RuleError: this is no integer type.
        """
        if self.kind != "int":
            raise RuleError(
                f"Name an integer type for an asymmetric range; {self.name} has no zero point."
            )

    def check_powers(self) -> None:
        """Refuse a rounding to powers of two where scales are none.

        Raises:
            RuleError: scales are stored otherwise.
        """
        if not isinstance(self.scale_format, E8M0):
            raise RuleError(
                "Name mxfp8, mxfp6 or mxfp4 for a rounding of scales to powers of two; those of "
                f"{self.name} are {self.scale_format}."
            )

    @property
    def bits(self) -> int:
        """Bits that one code takes in memory."""
        if self.packed:
            return self.packed
        info = jnp.iinfo if jnp.issubdtype(self.dtype, jnp.integer) else jnp.finfo
        return info(self.dtype).bits

    @property
    def middle(self) -> float:
        """The code of zero in a symmetric range: half the codes of an unsigned type lie below."""
        return (self.qmin + self.qmax + 1) // 2 if self.qmin == 0 else 0

    @property
    def has_nan(self) -> bool:
        """Whether a code can say that the value is not a number."""
        return self.kind == "float" and jnp.finfo(self.dtype).bits > 4

    def __str__(self) -> str:
        return self.name


def _int(name: str, dtype: str, bits: int, packed: int = 0) -> QType:
    return QType(name, jnp.dtype(dtype), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, packed=packed)


def _uint(name: str, dtype: str, bits: int) -> QType:
    return QType(name, jnp.dtype(dtype), 0, 2**bits - 1)


def _float(name: str, dtype: str, block: int = 0, scale: ScaleFormat = FLOAT32) -> QType:
    greatest = float(jnp.finfo(dtype).max)
    return QType(
        name, jnp.dtype(dtype), -greatest, greatest, "float", block=block, scale_format=scale
    )


def _table(
    name: str,
    dtype: str,
    values: tuple[float, ...],
    packed: int = 0,
    block: int = 0,
    scale: ScaleFormat = FLOAT32,
) -> QType:
    least, greatest = min(values), max(values)
    return QType(name, jnp.dtype(dtype), least, greatest, "table", packed, values, block, scale)


int8 = _int("int8", "int8", 8)
int7 = _int("int7", "int8", 7)
int6 = _int("int6", "int8", 6)
int5 = _int("int5", "int8", 5)
int4 = _int("int4", "int4", 4)
int3 = _int("int3", "int8", 3, packed=3)
int2 = _int("int2", "int8", 2, packed=2)
uint8 = _uint("uint8", "uint8", 8)
uint4 = _uint("uint4", "uint4", 4)
fp8_e4m3 = _float("fp8_e4m3", "float8_e4m3fn")
fp8_e5m2 = _float("fp8_e5m2", "float8_e5m2")
# "NANOO": AMD's, without infinities and negative zero.
fp8_e4m3fnuz = _float("fp8_e4m3fnuz", "float8_e4m3fnuz")
fp8_e5m2fnuz = _float("fp8_e5m2fnuz", "float8_e5m2fnuz")
fp8_e4m3b11fnuz = _float("fp8_e4m3b11fnuz", "float8_e4m3b11fnuz")
fp4_e2m1 = _float("fp4_e2m1", "float4_e2m1fn")
# Dettmers et al., "QLoRA" (2023): the quantiles of a normal distribution, with an exact zero.
nf4 = _table("nf4", "uint4", NF4)
# OCP Microscaling Formats (MX) Specification 1.0: blocks of 32, scales that are powers of two.
mxfp8 = _float("mxfp8", "float8_e4m3fn", 32, E8M0_RCEIL)
mxfp6 = _table("mxfp6", "uint8", FP6_E2M3, packed=6, block=32, scale=E8M0_RCEIL)
mxfp4 = _float("mxfp4", "float4_e2m1fn", 32, E8M0_RCEIL)
# NVIDIA's: blocks of 16 with e4m3 scales, which share one float32 scale.
nvfp4 = _float("nvfp4", "float4_e2m1fn", 16, E4M3_GLOBAL)

QTYPES: tuple[QType, ...] = (
    *(int8, int7, int6, int5, int4, int3, int2, uint8, uint4),
    *(fp8_e4m3, fp8_e5m2, fp8_e4m3fnuz, fp8_e5m2fnuz, fp8_e4m3b11fnuz, fp4_e2m1, nf4),
    *(mxfp8, mxfp6, mxfp4, nvfp4),
)


def find_qtype(name: str, qtypes: tuple[QType, ...] = QTYPES) -> QType:
    """The type of that name.

    Raises:
        UnknownTypeError: no type of `qtypes` has that name; the text gives the nearest ones.
    """
    by_name = {qtype.name: qtype for qtype in qtypes}
    if name not in by_name:
        raise UnknownTypeError(
            f"Name one of the quantized types; {name!r} is none: {_meant(name, list(by_name))}"
        )
    return by_name[name]


def _meant(name: str, known: list[str]) -> str:
    """Types that the name is a part of, as "fp8" is of many; else those that it resembles."""
    longer = [other for other in known if name and name.casefold() in other.casefold()]
    return did_you_mean(name, longer, cutoff=0) if longer else did_you_mean(name, known)
