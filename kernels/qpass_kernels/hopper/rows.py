"""Rows of an activation quantized on Hopper: read once, by one program a row or a tile of groups.

XLA takes five to six programs for it, one after the other, as it fuses no two reductions with what
follows them; that counts where a row is all there is. Pallas compiles a division to an
approximation whose last bit moves codes that lie on a tie, so it is corrected here.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from qpass_kernels.hopper.device import refusal
from qpass_kernels.hopper.layouts import LAYOUT
from qpass_kernels.kernel import FLOATS, first_reason
from qpass_kernels.row_quantizer import RowQuantizer, Rows, most

THREADS = 128
LONGEST = 14336
"""Numbers of a row that the registers of a warpgroup hold."""
TILE = 64
"""Groups of a tile."""
WIDEST = 256
"""Numbers of a group in a tile."""
FEW = 4096
"""Groups up to which each may have a program of its own."""

LEAST, GREATEST = np.float32(2**-126), np.float32(2**126)


def supports(rows: Rows) -> str | None:
    """Take rows and groups of whole lines, which fit in registers."""
    sizes = (rows.rows, rows.k, rows.group)
    return (
        refusal()
        or first_reason(
            (not all(isinstance(n, int) for n in sizes), "symbolic sizes"),
            (rows.dtype not in FLOATS, f"{rows.dtype} floats"),
            (0 in sizes, "nothing to quantize"),
        )
        or first_reason(
            (rows.k % rows.group, f"k = {rows.k} is no multiple of the group {rows.group}"),
            (not _in_tiles(rows) and rows.group % THREADS, _no_multiple(rows)),
            (not _in_tiles(rows) and rows.group > LONGEST, f"more than {LONGEST} numbers a row"),
            (not _in_tiles(rows) and _is_cut(rows) and _count(rows) > FEW, _no_multiple(rows)),
        )
    )


def _no_multiple(rows: Rows) -> str:
    return f"{_count(rows)} groups of {rows.group}: neither tiles of {TILE} nor lines of {THREADS}"


def _count(rows: Rows) -> int:
    return rows.rows * rows.groups


def _is_cut(rows: Rows) -> bool:
    return rows.group != rows.k


def _in_tiles(rows: Rows) -> bool:
    """Whether groups are taken by tiles of 64: short ones, where they fill such tiles."""
    fits = rows.group % 8 == 0 and rows.group <= WIDEST
    return _is_cut(rows) and fits and _count(rows) % TILE == 0


def run(rows: Rows, x: Any, interpret: Any = None) -> tuple[Any, Any]:
    """Quantize `x` `[rows, k]`, of its own dtype; `interpret`: as for the products."""
    count = _count(rows)
    body = _tile if _in_tiles(rows) else _line
    kernel = plgpu.kernel(
        partial(body, rows, interpret is not None),
        out_type=(
            jax.ShapeDtypeStruct((count, rows.group), jnp.int8),
            jax.ShapeDtypeStruct((count,), jnp.float32),
        ),
        grid=(count // TILE if _in_tiles(rows) else count,),
        grid_names=("program",),
        interpret=interpret,
        kernel_name="qpass_rows",
    )
    codes, scales = kernel(jnp.reshape(x, (count, rows.group)))
    return jnp.reshape(codes, (rows.rows, rows.k)), jnp.reshape(scales, (rows.rows, rows.groups))


def _line(rows: Rows, simulated: bool, x: Any, codes: Any, scales: Any) -> None:
    """One row, or one group, spread over all threads."""
    at = lax.axis_index("program")
    layout = LAYOUT.WG_STRIDED((rows.group,), vec_size=_vector(rows.group))
    numbers = x[at] if simulated else plgpu.load(x.at[at], layout=layout, optimized=False)
    numbers = numbers.astype(jnp.float32)
    scale = _scale(rows, *_reach(numbers, jnp.max))
    # Pallas takes apart the bits of arrays only, not of a scalar.
    codes.at[at][...] = _codes(numbers * reciprocal(jnp.broadcast_to(scale, numbers.shape)))
    scales.at[at][...] = scale


def _tile(rows: Rows, simulated: bool, x: Any, codes: Any, scales: Any) -> None:
    """64 groups, each spread over four threads."""
    at = pl.ds(lax.axis_index("program") * TILE, TILE)
    layout = LAYOUT.WGMMA_UPCAST_4X  # eight neighbours in a thread
    numbers = x[at] if simulated else plgpu.load(x.at[at], layout=layout, optimized=False)
    numbers = numbers.astype(jnp.float32)
    scale = _scale(rows, *_reach(numbers, partial(jnp.max, axis=1)))
    spread = lax.broadcast_in_dim(reciprocal(scale), numbers.shape, (0,))
    codes.at[at][...] = _codes(numbers * spread)
    scales.at[at][...] = scale


def _vector(count: int) -> int:
    """Neighbours that a thread reads at a time."""
    return next(n for n in (8, 4, 2, 1) if count % (THREADS * n) == 0)


def _reach(x: Any, largest: Callable[[Any], Any]) -> tuple[Any, Any]:
    """How far the finite numbers reach below and above zero."""
    finite = jnp.where(jnp.abs(x) < np.float32(np.inf), x, np.float32(0))
    below, above = largest(-finite), largest(finite)
    return jnp.maximum(below, np.float32(0)), jnp.maximum(above, np.float32(0))


def _scale(rows: Rows, below: Any, above: Any) -> Any:
    """The least scale with which nothing is clipped, negative where that is longer above zero."""
    longer, shorter = jnp.maximum(below, above), jnp.minimum(below, above)
    least = jnp.maximum(longer * np.float32(1 / 128), shorter * np.float32(1 / 127))
    size = _capped(jnp.clip(least, LEAST, GREATEST), most(rows.dtype))
    size = jnp.where(longer == 0, np.float32(1), size)
    return jnp.where(above > below, -size, size)


def _capped(scale: Any, limit: np.float32) -> Any:
    """No larger than with which a number of the type comes back finite."""
    outside = limit * np.float32(128 / 127)
    half = limit * np.float32(128 / 127.5 * (1 + 2**-20))
    is_between = (scale > limit) & (scale < half)
    return jnp.where(is_between, limit, jnp.minimum(scale, outside))


def _codes(places: Any) -> Any:
    """To the nearest, ties to even; NaN becomes 0."""
    places = jnp.where(places == places, places, np.float32(0))
    places = jnp.clip(places, np.float32(-128), np.float32(127))
    return lax.round(places, lax.RoundingMethod.TO_NEAREST_EVEN).astype(jnp.int8)


def reciprocal(x: Any, approximate: Callable[[Any], Any] = lambda m: 1 / m) -> Any:
    """One over normal numbers of magnitudes up to 2 ** 126, correctly rounded.

    Args:
        x: float32.
        approximate: of numbers from 1 to 2, to within two units in the last place.
    """
    bits = lax.bitcast_convert_type(x, jnp.int32)
    mantissa = _float((bits & 0x7FFFFF) | 0x3F800000)
    start = approximate(mantissa)
    near = start + start * _residual(mantissa, start)
    # The quotient lies between a half and one, where floats are 2 ** -24 apart.
    error, half = _residual(mantissa, near), mantissa * np.float32(2**-25)
    step = np.float32(2**-24)
    exact = jnp.where(error > half, near + step, jnp.where(error < -half, near - step, near))
    power = _float((254 << 23) - (bits & 0x7F800000))
    return exact * jnp.where(x < 0, -power, power)


def _residual(x: Any, inverse: Any) -> Any:
    """`1 - x * inverse`: the products of halves of the mantissas are exact."""
    x_high, inverse_high = (
        _float(lax.bitcast_convert_type(v, jnp.int32) & ~0xFFF) for v in (x, inverse)
    )
    x_low, inverse_low = x - x_high, inverse - inverse_high
    rest = np.float32(1) - x_high * inverse_high
    return ((rest - x_high * inverse_low) - x_low * inverse_high) - x_low * inverse_low


def _float(bits: Any) -> Any:
    return lax.bitcast_convert_type(bits, jnp.float32)


HOPPER_ROWS = RowQuantizer(supports, run, widens=True)
