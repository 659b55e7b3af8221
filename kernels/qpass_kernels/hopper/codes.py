"""Hopper: codes times codes in the tensor core's 8-bit types, row scales at the end."""

from qpass_kernels.hopper import tiles
from qpass_kernels.hopper.device import are_codes, on_hopper
from qpass_kernels.hopper.multiply import of_codes
from qpass_kernels.hopper.work import Config
from qpass_kernels.kernel import Product, first_reason
from qpass_kernels.reference import OVERFLOW, is_safe

TILE = 128  # of K: what the tensor core reads best, and as much fp8 as it may add up by itself


def meant_for(product: Product) -> bool:
    """Whether both operands are 8-bit codes of one kind, with one scale a row."""
    return are_codes(product) and not product.grouped


@on_hopper
def supports(product: Product) -> str | None:
    """Take int8 x int8, and fp8 x fp8 of either kind, with one scale a row."""
    return (
        first_reason(
            (not are_codes(product), f"{product.lhs} x {product.rhs}, not 8-bit codes of one kind"),
            (product.grouped, "group scales: codes are multiplied before they are scaled"),
        )
        or tiles.refused(product)
        or first_reason((product.integer and not is_safe(product.k), OVERFLOW))
    )


def configs(product: Product) -> tuple[Config, ...]:
    """List the settings of `run`, the default first."""
    return tiles.configs(product, TILE)


HOPPER_CODES = of_codes("hopper_codes", meant_for, supports, configs)
