"""TPU: rows of each expert times the weight of their own.

Blocks of rows begin at multiples of their size. One that several experts share is visited once for
each of them, and a visit keeps only the rows of its expert. Which expert and which rows each visit
is for, scalars say that are there before the kernel begins: so the next weight is on its way in
time, and visits that have nothing to multiply read nothing new.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from qpass_kernels.contraction import needs_numbers
from qpass_kernels.kernel import Product, first_reason, result_type
from qpass_kernels.ragged import RaggedMatmul, RaggedProduct
from qpass_kernels.ragged_reference import one_expert
from qpass_kernels.ragged_tiles import cut
from qpass_kernels.tpu.blocks import LANES, Config
from qpass_kernels.tpu.grid import Arithmetic, Blocks, body, memory_limit, store, with_blocks

MOST_ROWS = 512  # of a block


def by_visits(
    name: str,
    supports: Callable[[Product], str | None],
    configs: Callable[[Product], tuple[Config, ...]],
    arithmetic: Callable[[Product], Arithmetic],
) -> RaggedMatmul:
    """The ragged product of a kernel for dense ones: with its types, blocks and rounding.

    Args:
        name: the kernel's.
        supports: the kernel's.
        configs: the kernel's.
        arithmetic: what it does with a part of K.
    """

    def refusal(product: RaggedProduct) -> str | None:
        return first_reason(needs_numbers(product)) or supports(of_block(product))

    def settings(product: RaggedProduct) -> tuple[Config, ...]:
        return configs(of_block(product))

    def multiply(
        product: RaggedProduct,
        *operands: Any,
        config: Config | None = None,
        interpret: Any = False,
    ) -> Any:
        whole = one_expert(product, product.m)
        blocks = Blocks(whole, config or settings(product)[0], arithmetic(whole))
        return _run(product, blocks, operands, interpret)

    return RaggedMatmul(name, refusal, multiply, skips=True, configs=settings)


def of_block(product: RaggedProduct) -> Product:
    """The product of a block of rows by one expert's weight: about as many as an expert has.

    Fewer than a line of lanes only where there are no more: scales of rows lie along them.
    """
    each = -(-product.m // product.experts)
    rows = next((n for n in (LANES, 2 * LANES) if n >= each), MOST_ROWS)
    return one_expert(product, min(rows, product.m))


def _run(product: RaggedProduct, blocks: Blocks, operands: tuple, interpret: Any) -> Any:
    lhs, lhs_scale, rhs, rhs_scale, group_sizes = operands
    whole, config = blocks.product, blocks.config
    scale = None if lhs_scale is None else lhs_scale[None]
    operands = (lhs[None], scale, rhs[:, None], rhs_scale[:, None])
    arrays, specs = with_blocks(whole, config, *operands)
    count, visits = _visits(product, config, group_sizes)
    last = blocks.steps - 1

    def moved(spec: Any) -> Any:
        """The block of a visit; while there is nothing to multiply, that of the step before."""

        def index(j: Any, i: Any, k: Any, expert: Any, block: Any, *scalars: Any) -> Any:
            step = jnp.where(scalars[-1][i] > 0, k, last)
            return spec.index_map(0, block[i], j, step, (expert[i],))

        return pl.BlockSpec(spec.block_shape, index)

    out = pl.BlockSpec((None, config.m, config.n), lambda b, i, j, k, _: (b, i, j))
    return pl.pallas_call(
        lambda *refs: _visit(blocks, *refs),
        out_shape=result_type(whole, (*operands, group_sizes)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(visits),
            grid=(pl.cdiv(product.n, config.n), count, blocks.steps),
            in_specs=[moved(spec) for spec in specs],
            out_specs=moved(out),
            scratch_shapes=blocks.scratch,
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"),
            vmem_limit_bytes=memory_limit(whole, config),
        ),
        interpret=interpret,
        name=f"qpass_ragged_{product.lhs}_{product.rhs}",
    )(*visits, *arrays)[0]


def _visits(product: RaggedProduct, config: Config, group_sizes: Any) -> tuple[Any, list[Any]]:
    """How many visits there are; then of each, as `_visit` takes them.

    That is expert, block, first row, row behind the last, and whether there is a product to
    compute. Rows without an expert are visited too, last.
    """
    rest = product.m - jnp.sum(group_sizes)
    sizes = jnp.append(group_sizes, jnp.maximum(rest, 0)).astype(jnp.int32)
    tiles = cut(sizes, product.m, config.m, aligned=True)
    there = jnp.arange(tiles.expert.shape[0], dtype=jnp.int32) < tiles.count
    work = there & (tiles.expert < product.experts)
    # While there is nothing to multiply, the weight that was read last stays.
    expert = jnp.where(work, tiles.expert, jnp.max(jnp.where(work, tiles.expert, 0)))
    block = tiles.begin // config.m
    return tiles.count, [expert, block, tiles.start, tiles.stop, work.astype(jnp.int32)]


def _visit(
    blocks: Blocks, expert: Any, block: Any, start: Any, stop: Any, work: Any, *refs: Any
) -> None:
    """One step along K of a visit."""
    i, step, m = pl.program_id(1), pl.program_id(2), blocks.config.m
    first = block[i] * m
    rows = jax.lax.broadcasted_iota(jnp.int32, (m, blocks.config.n), 0) + first
    mine = (rows >= start[i]) & (rows < stop[i])
    begun = start[i] > first  # by the expert before

    def keep(out: Any, total: Any) -> None:
        others = jnp.where(begun, out[...].astype(jnp.float32), 0.0)
        store(out, jnp.where(mine, total, others))

    @pl.when(work[i] > 0)
    def _() -> None:
        body(blocks, step, refs, keep)

    @pl.when((work[i] == 0) & (step == 0))
    def _() -> None:
        out = refs[_result(blocks)]
        keep(out, jnp.zeros(out.shape, jnp.float32))


def _result(blocks: Blocks) -> int:
    """Which of the references is the result: it comes behind the operands."""
    return 3 if blocks.product.lhs_scale == "none" else 4
