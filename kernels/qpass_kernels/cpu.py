"""The compiled XLA path for CPU."""

from typing import Any

import jax.numpy as jnp

from qpass_kernels import reference
from qpass_kernels.kernel import Kernel, Product


def supports(product: Product) -> str | None:
    """Take every product with a plain m."""
    return "m is symbolic" if "m" in product.symbolic else None


def run(product: Product, lhs: Any, lhs_scale: Any, rhs: Any, rhs_scale: Any) -> Any:
    """Compute the product as the reference does, in the forms that XLA's CPU backend runs fast."""
    # XLA's int8 product with one row leaves the fast library path: two rows take it.
    if product.integer and product.m == 1:
        lhs = jnp.pad(lhs, ((0, 0), (0, 1), (0, 0)))
        lhs_scale = jnp.pad(lhs_scale, ((0, 0), (0, 1), (0, 0)))
        return reference.run(product, lhs, lhs_scale, rhs, rhs_scale)[:, :1]
    return reference.run(product, lhs, lhs_scale, rhs, rhs_scale)


CPU = Kernel("cpu", ("cpu",), supports, run)
