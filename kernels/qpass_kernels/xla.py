"""XLA's own products on GPU and TPU: what there is where no kernel of ours takes a product.

The operands are given to XLA in the form that it has fast products for. On a GPU that is cuBLASLt
for two operands of 8 bits; a product of codes must then be scaled after it, since XLA multiplies
scaled codes as bfloat16. A grouped weight is decoded to the type beside it, in memory: for one row
that costs more than the product, for thousands a fraction of it.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

from qpass_kernels.kernel import Kernel, Product, dtype, first_reason
from qpass_kernels.reference import OVERFLOW, is_safe, scaled, sealed, split

HALVES = ("bfloat16", "float16")
CONTRACT = (((2,), (2,)), ((0,), (0,)))


def supports(product: Product) -> str | None:
    """Take codes with row scales, and weights beside floats of 16 bits."""
    if product.weight_only:
        return _weight_only(product)
    return first_reason(
        (product.foreign, product.foreign or ""),
        (product.rhs == "float32", "rhs is values, not codes"),
        (product.grouped, "group scales: codes are multiplied before they are scaled"),
        (("int" in product.lhs) != ("int" in product.rhs), "integer codes times fp8 codes"),
        (product.integer and not is_safe(product.k), OVERFLOW),
    )


def _weight_only(product: Product) -> str | None:
    symbolic = [size for size in product.symbolic if size not in ("batch", "m")]
    return first_reason(
        (product.foreign, product.foreign or ""),
        (product.lhs not in HALVES, f"lhs is {product.lhs}: the tensor core would round it"),
        (product.rhs == "float32", "rhs is values: they would be rounded"),
        (product.grouped and symbolic, f"{', '.join(symbolic)} symbolic: groups need numbers"),
    )


def run(product: Product, lhs: Any, lhs_scale: Any, rhs: Any, rhs_scale: Any) -> Any:
    """Compute the product; of integers as the reference does, bit for bit.

    Sums of floats are float32. A grouped weight is rounded to the type of lhs when it is decoded.
    """
    lhs = sealed(lhs)
    if product.grouped:
        rhs, rhs_scale = _decoded(product, rhs, rhs_scale), jnp.ones((1, 1, 1), jnp.float32)
    total = _dot(product, lhs, rhs)
    return sealed(scaled(total, lhs_scale, rhs_scale).astype(dtype(product.out)))


def _dot(product: Product, lhs: Any, rhs: Any) -> Any:
    """Multiply as XLA has it fastest: 8 bits by 8 bits, or 16 by 16."""
    if product.integer:
        lhs, rhs = lhs.astype(jnp.int8), rhs.astype(jnp.int8)
    elif product.weight_only:
        rhs = rhs.astype(lhs.dtype)
    # HIGHEST keeps the tensor core from adding up 8-bit floats with 14 bits
    precision = None if product.weight_only else lax.Precision.HIGHEST
    result = jnp.int32 if product.integer else jnp.float32
    return lax.dot_general(lhs, rhs, CONTRACT, precision=precision, preferred_element_type=result)


def _decoded(product: Product, rhs: Any, rhs_scale: Any) -> Any:
    """Turn grouped codes into values in the type of lhs: `[B, N, K]`."""
    values = split(product, rhs).astype(jnp.float32) * rhs_scale[..., None]
    values = jnp.reshape(values.astype(dtype(product.lhs)), (*rhs.shape[:2], -1))
    return values[..., : product.k]


XLA = Kernel("xla", ("cuda", "tpu"), supports, run)
