"""Hopper: codes times codes in the tensor core's 8-bit types, row scales at the end."""

from typing import Any

import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu

from qpass_kernels.hopper.blocks import Body, call, choose_tiles
from qpass_kernels.kernel import VALUES, Kernel, Product, first_reason
from qpass_kernels.reference import INT32_SAFE_K

MAX_M, MAX_K = 128, 128


def supports(product: Product) -> str | None:
    """Take int8 x int8, and fp8 x fp8 of either kind, with one scale a row."""
    return first_reason(
        (product.symbolic, f"{', '.join(product.symbolic)} symbolic: the grid needs numbers"),
        (product.foreign, product.foreign or ""),
        (product.weight_only, f"lhs is {product.lhs}, not codes"),
        (product.rhs == VALUES, "rhs is values, not codes"),
        (product.grouped, "group scales: codes are multiplied before they are scaled"),
        ("int4" in (product.lhs, product.rhs), "the tensor core has no int4"),
        (("int" in product.lhs) != ("int" in product.rhs), "integer codes times fp8 codes"),
        (product.integer and product.k > INT32_SAFE_K, f"k > {INT32_SAFE_K} overflows int32"),
    )


def run(
    product: Product, lhs: Any, lhs_scale: Any, rhs: Any, rhs_scale: Any, interpret: Any = None
) -> Any:
    """Compute the product; integers exactly, as the reference does.

    `interpret`: a `plgpu.InterpretGPUParams` runs on any platform.
    """

    def step(acc: Any, w: Any, x: Any, scale: Any, scratch: Any) -> None:
        plgpu.wgmma(acc, w, x.transpose((1, 0)))

    body = Body(step, jnp.int32 if product.integer else jnp.float32, in_flight=1)
    tiles = choose_tiles(product, MAX_M, MAX_K)
    return call(product, tiles, body, (lhs, lhs_scale, rhs, rhs_scale), interpret)


HOPPER_CODES = Kernel("hopper_codes", ("cuda",), supports, run)
