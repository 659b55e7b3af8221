"""Codes of a weight as the operand that the tensor core reads from registers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from qpass_kernels.hopper.layouts import LAYOUT, LOADED, column_numbers, of_columns
from qpass_kernels.hopper.warpgroups import ROWS
from qpass_kernels.kernel import Product

MEMORY = 226 * 1024  # bytes of shared memory that tiles may take; barriers need a little
LINE = 128  # bytes that the widest swizzle covers


@dataclass(frozen=True)
class Weight:
    """What a warpgroup knows of the weight.

    Attributes:
        codes: int4 or int8.
        kind: bfloat16 or float16, the type of the product's operands; both hold codes exactly.
        k: columns of a tile.
        group: columns that share a scale; None where a row has one scale, applied at the end.
        simulated: in the interpreter, which knows no layouts and no operands in registers: the
            operand goes through shared memory there.
    """

    codes: str
    kind: Any
    k: int
    group: int | None
    simulated: bool

    @property
    def span(self) -> int:
        """Columns of a tile that share a scale."""
        return min(self.group or self.k, self.k)

    def spans(self) -> Iterator[slice]:
        """Cut the columns of a tile where scales change."""
        return (slice(at, at + self.span) for at in range(0, self.k, self.span))


def weight_layout(codes: str, k: int) -> tuple[Any, ...]:
    """Lay a tile of codes out in shared memory: lines as long as K and the swizzle allow."""
    bits = jax.dtypes.itemsize_bits(jnp.dtype(codes))
    return of_columns(jnp.dtype(codes), min(k, LINE * 8 // bits))


def float_layout(kind: Any, columns: int) -> tuple[Any, ...]:
    """Lay a tile of 16 or 32 bit floats out in shared memory; cut only between `columns`."""
    return of_columns(kind, min(columns, LINE // jnp.dtype(kind).itemsize))


def ring_bytes(product: Product, rows: int, m: int, k: int) -> int:
    """Bytes of shared memory that a step of a pipeline takes: codes, and activations."""
    bits = jax.dtypes.itemsize_bits(jnp.dtype(product.rhs))
    return (rows * bits // 8 + m * 2) * k


def widened(weight: Weight, tile: Any) -> Any:
    """Load a tile of codes from shared memory, and widen it."""
    if weight.simulated:
        return tile[...].astype(weight.kind)
    codes = plgpu.load(tile, layout=LOADED[weight.codes])
    return plgpu.layout_cast(codes, LAYOUT.WGMMA).astype(weight.kind)


def zeros(weight: Weight, m: int) -> Any:
    """Start sums `[64, m]` in registers."""
    empty = jnp.zeros((ROWS, m), jnp.float32)
    return empty if weight.simulated else plgpu.layout_cast(empty, LAYOUT.WGMMA)


def vector(weight: Weight, scales: Any, layout: Any = LAYOUT.WGMMA) -> Any:
    """Load scales of 64 rows, from shared or global memory and any distance apart."""
    if weight.simulated:
        return scales[...]
    return plgpu.load(scales, layout=layout.reduce(1), optimized=False)


def spread(scales: Any, columns: int) -> Any:
    """Repeat the scales of rows in every column."""
    return jax.lax.broadcast_in_dim(scales, (ROWS, columns), (0,))


def of_rows(weight: Weight, numbers: Any, columns: int, layout: Any = LAYOUT.WGMMA) -> Any:
    """Load a number for each of 64 rows, and repeat it in every column."""
    return spread(vector(weight, numbers, layout), columns)


def add_sums(
    weight: Weight, total: Any, codes: Any, x: Any, scale: Callable[[int], Any], scratch: Any
) -> Any:
    """Return `total + sum over spans of (codes @ x.T) * scale`; x `[m, k]` in shared memory.

    Codes are exact and so are their products: only sums are rounded, and scaled in float32.
    """
    scales = [scale(index) for index, _ in enumerate(weight.spans())]
    sums = _products(weight, total.shape, _operand(codes, scratch), x)
    for part, factor in zip(sums, scales, strict=True):
        total = total + (part if factor is None else part * spread(factor, total.shape[1]))
    return total


def add_decoded(
    weight: Weight, acc: Any, codes: Any, x: Any, scale: Callable[[int], Any], scratch: Any
) -> None:
    """Add `(codes * scale) @ x.T` to `acc`, the scaled codes rounded to `weight.kind`."""
    if weight.group is not None:
        scales = _along_columns(weight, codes.shape, scale)
        codes = (codes.astype(jnp.float32) * scales).astype(weight.kind)
    plgpu.wgmma(acc, _operand(codes, scratch), x.transpose((1, 0)))
    plgpu.wgmma_wait(0)


def _products(weight: Weight, shape: tuple, operand: Any, x: Any) -> list[Any]:
    """Multiply every span into an accumulator of its own, all of them under way at once."""
    spans = list(weight.spans())

    def multiply(*accumulators: Any) -> list[Any]:
        for acc, span in zip(accumulators, spans, strict=True):
            whole = len(spans) == 1
            left = operand if whole else _columns(operand, span)
            plgpu.wgmma(acc, left, (x if whole else x.at[:, span]).transpose((1, 0)))
        plgpu.wgmma_wait(0)
        return [acc[...] for acc in accumulators]

    return pl.run_scoped(multiply, *(plgpu.WGMMAAccumulatorRef(shape, jnp.float32) for _ in spans))


def _operand(codes: Any, scratch: Any) -> Any:
    """Hand codes over in registers, or in the interpreter's scratch memory."""
    if scratch is None:
        return codes
    scratch[...] = codes
    plgpu.commit_smem()
    return scratch


def _columns(operand: Any, span: slice) -> Any:
    return operand[:, span] if isinstance(operand, jax.Array) else operand.at[:, span]


def _along_columns(weight: Weight, shape: tuple[int, int], scale: Callable[[int], Any]) -> Any:
    """Spread the scales of a tile's spans over its columns."""
    scales = spread(scale(0), weight.k)
    for index, span in enumerate(weight.spans()):
        if index:
            here = column_numbers(shape, weight.simulated) >= span.start
            scales = jnp.where(here, spread(scale(index), weight.k), scales)
    return scales


def turned(weight: Weight, values: Any) -> Any:
    """Lay values `[64, m]` out in registers as they are stored."""
    return values if weight.simulated else plgpu.layout_cast(values, LAYOUT.WGMMA_TRANSPOSED)


def store(weight: Weight, values: Any, tile: Any) -> None:
    """Write `[64, m]` turned into a tile `[m, 64]` of shared memory."""
    if weight.simulated:
        tile[...] = values.T
    else:
        tile.T[...] = turned(weight, values)


def read_back(weight: Weight, tile: Any) -> Any:
    """Read `[64, m]` from a tile that `store` wrote, laid out as `turned` does."""
    return tile[...].T if weight.simulated else plgpu.load(tile.T, layout=LAYOUT.WGMMA_TRANSPOSED)
