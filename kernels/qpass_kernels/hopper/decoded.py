"""Hopper: weights decoded in registers, times codes; and times floats where sizes are odd.

Operands are padded to whole tiles, the weight (on every call) too.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu

from qpass_kernels.contraction import needs_numbers
from qpass_kernels.hopper.blocks import Body, call, choose_tiles
from qpass_kernels.hopper.device import on_hopper
from qpass_kernels.hopper.layouts import LAYOUT, LOADED, column_numbers, of_columns
from qpass_kernels.kernel import Kernel, Product, dtype, first_reason
from qpass_kernels.reference import OVERFLOW, is_safe

MAX_M, K = 64, 64


def meant_for(product: Product) -> bool:
    """Take integer weights; those with float lhs where the kernel for them refused the sizes."""
    return product.rhs in LOADED and product.lhs != "float32"


@on_hopper
def supports(product: Product) -> str | None:
    """Take int8 and int4 weights, scaled by rows or by groups that divide 64 (or it them)."""
    grouped = product.rhs_scale == "group" and not product.symbolic
    kind = _operand(product)
    return first_reason(
        needs_numbers(product),
        (product.foreign, product.foreign or ""),
        (product.lhs == "float32", "lhs is float32: the tensor core would round it"),
        (product.rhs not in LOADED, f"rhs is {product.rhs}: it cannot be widened in registers"),
        (product.lhs == "int4", "int4 lhs"),
        (product.lhs_scale == "group", "group scales on lhs"),
        (
            grouped and product.group % K and K % product.group,
            f"group {product.group} neither divides {K} nor is a multiple of it",
        ),
        (grouped and product.group < 8, f"group {product.group} is below 8"),
        (kind == "int8" and not is_safe(product.k), OVERFLOW),
    )


def fuses(product: Product) -> bool:
    """All but the error function, which Pallas does not compile in the form of this kernel."""
    return product.epilogue.activation != "gelu"


def run(
    product: Product,
    lhs: Any,
    lhs_scale: Any,
    rhs: Any,
    rhs_scale: Any,
    *extra: Any,
    interpret: Any = None,
) -> Any:
    """Compute the product. int8 x int4 with row scales exactly; else sums are float32.

    Codes on the left are multiplied as bfloat16 (which holds them exactly) where the weight has
    group scales; the decoded weight is rounded to the type of the left operand.
    `interpret`: a `plgpu.InterpretGPUParams` runs on any platform; it knows no operands in
    registers, so that the decoded weight goes through shared memory there.
    """
    kind = _operand(product)
    tiles = choose_tiles(product, MAX_M, 128 if kind == "int8" else K)
    lines = of_columns(dtype(kind), tiles.k)
    scratch = plgpu.SMEM((tiles.n, tiles.k), dtype(kind), transforms=lines)

    def step(acc: Any, w: Any, x: Any, scale: Any, scratch: Any) -> None:
        values = _decode(product, w, dtype(kind), scale, interpret)
        if scratch is not None:
            scratch[...] = values
            plgpu.commit_smem()
            values = scratch
        plgpu.wgmma(acc, values, x.transpose((1, 0)))

    accumulator = jnp.int32 if kind == "int8" else jnp.float32
    body = Body(step, accumulator, scratch if interpret else None)
    operands = (lhs.astype(dtype(kind)), lhs_scale, rhs, rhs_scale, *extra)
    return call(product, tiles, body, operands, interpret)


def _operand(product: Product) -> str:
    """Name the type that both sides are multiplied in."""
    if product.lhs == "int8" and not product.grouped:
        return "int8"
    return product.lhs if product.lhs in ("bfloat16", "float16") else "bfloat16"


def _decode(product: Product, w: Any, kind: Any, scale: Any, interpret: Any) -> Any:
    """Load a tile `[n, k]` of codes into registers as `kind`, times group scales `[g, n]`."""
    values = (w[...] if interpret else _load(w, product.rhs, kind)).astype(kind)
    if scale is None:
        return values
    spread = _group_scales(scale, values.shape, product.group, interpret)
    return (values.astype(jnp.float32) * spread).astype(kind)


def _load(w: Any, name: str, kind: Any) -> Any:
    """Load a tile so that each thread has what it will hand to wgmma once that is widened."""
    if kind == jnp.int8:
        return plgpu.load(w, layout=LAYOUT.WGMMA_8BIT)
    return plgpu.layout_cast(plgpu.load(w, layout=LOADED[name]), LAYOUT.WGMMA)


def _group_scales(scale: Any, shape: tuple[int, int], group: int, interpret: Any) -> Any:
    """Spread scales `[g, n]` over a tile `[n, k]`: column c takes row c // group."""

    def row(index: int) -> Any:
        part = scale.at[index]
        vector = part[...] if interpret else plgpu.load(part, layout=LAYOUT.WGMMA.reduce(1))
        return jax.lax.broadcast_in_dim(vector, shape, (0,))

    spread = row(0)
    for index in range(1, scale.shape[0]):
        spread = jnp.where(column_numbers(shape, interpret) >= index * group, row(index), spread)
    return spread


HOPPER_DECODED = Kernel(
    "hopper_decoded", ("cuda",), supports, run, meant_for=meant_for, fuses=fuses
)
