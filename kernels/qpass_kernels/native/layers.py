"""What compiled products have in common: what they refuse, and layers of stacks."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from qpass_kernels.kernel import Product, first_reason
from qpass_kernels.native import library


def refusal(product: Product, *checks: tuple[Any, str]) -> str | None:
    """Why compiled code does not take the product; None where it does.

    Args:
        product: with numbers for sizes, if it is to be taken.
        checks: pairs of a condition and the reason that it is when it holds.
    """
    symbolic = f"symbolic {' and '.join(product.symbolic)}: compiled code takes numbers"
    common = ((product.symbolic, symbolic), (product.k == 0, "nothing to add up"))
    return first_reason(*checks, *common) or library.why_not()


def alone(run_stacked: Callable[..., Any]) -> Callable[..., Any]:
    """`Kernel.run` by a `Kernel.run_stacked`: a stack of one layer."""

    def run(product: Product, lhs: Any, lhs_scale: Any, rhs: Any, rhs_scale: Any) -> Any:
        stack, stack_scale = jnp.expand_dims(rhs, 0), jnp.expand_dims(rhs_scale, 0)
        return run_stacked(product, lhs, lhs_scale, stack, stack_scale, jnp.int32(0))

    return run
