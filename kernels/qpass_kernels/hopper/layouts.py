"""How tiles lie in shared memory and in registers, so that the tensor core reads them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu

LAYOUT = plgpu.Layout
# Layouts from which codes widened to 16 bits come to lie as wgmma wants them.
LOADED = {"int4": LAYOUT.WGMMA_UPCAST_4X, "int8": LAYOUT.WGMMA_UPCAST_2X}


def swizzled(width: int, bits: int) -> tuple[Any, ...]:
    """Lay rows of numbers of `bits` out in lines of 8 by `width` bytes, swizzled."""
    # jax leaves a method of these that only its interpreter calls abstract to type checkers
    return (
        plgpu.TilingTransform((8, width * 8 // bits)),  # pyright: ignore[reportAbstractUsage]
        plgpu.SwizzleTransform(width),  # pyright: ignore[reportAbstractUsage]
    )


def of_columns(kind: Any, columns: int) -> tuple[Any, ...]:
    """Lay a tile of so many columns out in the longest lines that they are whole in."""
    bits = jax.dtypes.itemsize_bits(kind)
    return swizzled(plgpu.find_swizzle(columns * bits), bits)


def column_numbers(shape: tuple[int, int], simulated: Any) -> Any:
    """Each element's column; `simulated`: in the interpreter, which knows no layouts."""
    if simulated:
        return jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    return plgpu.broadcasted_iota(jnp.int32, shape, 1, layout=LAYOUT.WGMMA)


def spread(scale: Any, shape: tuple[int, int], axis: int, layout: Any = LAYOUT.WGMMA) -> Any:
    """Repeat a vector in shared memory over a tile in registers, along the other axis."""
    vector = plgpu.load(scale, layout=layout.reduce(1 - axis))
    return jax.lax.broadcast_in_dim(vector, shape, (axis,))
