"""TPU: codes times codes in the matrix unit's own 8-bit types; scales come after."""

from typing import Any

import jax.numpy as jnp

from qpass_kernels.contraction import needs_numbers
from qpass_kernels.kernel import CODES, VALUES, Product, first_reason
from qpass_kernels.reference import OVERFLOW, is_safe
from qpass_kernels.tpu import chip
from qpass_kernels.tpu.blocks import LANES, Config, Sizes, fitted
from qpass_kernels.tpu.family import of_blocks
from qpass_kernels.tpu.grid import Arithmetic, contract

# (m, n, k) by rows of lhs up to, the default first. Not measured: with few rows, weight blocks of
# 2 MB stream through; with many, a byte that is read is multiplied a thousand times.
SIZES: dict[int, tuple[Sizes, ...]] = {
    64: ((64, 512, 4096), (64, 256, 8192), (64, 1024, 2048), (64, 2048, 1024)),
    512: ((512, 512, 2048), (256, 512, 2048), (256, 256, 4096), (512, 1024, 1024)),
    1 << 62: (
        (1024, 1024, 1024),
        (512, 1024, 2048),
        (1024, 512, 2048),
        (1024, 256, 4096),
        (512, 512, 4096),
        (512, 512, 1024),
    ),
}
EXACT = 1024  # products of codes whose sum float32 holds: 128 * 128 * 1024 = 2**24


def meant_for(product: Product) -> bool:
    """Whether both operands are codes."""
    return product.lhs in CODES and product.rhs != VALUES


def supports(product: Product) -> str | None:
    """Take int8 x int8 or int4, and fp8 x fp8 of either kind, scaled by rows or long groups."""
    here = chip.here()
    return first_reason(
        needs_numbers(product),
        (product.foreign, product.foreign or ""),
        (not meant_for(product), "an operand is not codes"),
        (product.out == "float16", "no float16 on TPU"),
        (("int" in product.lhs) != ("int" in product.rhs), "integer codes times fp8 codes"),
        (product.lhs == "int4", "int4 lhs"),
        (
            not product.integer and not here.fp8,
            f"{here.name} multiplies fp8 no faster than bfloat16",
        ),
    ) or _refuse_groups(product)


def _refuse_groups(product: Product) -> str | None:
    """Judge sizes that are numbers."""
    part = product.group if product.grouped else product.k
    return first_reason(
        (product.grouped and part % LANES, f"group {part} is no multiple of {LANES}"),
        (product.integer and not is_safe(part), OVERFLOW),
        (not configs(product), "no block size fits the memory of a core"),
    )


def configs(product: Product) -> tuple[Config, ...]:
    """Ways to cut a supported product, the default first."""
    sizes = next(sizes for rows, sizes in SIZES.items() if product.m <= rows)
    return tuple(fitted(product, sizes, False, chip.here()))


def arithmetic(product: Product) -> Arithmetic:
    """Multiply codes as they are, or as floats where the chip has no product of them.

    Integers exactly, as the reference does.
    """
    sums = jnp.int32 if product.integer else jnp.float32
    native = not product.integer or chip.here().int8

    def dot(x: Any, w: Any, _: None) -> Any:
        if not native:
            return _by_floats(x, w)
        # no TPU before v8 multiplies int8 by int4: widened in registers (memory reads 4 bits)
        w = w.astype(jnp.int8) if product.rhs == "int4" else w
        return contract(x, w, 1, preferred_element_type=sums)

    return Arithmetic(dot, sums)


def _by_floats(x: Any, w: Any) -> Any:
    """Multiply int8 as bfloat16, which holds them, in sums that float32 holds: exact as well."""
    total = jnp.zeros((x.shape[0], w.shape[0]), jnp.int32)
    for start in range(0, x.shape[1], EXACT):
        x_part, w_part = (y[:, start : start + EXACT].astype(jnp.bfloat16) for y in (x, w))
        part = contract(x_part, w_part, 1, preferred_element_type=jnp.float32)
        total += part.astype(jnp.int32)
    return total


TPU_CODES = of_blocks("tpu_codes", meant_for, supports, configs, arithmetic)
