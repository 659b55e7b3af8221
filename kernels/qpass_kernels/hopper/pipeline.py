"""Products of 8-bit codes on Hopper: one warpgroup copies, and the others feed the tensor cores.

A block walks over tiles of the result. Its last warpgroup does nothing but copy tiles of K into
shared memory; the others, one for each 64 rows of the tile, multiply what is there. While they
write a finished tile, the first copies of the next one are under way.

The tensor core takes at least 64 rows of the side that is called left here. That is lhs, or, where
lhs has few rows, the weight: a tile of the result is then turned as it is written.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from qpass_kernels.hopper import epilogue
from qpass_kernels.hopper.layouts import LAYOUT, spread, swizzled
from qpass_kernels.hopper.warpgroups import LANE, ROWS, accumulated, nothing
from qpass_kernels.hopper.work import PART, Work, promoted, row_bytes


def matrix(work: Work, interpret: Any) -> Callable[..., Any]:
    """Build the kernel for one matrix: its operands -> `[split, rows, N]`.

    The operands are codes `[M, K]` and `[N, K]`, an array for each of `work.vectors` (`[M]`,
    `[N]`) and of `work.epilogue.beside` (`[M, N]`, of the type that the kernel writes), and the
    scales of each side with groups (`[G, M]`, `[G, N]`). Rows of lhs, of its scales and of what
    lies beside the result are filled up to a multiple of 8.
    """

    def kernel(*refs: Any) -> None:
        *arrays, out = refs
        codes: dict[str, Any] = dict(zip(("lhs", "rhs"), arrays[:2], strict=True))
        names = (*work.vectors, *work.epilogue.beside)
        late = dict(zip(names, arrays[2 : 2 + len(names)], strict=True))
        inputs = [codes[side] for side in work.sides] + arrays[2 + len(late) :]
        _walk(work, inputs, late, out, interpret)

    shape = (work.config.split, work.rows, work.product.n)
    return plgpu.kernel(
        kernel,
        out_type=jax.ShapeDtypeStruct(shape, work.result),
        grid=(min(work.config.blocks // work.together, work.count),),
        grid_names=("block",),
        cluster=(work.together,),
        cluster_names=("pair",),
        num_threads=work.warpgroups + 1,
        thread_name="warpgroup",
        interpret=interpret,
        compiler_params=LANE,
        kernel_name=f"qpass_{work.product.lhs}_{work.product.rhs}",
    )


def _walk(work: Work, inputs: list, late: dict, out: Any, interpret: Any) -> None:
    """Compute the tiles that are this block's."""

    def scope(pipeline: Any, **memory: Any) -> None:
        @plgpu.nd_loop((work.count,), collective_axes="block")
        def _tile(loop: Any) -> None:
            part, m, n = _place(work, loop.index[0])
            at = {"lhs": m, "rhs": n}

            def compute(run: Callable[[Any], Any]) -> None:
                epilogue.fetch(work, late, memory, at)
                total = _total(work, run)
                epilogue.finish(work, total, memory, (late, out.at[part]), at, interpret)

            step = _promote(work) if promoted(work.product) else _add(work)
            _pipeline(work, at, part, step, compute)(*inputs, allocations=pipeline)

        plgpu.wait_smem_to_gmem(0)

    needs = _pipeline(work, {"lhs": 0, "rhs": 0}, 0, nothing, nothing).get_allocations(*inputs)
    pl.run_scoped(scope, pipeline=needs, collective_axes="warpgroup", **epilogue.memory(work))


def _place(work: Work, index: Any) -> tuple[Any, Any, Any]:
    """Find a tile: (part of K, tile of M, tile of N), in an order that comes back to L2."""
    tiles = jnp.int32(work.grid[0] * work.grid[1])
    m, n = plgpu.planar_snake(jax.lax.rem(index, tiles), work.grid, 0, work.config.band)
    return jax.lax.div(index, tiles), m * work.together + jax.lax.axis_index("pair"), n


def _pipeline(work: Work, at: dict, part: Any, step: Callable, compute: Callable) -> Any:
    """Copy a part of K, tile after tile, and call `step` on each."""
    config, product = work.config, work.product
    ahead = _ahead(work)

    def codes(side: str) -> Any:
        return plgpu.BlockSpec(
            (work.tile(side), config.k),
            lambda k: (at[side], part * work.k_steps + k),
            transforms=swizzled(row_bytes(product.k, config.k) or config.k, 8),
            delay_release=ahead,
            collective_axes=("pair",) if side == "rhs" and config.pairs else (),
        )

    def scales(side: str) -> Any:
        per = product.group // config.k
        return plgpu.BlockSpec(
            (1, work.tile(side)),
            lambda k: (jax.lax.div(part * work.k_steps + k, per), at[side]),
            delay_release=ahead,
        )

    return plgpu.emit_pipeline_warp_specialized(
        step,
        grid=(work.k_steps,),
        in_specs=[*map(codes, work.sides), *map(scales, work.with_scale("group"))],
        max_concurrent_steps=config.steps,
        wg_axis="warpgroup",
        num_compute_wgs=work.warpgroups,
        memory_registers=_copy_registers(work),
        compute_context=compute,
    )


def _copy_registers(work: Work) -> int:
    """Registers of a thread that copies; the others divide up what is left of a block's 504.

    Few suffice for two operands. With these numbers nothing is spilled, and the shares add up.
    """
    if work.columns <= PART or work.config.pairs:
        return 72
    return 56 if len(work.with_scale("group")) == 2 else 40


def _total(work: Work, run: Callable[[Any], Any]) -> Any:
    """Add up a part of K: pieces `[64, columns]` from left to right, in registers."""
    if promoted(work.product):
        return run(tuple(_zeros(width) for width in _parts(work)))
    return (accumulated(run, (ROWS, work.columns), work.accumulator),)


def _parts(work: Work) -> list[int]:
    """Widths of the parts of a tile that a warpgroup adds up in float32."""
    return [min(PART, work.columns - at) for at in range(0, work.columns, PART)]


def _zeros(columns: int) -> Any:
    return plgpu.layout_cast(jnp.zeros((ROWS, columns), jnp.float32), LAYOUT.WGMMA)


def _mine(left: Any) -> Any:
    """The rows of a tile that this warpgroup multiplies."""
    return left.at[pl.ds(jax.lax.axis_index("warpgroup") * ROWS, ROWS)]


def _ahead(work: Work) -> int:
    """Products still running when a step returns.

    None where there is but one: the memory of the last step is given back by the step after it.
    """
    return 0 if promoted(work.product) or work.k_steps == 1 else 1


def _add(work: Work) -> Callable[..., Any]:
    """Make the step that adds a tile of K in place."""

    def step(_: Any, left: Any, right: Any, acc: Any) -> Any:
        plgpu.wgmma(acc, _mine(left), right.transpose((1, 0)))
        plgpu.wgmma_wait(_ahead(work))
        return acc

    return step


def _promote(work: Work) -> Callable[..., Any]:
    """Make the step that sums a tile of K up by itself, and adds that in float32."""
    grouped = work.with_scale("group")

    def step(_: Any, left: Any, right: Any, *rest: Any) -> Any:
        *scales, totals = rest
        by_side = dict(zip(grouped, scales, strict=True))
        added, start = [], 0
        for total in totals:
            columns = pl.ds(start, total.shape[1])
            start += total.shape[1]
            added.append(total + _product(work, _mine(left), right, by_side, columns))
        return tuple(added)

    return step


def _product(work: Work, left: Any, right: Any, scales: dict, columns: Any) -> Any:
    """Multiply a part of a tile of K, times its scales.

    These are read while it is multiplied, where registers suffice: where a tile is one part.
    """
    early = columns.size == work.columns

    def scope(acc: Any) -> tuple[Any, list]:
        plgpu.wgmma(acc, left, right.at[columns].transpose((1, 0)))
        factors = _factors(work, scales, columns) if early else []
        return acc[...], factors

    product, factors = pl.run_scoped(
        scope, plgpu.WGMMAAccumulatorRef((ROWS, columns.size), work.accumulator)
    )
    product = product.astype(jnp.float32)
    for factor in factors if early else _factors(work, scales, columns):
        product = product * factor
    return product


def _factors(work: Work, scales: dict, columns: Any) -> list[Any]:
    """Spread the group scales of a tile over a part of it, lhs first."""
    factors, shape = [], (ROWS, columns.size)
    for side, scale in scales.items():
        if side == work.sides[0]:
            factors.append(spread(_mine(scale.at[0]), shape, 0))
        else:
            factors.append(spread(scale.at[0, columns], shape, 1))
    if scales and columns.start + columns.size == work.columns:
        plgpu.commit_smem()  # the next copy into their memory comes after these reads
    return factors
