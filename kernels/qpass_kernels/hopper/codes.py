"""Hopper: codes times codes in the tensor core's 8-bit types, row scales at the end."""

from typing import Any

from qpass_kernels.hopper import tiles
from qpass_kernels.hopper.device import on_hopper
from qpass_kernels.hopper.multiply import multiply
from qpass_kernels.hopper.ragged import HOPPER_RAGGED
from qpass_kernels.hopper.work import Config, Work
from qpass_kernels.kernel import Kernel, Product, first_reason, fuses_all
from qpass_kernels.reference import INT32_SAFE_K

TILE = 128  # of K: what the tensor core reads best, and as much fp8 as it may add up by itself
EIGHT_BITS = ("int8", "float8_e4m3fn", "float8_e5m2")


def meant_for(product: Product) -> bool:
    """Whether both operands are 8-bit codes of one kind, with one scale a row."""
    return are_codes(product) and not product.grouped


def are_codes(product: Product) -> bool:
    """Whether the tensor core multiplies the operands as they are."""
    both = (product.lhs, product.rhs)
    return all(x in EIGHT_BITS for x in both) and ("int8" in both) == product.integer


@on_hopper
def supports(product: Product) -> str | None:
    """Take int8 x int8, and fp8 x fp8 of either kind, with one scale a row."""
    other = first_reason(
        (not are_codes(product), f"{product.lhs} x {product.rhs}, not 8-bit codes of one kind"),
        (product.grouped, "group scales: codes are multiplied before they are scaled"),
    )
    long = first_reason((_is_long(product), f"k > {INT32_SAFE_K} overflows int32"))
    return other or tiles.refused(product) or long


def _is_long(product: Product) -> bool:
    return product.integer and isinstance(product.k, int) and product.k > INT32_SAFE_K


def configs(product: Product) -> tuple[Config, ...]:
    """List the settings of `run`, the default first."""
    return tiles.configs(product, TILE)


def run(
    product: Product,
    lhs: Any,
    lhs_scale: Any,
    rhs: Any,
    rhs_scale: Any,
    *extra: Any,
    config: Config | None = None,
    interpret: Any = None,
) -> Any:
    """Compute the product; integers exactly, as the reference does.

    The tensor core keeps about 14 bits of a sum of fp8, so such sums are taken out of it every 128
    elements of K and added up in float32.

    `config`: one of `configs(product)`; None: the first. `interpret`: a `plgpu.InterpretGPUParams`
    runs on any platform.
    """
    work = Work(product, config or configs(product)[0], promoted=not product.integer)
    return multiply(work, (lhs, lhs_scale, rhs, rhs_scale, *extra), interpret)


HOPPER_CODES = Kernel(
    "hopper_codes",
    ("cuda",),
    supports,
    run,
    meant_for=meant_for,
    fuses=fuses_all,
    configs=configs,
    ragged=HOPPER_RAGGED,
)
