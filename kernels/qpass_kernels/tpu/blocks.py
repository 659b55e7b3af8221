"""The blocked product that the TPU kernels share: a grid, an accumulator, scales at the end."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from qpass_kernels.kernel import Product, result_type

LANES = 128
# Largest blocks of M and N, and of K without and with group scales. Twice (for the pipeline) the
# operands, the accumulator and a decoded float32 weight stay below 16 MB, the scoped VMEM of a v5e.
ROWS, COLUMNS, DEPTH, GROUPED_DEPTH = 256, 512, 2048, 1024


@dataclass(frozen=True)
class Blocks:
    """Block sizes of M, N and K, and K filled up to whole blocks.

    A block of M or N may hang over the edge: what it computes there is never stored. K may not,
    so its operands are padded (a copy on every call, only where no block size divides K).
    """

    m: int
    n: int
    k: int
    padded_k: int


def choose_blocks(product: Product) -> Blocks:
    """Take whole dimensions where they are small: a block that is one needs no alignment."""
    depth = GROUPED_DEPTH if product.grouped else DEPTH
    k = product.groups * product.group if product.grouped else product.k
    if k > depth:
        block = _divisor(k, unit(product), depth)
        k = -(-k // block) * block
        return Blocks(min(product.m, ROWS), min(product.n, COLUMNS), block, k)
    return Blocks(min(product.m, ROWS), min(product.n, COLUMNS), k, k)


def unit(product: Product) -> int:
    """Smallest aligned step along K that holds whole groups."""
    return math.lcm(LANES, product.group) if product.grouped else LANES


def _divisor(k: int, step: int, limit: int) -> int:
    """Largest multiple of `step` up to `limit` that divides k; half the limit if it is tiny."""
    sizes = range(max(1, limit // step) * step, 0, -step)
    best = next((size for size in sizes if k % size == 0), 0)
    return best if best * 8 >= limit else max(step, limit // 2 // step * step)


def call(
    product: Product,
    operands: tuple,
    multiply: Callable[..., Any],
    accumulator: Any,
    interpret: Any,
) -> Any:
    """Run `multiply(lhs [m, k], rhs [n, k], group scales [g, n] | None) -> [m, n]` on blocks.

    Sums in `accumulator` over K, then multiplies by the row scales in float32. The batch is the
    outermost axis of the grid.
    """
    blocks = choose_blocks(product)
    lhs, lhs_scale, rhs, rhs_scale = _arrange(product, blocks, *operands)
    grouped = product.rhs_scale == "group"
    steps = blocks.padded_k // blocks.k

    def body(x: Any, w: Any, x_scale: Any, w_scale: Any, out: Any, acc: Any) -> None:
        @pl.when(pl.program_id(3) == 0)
        def _() -> None:
            acc[...] = jnp.zeros_like(acc)

        acc[...] += multiply(x[...], w[...], w_scale[...] if grouped else None)

        @pl.when(pl.program_id(3) == steps - 1)
        def _() -> None:
            total = acc[...].astype(jnp.float32) * x_scale[...]
            out[...] = (total if grouped else total * w_scale[...]).astype(out.dtype)

    return pl.pallas_call(
        body,
        out_shape=result_type(product, operands),
        grid=(product.batch, pl.cdiv(product.m, blocks.m), pl.cdiv(product.n, blocks.n), steps),
        in_specs=[
            pl.BlockSpec((None, blocks.m, blocks.k), lambda b, i, j, k: (b, i, k)),
            pl.BlockSpec((None, blocks.n, blocks.k), lambda b, i, j, k: (b, j, k)),
            pl.BlockSpec((None, blocks.m, 1), lambda b, i, j, k: (b, i, 0)),
            _scale_spec(product, blocks),
        ],
        out_specs=pl.BlockSpec((None, blocks.m, blocks.n), lambda b, i, j, k: (b, i, j)),
        scratch_shapes=[pltpu.VMEM((blocks.m, blocks.n), accumulator)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")
        ),
        interpret=interpret,
        name=f"qpass_{product.lhs}_{product.rhs}",
    )(lhs, rhs, lhs_scale, rhs_scale)


def _arrange(
    product: Product, blocks: Blocks, lhs: Any, lhs_scale: Any, rhs: Any, rhs_scale: Any
) -> tuple[Any, Any, Any, Any]:
    """Pad K, and lay the right scales out along the lanes: `[B, 1, N]` or `[B, K/k, G', N]`."""
    if blocks.padded_k != product.k:
        lhs, rhs = (_pad_last(x, blocks.padded_k) for x in (lhs, rhs))
    if lhs_scale is None:
        lhs_scale = jnp.ones((product.batch, product.m, 1), jnp.float32)
    if product.rhs_scale == "group":
        rhs_scale = _pad_last(rhs_scale, blocks.padded_k // product.group)
        per_block = (product.batch, blocks.padded_k // blocks.k, -1, product.n)
        return lhs, lhs_scale, rhs, jnp.reshape(jnp.swapaxes(rhs_scale, 1, 2), per_block)
    return lhs, lhs_scale, rhs, jnp.swapaxes(rhs_scale, 1, 2)


def _pad_last(x: Any, size: int) -> Any:
    return jnp.pad(x, ((0, 0), (0, 0), (0, size - x.shape[2])))


def _scale_spec(product: Product, blocks: Blocks) -> pl.BlockSpec:
    if product.rhs_scale == "row":
        return pl.BlockSpec((None, 1, blocks.n), lambda b, i, j, k: (b, 0, j))
    groups = blocks.k // product.group
    return pl.BlockSpec((None, None, groups, blocks.n), lambda b, i, j, k: (b, k, 0, j))
