"""What compiled products refuse."""

from typing import Any

from qpass_kernels.contraction import Contraction
from qpass_kernels.kernel import first_reason
from qpass_kernels.native import library


def refusal(product: Contraction, *checks: tuple[Any, str]) -> str | None:
    """Why compiled code does not take the product; None where it does.

    Args:
        product: with numbers for sizes, if it is to be taken.
        checks: pairs of a condition and the reason that it is when it holds.
    """
    symbolic = f"symbolic {' and '.join(product.symbolic)}: compiled code takes numbers"
    common = ((product.symbolic, symbolic), (product.k == 0, "nothing to add up"))
    return first_reason(*checks, *common) or library.why_not()
