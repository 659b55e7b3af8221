"""Hopper: codes times codes with several scales a row: groups of K, blocks of the weight."""

from qpass_kernels.hopper import tiles
from qpass_kernels.hopper.device import are_codes, on_hopper
from qpass_kernels.hopper.multiply import of_codes
from qpass_kernels.hopper.work import Config
from qpass_kernels.kernel import Product, first_reason

TILES = (128, 64)  # of K: the first that groups are whole in


def meant_for(product: Product) -> bool:
    """Whether both operands are 8-bit codes of one kind, and one or both have group scales."""
    return are_codes(product) and product.grouped


@on_hopper
def supports(product: Product) -> str | None:
    """Take int8 x int8 and fp8 x fp8 with groups of 64, 128 and their multiples, on either side."""
    other = first_reason(
        (not are_codes(product), f"{product.lhs} x {product.rhs}, not 8-bit codes of one kind"),
        (not product.grouped, "no group scales"),
    )
    cut = isinstance(product.group, int) and product.group % TILES[-1]
    odd = first_reason((cut, f"group {product.group} is no multiple of {TILES[-1]}"))
    return other or tiles.refused(product) or odd


def configs(product: Product) -> tuple[Config, ...]:
    """List the settings of `run`, the default first."""
    tile = next(size for size in TILES if product.group % size == 0)
    return tiles.configs(product, tile)


HOPPER_SUBCHANNEL = of_codes("hopper_subchannel", meant_for, supports, configs)
