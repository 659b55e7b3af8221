"""What was fastest for a kind of product, and which products are of a kind."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from qpass_kernels.epilogue import NOTHING
from qpass_kernels.kernel import Product


@dataclass(frozen=True)
class Choice:
    """The fastest way to compute a product: a kernel's name, its setting, and what that took.

    Attributes:
        kernel: name in the table of kernels.
        config: the setting as `fields_of` gives it; None where the kernel has none.
        seconds: of one call, when it was measured.
    """

    kernel: str
    config: tuple[tuple[str, Any], ...] | None
    seconds: float


def fields_of(config: Any) -> tuple[tuple[str, Any], ...] | None:
    """A kernel's setting as plain values, the name of its class first; None stays None.

    One kernel may have settings of several classes.
    """
    if config is None:
        return None
    return ("form", type(config).__name__), *dataclasses.asdict(config).items()


def bucket(product: Product) -> Product:
    """The products that share a choice: m and batch go up to a power of two, few rows to 8.

    One row is alone: it is limited by memory, and has kernels of its own. What follows the sums
    takes no part in the choice.
    """
    m = product.m
    if isinstance(m, int) and m != 1:
        m = max(8, _power_of_two(m))
    batch = _power_of_two(product.batch)
    return dataclasses.replace(product, m=m, batch=batch, epilogue=NOTHING)


def _power_of_two(size: Any) -> Any:
    return 1 << (size - 1).bit_length() if isinstance(size, int) and size else size
