"""How fast products on CPU are expected to be beside float32, so that a plan can say so beforehand.

A time is a sum: something for the call, for each number of the left operand (it is quantized on the
way), of the weight and of the result (for each group where sums of groups are kept), and for each
multiply-add. The constants are fits of measured times of random products on two cores with AVX-512;
on another machine all change, what one takes beside the other less.

A warning too many is better than one that is missing: float32 is taken to be as fast as in the
fastest quarter of its measurements, quantized products to be as slow as in the slowest.
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace

from qpass_kernels import cpu_groups
from qpass_kernels.kernel import Chores, Product

WARNED = 0.9
"""Estimated speed over float32's below which a plan says so."""

REASONS = (
    "mostly calling",
    "activations cost more than the product saves",
    "decoding costs more than the product saves",
    "the result costs more than the product saves",
    "sums of groups cost more than the product saves",
    "multiplies more slowly",
    "each call decodes the weight",
    "XLA quantizes the activations, in several loops",
    "each call copies the weight, whose rows do not end with a group or a byte",
)
"""What to say of each part where it is the one that costs most."""

COPY_BYTE, COPY = 0.25, {"int4": 1.2}
"""Nanoseconds for each number of a weight that is copied; int4 are unpacked and packed again."""

DECODE, SHIFT = 0.8, {"uint8": 0.1, "uint4": 0.31}
"""Nanoseconds for each code that is decoded; those of unsigned integers are only shifted."""

FORMULA_CALL, FORMULA = 40000, 2.0
"""Nanoseconds for quantizing activations by the formula, and for each number of them."""


@dataclass(frozen=True)
class Costs:
    """Nanoseconds that the parts of a product take.

    Attributes:
        call: a call.
        left: a number of the left operand.
        weight: a number of the weight.
        result: a number of the result.
        part: a number of the result for each group, where sums of groups are kept.
        step: a multiply-add.
    """

    call: float
    left: float
    weight: float
    result: float
    part: float
    step: float

    def parts(self, product: Product, chores: Chores) -> tuple[float, ...]:
        """Nanoseconds for each field, then for decoding the weight, quantizing, and copying."""
        b, m, n, k = product.batch, product.m, product.n, product.k
        left, weight, result = b * m * k, b * n * k, b * m * n
        counts = (1, left, weight, result, result * product.groups, left * n)
        spent = (cost * count for cost, count in zip(astuple(self), counts, strict=True))
        decoding = SHIFT.get(chores.decoded, DECODE) if chores.decoded else 0
        quantizing = chores.formula * (FORMULA_CALL + FORMULA * left)
        copying = chores.padded * weight * COPY.get(product.rhs, COPY_BYTE)
        return (*spent, weight * decoding, quantizing, copying)


FLOAT32 = Costs(3400, 0.26, 0.259, 0.26, 0.0, 0.0094)
NATIVE_CODES = Costs(12000, 0.53, 0.0435, 0.61, 0.0, 0.0032)
NATIVE_CODES_GROUPED = Costs(17000, 0.62, 0.0286, 0.0, 0.083, 0.0030)
NATIVE_INTS = Costs(10000, 0.85, 0.0133, 1.1, 0.0, 0.0123)
NATIVE_OTHERS = Costs(10000, 0.64, 0.0366, 1.04, 0.0, 0.0123)
XLA_CODES = Costs(21000, 1.7, 0.038, 1.5, 0.0, 0.0040)
XLA_CODES_GROUPED = Costs(9400, 2.9, 0.52, 0.0, 1.7, 0.0)
XLA_FLOATS = Costs(18000, 0.37, 0.59, 0.0, 0.63, 0.018)


type Estimate = tuple[Costs, Product, Chores]
"""What a product costs by a kernel: the constants, and what they are applied to."""


def native_integer(product: Product, chores: Chores) -> Estimate:
    """Of a compiled product of integer codes."""
    costs = NATIVE_CODES_GROUPED if product.grouped else NATIVE_CODES
    return costs, product, _copying(chores, _is_odd(product, product.k, product.group))


def native_floating(product: Product, chores: Chores) -> Estimate:
    """Of a compiled weight-only product."""
    plain = "int" in product.rhs and not product.grouped
    costs = NATIVE_INTS if plain else NATIVE_OTHERS
    return costs, product, _copying(chores, _is_odd(product, product.k))


def by_xla(product: Product, chores: Chores) -> Estimate:
    """Of a product that XLA compiles; its costs know that XLA quantizes, too."""
    exact = product.integer and not product.grouped
    costs = XLA_CODES if exact else XLA_FLOATS
    if cpu_groups.fits(product):
        costs = XLA_CODES_GROUPED
    short = product.grouped and not product.symbolic and product.k % product.group
    odd = _is_odd(product, product.k, product.group)
    chores = replace(chores, formula=False)
    return costs, product, _copying(chores, bool(short or odd))


def slow(estimate: Callable[[Product, Chores], Estimate]) -> Callable[[Product, Chores], str]:
    """For `Kernel.slow`: what to say of a product with such costs."""
    return lambda product, chores: warning(*estimate(product, chores))


def nanoseconds(
    estimate: Callable[[Product, Chores], Estimate],
) -> Callable[[Product, Chores], tuple[float, float] | None]:
    """For `Kernel.nanoseconds`: a product with such costs, and in float32."""
    return lambda product, chores: expected(*estimate(product, chores))


def _copying(chores: Chores, copied: bool) -> Chores:
    return replace(chores, padded=chores.padded or copied)


def _is_odd(product: Product, *sizes: int) -> bool:
    """Whether rows of int4 of one of those sizes end within a byte."""
    odd = product.rhs == "int4" and not product.symbolic
    return odd and any(size % 2 for size in sizes)


def expected(costs: Costs, product: Product, chores: Chores) -> tuple[float, float] | None:
    """Nanoseconds of a product, and of it in float32; None where a size is symbolic."""
    if product.symbolic:
        return None
    return sum(costs.parts(product, chores)), sum(FLOAT32.parts(product, Chores()))


def warning(costs: Costs, product: Product, chores: Chores) -> str:
    """How fast the product is expected to be, and why, if that may be slower than float32."""
    if product.symbolic:
        return ""
    own, base = costs.parts(product, chores), FLOAT32.parts(product, Chores())
    speed = sum(base) / sum(own)
    if speed >= WARNED:
        return ""
    more = [mine - theirs for mine, theirs in zip(own, base, strict=True)]
    return f"about {speed:.1g}× of float32's speed here: {REASONS[more.index(max(more))]}"
