"""TPU: codes times codes in the matrix unit's own 8-bit types, row scales at the end."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from qpass_kernels.kernel import VALUES, Kernel, Product, first_reason
from qpass_kernels.reference import INT32_SAFE_K
from qpass_kernels.tpu.blocks import call


def supports(product: Product) -> str | None:
    """Take int8 x int8 or int4, and fp8 x fp8 of either kind, with one scale a row."""
    return first_reason(
        (product.symbolic, f"{', '.join(product.symbolic)} symbolic: the grid needs numbers"),
        (product.foreign, product.foreign or ""),
        (product.weight_only, f"lhs is {product.lhs}, not codes"),
        (product.rhs == VALUES, "rhs is values, not codes"),
        (product.grouped, "group scales: codes are multiplied before they are scaled"),
        (product.out == "float16", "no float16 on TPU"),
        (("int" in product.lhs) != ("int" in product.rhs), "integer codes times fp8 codes"),
        (product.lhs == "int4", "int4 lhs"),
        (product.integer and product.k > INT32_SAFE_K, f"k > {INT32_SAFE_K} overflows int32"),
    )


def run(
    product: Product, lhs: Any, lhs_scale: Any, rhs: Any, rhs_scale: Any, interpret: Any = False
) -> Any:
    """Compute the product; integers exactly, as the reference does.

    `interpret`: True or a `pltpu.InterpretParams` runs on any platform.
    """
    accumulator = jnp.int32 if product.integer else jnp.float32

    def multiply(x: Any, w: Any, _: Any) -> Any:
        # v5e and v6e have no mixed int8 x int4: widen in registers (memory still reads 4 bits)
        w = w.astype(jnp.int8) if product.rhs == "int4" else w
        contract = (((1,), (1,)), ((), ()))
        return lax.dot_general(x, w, contract, preferred_element_type=accumulator)

    operands = (lhs, lhs_scale, rhs, rhs_scale)
    return call(product, operands, multiply, accumulator, interpret)


TPU_CODES = Kernel("tpu_codes", ("tpu",), supports, run)
