"""What is timed on a GPU, as data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from qpass_kernels import Product, RaggedProduct
from qpass_kernels.kernel import CODES


@dataclass(frozen=True)
class Case:
    """One product, and what is asked of it.

    Attributes:
        name: in the report.
        product: its sizes and types.
        against: "bfloat16": XLA's product of that type. "xla": XLA's product of the codes.
        speedup: how many times as fast as that it should be; None: no such target.
        tera: operations a second, in 10¹², that it should do; None: no such target.
        bandwidth: the part of the bandwidth of copying at which it should read its weight.
    """

    name: str
    product: Product | RaggedProduct
    against: str = "bfloat16"
    speedup: float | None = None
    tera: float | None = None
    bandwidth: float | None = None

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        p = self.product
        return 2 * getattr(p, "batch", 1) * p.m * p.n * p.k

    def at_most(self, limit: int) -> Case:
        """The same with no size above `limit`, for trying out what runs the cases."""
        p = self.product
        m, n, k, group = (min(size, limit) for size in (p.m, p.n, p.k, p.group))
        return dataclasses.replace(self, product=dataclasses.replace(p, m=m, n=n, k=k, group=group))


def product(m: int, n: int, k: int, lhs: str, rhs: str, group: int | None = None) -> Product:
    """A product with bfloat16 results; a group is that of both operands, where both are codes."""
    layout: Any = "group" if group else "row"
    return Product(
        1, m, n, k, lhs, rhs, "bfloat16", group or k, layout if lhs in CODES else "none", layout
    )


def experts(m: int, n: int, k: int, count: int, lhs: str, rhs: str) -> RaggedProduct:
    """So many rows by the weights of so many experts, with scales of rows."""
    p = product(m, n, k, lhs, rhs)
    return RaggedProduct(m, n, k, count, lhs, rhs, p.out, p.group, p.lhs_scale, p.rhs_scale)


FP8 = "float8_e4m3fn"
BF16 = "bfloat16"
CASES = (
    Case("W4A16 g128, one row", product(1, 8192, 8192, BF16, "int4", 128), BF16, 3.2, None, 0.85),
    Case("W4A16 g128, 16 rows", product(16, 8192, 8192, BF16, "int4", 128), BF16, 3.0),
    Case("W4A16 g128, 4096 rows", product(4096, 8192, 8192, BF16, "int4", 128), BF16, 0.85),
    Case("W8A16, one row", product(1, 8192, 8192, BF16, "int8"), BF16, 1.8),
    Case("fp8 × fp8", product(8192, 8192, 8192, FP8, FP8), "xla", 0.95, 1300),
    Case("int8 × int8", product(8192, 8192, 8192, "int8", "int8"), "xla", None, 1300),
    Case("fp8 × fp8, blocks of 128", product(4096, 4096, 7168, FP8, FP8, 128), BF16, None, 900),
    Case("fp8, Mixtral's experts", experts(16384, 14336, 4096, 8, FP8, FP8), BF16, 3.0, 900),
    Case("fp8, 8 experts of Qwen3-30B", experts(16384, 1536, 2048, 8, FP8, FP8), BF16, 3.0, 900),
)
