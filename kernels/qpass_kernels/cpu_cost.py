"""How fast products on CPU are expected to be beside float32, so that a plan can say so beforehand.

A time is a sum: something for the call, for each number of the left operand (it is quantized on the
way), of the weight and of the result (for each group where sums of groups are kept), and for each
multiply-add. The constants are fits of measured times of random products on two cores with AVX-512;
on another machine all change, what one takes beside the other less.

A warning too many is better than one that is missing: float32 is taken to be as fast as in the
fastest quarter of its measurements, quantized products to be as slow as in the slowest.
"""

from dataclasses import astuple, dataclass

from qpass_kernels import cpu_groups
from qpass_kernels.kernel import Product

WARNED = 0.9
"""Estimated speed over float32's below which a plan says so."""

REASONS = (
    "the product is so small that calling it takes the time",
    "activations cost more than the product saves",
    "decoding the weight costs more than the product saves",
    "the result costs more than the product saves",
    "this form multiplies more slowly",
    "the weight is copied at every call, because its rows do not end with a group or a byte",
)
"""What to say of each of the `Costs` where it is the one that costs most."""


@dataclass(frozen=True)
class Costs:
    """Nanoseconds that the parts of a product take.

    Attributes:
        call: a call.
        left: a number of the left operand.
        weight: a number of the weight.
        result: a number of the result, and of each group's part of it.
        step: a multiply-add.
        copy: a number of a weight that is copied first.
    """

    call: float
    left: float
    weight: float
    result: float
    step: float
    copy: float = 0.0

    def parts(self, product: Product, copied: bool) -> tuple[float, ...]:
        """Nanoseconds for each field."""
        b, m, n, k = product.batch, product.m, product.n, product.k
        left, weight, result = b * m * k, b * n * k, b * m * n * product.groups
        counts = (1, left, weight, result, left * n, copied * weight)
        return tuple(cost * count for cost, count in zip(astuple(self), counts, strict=True))


FLOAT32 = Costs(7400, 0.11, 0.041, 0.23, 0.0107)
NATIVE_ROW = Costs(18000, 1.76, 0.038, 1.33, 0.0026, 0.85)
NATIVE_GROUP = Costs(11000, 2.55, 0.21, 0.088, 0.0031, 0.98)
NATIVE_CODES = Costs(13000, 0.82, 0.038, 0.115, 0.0131, 1.1)
XLA_ROW = Costs(21000, 1.65, 0.038, 1.48, 0.0040)
XLA_GROUP = Costs(8400, 2.9, 0.51, 1.16, 0.0)
XLA_FLOAT = Costs(18000, 0.37, 0.59, 0.63, 0.018, 0.61)


def native_integer(product: Product, padded: bool) -> str:
    """What to say of a compiled product of integer codes."""
    costs = NATIVE_GROUP if product.grouped else NATIVE_ROW
    return warning(costs, product, padded or _is_odd(product))


def native_floating(product: Product, padded: bool) -> str:
    """What to say of a compiled weight-only product."""
    return warning(NATIVE_CODES, product, padded or _is_odd(product))


def by_xla(product: Product, padded: bool) -> str:
    """What to say of a product that XLA compiles."""
    exact = product.integer and not product.grouped
    costs = XLA_GROUP if cpu_groups.fits(product) else XLA_ROW if exact else XLA_FLOAT
    return warning(costs, product, padded or _is_odd(product))


def _is_odd(product: Product) -> bool:
    """Whether rows of int4 end within a byte."""
    return product.rhs == "int4" and not product.symbolic and product.k % 2 == 1


def warning(costs: Costs, product: Product, copied: bool) -> str:
    """How fast the product is expected to be, and why, if that may be slower than float32."""
    if product.symbolic:
        return ""
    own, base = costs.parts(product, copied), FLOAT32.parts(product, False)
    speed = sum(base) / sum(own)
    if speed >= WARNED:
        return ""
    more = [mine - theirs for mine, theirs in zip(own, base, strict=True)]
    return f"about {speed:.1g}× of float32's speed here: {REASONS[more.index(max(more))]}"
