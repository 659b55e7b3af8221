"""Ragged products on Hopper: rows of each expert times the weight of their own.

A tile is up to 256 rows of one expert by 128 rows of its weight, which are the left side of the
tensor core's product. One warpgroup copies; two multiply, each its own 64 rows of the weight. A
program stays on its multiprocessor and takes one tile after another, as many as the experts' rows
make: how many those are is only known when it runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from qpass_kernels.hopper.device import MULTIPROCESSORS
from qpass_kernels.hopper.registers import Weight, float_layout, store, zeros
from qpass_kernels.hopper.warpgroups import (
    CONSUMERS,
    LANE,
    LEAST,
    PIECE,
    ROWS,
    WIDTH,
    accumulated,
    nothing,
)
from qpass_kernels.ragged_tiles import Tiles

# Registers of a thread that only issues copies, where tiles have up to 128 rows, and above: there
# the others need all that it can spare. With fewer some are spilled.
COPYING, COPYING_MUCH = 72, 40
LINE = 8  # rows that lie together in shared memory
APART = 16  # bytes between rows that are stored alone, so that they lie in different banks


@dataclass(frozen=True)
class Config:
    """How a ragged product is cut up.

    Attributes:
        m: rows of an expert in a tile: 8, 16, 32, 64, 128 or 256.
        k: elements of K in a step.
        steps: copies under way.
        programs: one for every multiprocessor.
        band: tiles of rows that programs share before they go on to more of the weight.
    """

    m: int
    k: int
    steps: int
    programs: int = MULTIPROCESSORS
    band: int = 8


@dataclass(frozen=True)
class Arithmetic:
    """What a warpgroup does with the steps along K.

    Attributes:
        specs: (expert, row, tile of N) -> blocks of the weight `[E, N, K]`, of lhs `[M, K]`, and
            of scales that are copied along with them.
        step: (index, memory of this warpgroup, blocks ..., sums so far) -> sums.
        sums: the accumulator's type, where the tensor core adds up all of K in place; None where
            sums `[64, m]` in float32 are handed on from step to step.
        scaled: (sums `[64, m]`, scales of the rows of lhs or None, scales of the weight, expert,
            row of the weight) -> float32.
        by_row: whether lhs has scales of rows.
    """

    specs: Callable[[Any, Any, Any], list]
    step: Callable[..., Any]
    sums: Any
    scaled: Callable[..., Any]
    by_row: bool


def multiply(
    config: Config,
    weight: Weight,
    arithmetic: Arithmetic,
    shape: tuple[int, int, int],
    out: Any,
    interpret: Any,
) -> Callable[..., Any]:
    """Build the kernel: (`Tiles`, what is copied by steps, scales of rows) -> `[M, N]`.

    Scales of rows come in the order lhs `[M]`, weight `[E, N]`, each where there are such.

    Args:
        config: sizes of tiles.
        weight: types of the operands.
        arithmetic: what is done with a tile.
        shape: M, N and K.
        out: type of the result.
        interpret: None, or a `plgpu.InterpretGPUParams`.
    """
    m, n, k = shape
    # A row is stored as bytes that lie together: beyond N the next row would be overwritten.
    whole = (m, -(-n // ROWS) * ROWS)
    lines = min(PIECE, config.m)
    memory: dict[str, Any] = {
        "piece": plgpu.SMEM((CONSUMERS, lines, ROWS), out, transforms=float_layout(out, ROWS)),
        "line": plgpu.SMEM((CONSUMERS, LINE, ROWS + APART // out.itemsize), out),
    }
    if arithmetic.by_row:
        memory["scales"] = plgpu.SMEM((CONSUMERS, max(config.m, LEAST)), jnp.float32)
        memory["ready"] = plgpu.Barrier(num_barriers=CONSUMERS)
    if weight.simulated:
        memory["scratch"] = plgpu.SMEM((CONSUMERS, ROWS, config.k), weight.kind)

    def run(tiles: Tiles, copied: list, late: list) -> Any:
        program = _Program(config, weight, arithmetic, -(-k // config.k), len(copied))
        count = jnp.stack([tiles.count, tiles.rows])
        return plgpu.kernel(
            program,
            out_type=jax.ShapeDtypeStruct(whole, out),
            scratch_types=memory,
            grid=(config.programs,),
            grid_names=("program",),
            num_threads=CONSUMERS + 1,
            thread_name="warpgroup",
            compiler_params=LANE,
            interpret=interpret,
            kernel_name=f"qpass_ragged_{weight.codes}",
        )(tiles.expert, tiles.start, tiles.stop, count, *copied, *late)[:, :n]

    return run


@dataclass(frozen=True)
class _Program:
    """What a program does; called by each of its warpgroups."""

    config: Config
    weight: Weight
    arithmetic: Arithmetic
    steps: int
    copied: int

    def __call__(self, expert, start, stop, count, /, *refs: Any, **memory: Any) -> None:
        *inputs, out = refs
        copied, late = inputs[: self.copied], inputs[self.copied :]
        idle = self._pipeline(nothing, nothing, (0, 0, 0))
        wide = -(-out.shape[1] // WIDTH)

        def loop(allocations: Any) -> None:
            tiles = (count[0], wide)

            @plgpu.nd_loop((tiles[0] * wide,), collective_axes="program")
            def _(info: plgpu.NDLoopInfo) -> None:
                t, n = plgpu.planar_snake(info.index[0], tiles, 0, self.config.band)
                at = (expert[t], start[t], n)
                finish = partial(self._tile, late, out, memory, at, stop[t] - start[t])
                step = partial(self.arithmetic.step, memory=memory)
                self._pipeline(step, finish, at)(*copied, allocations=allocations)

        pl.run_scoped(loop, idle.get_allocations(*copied), collective_axes="warpgroup")
        pl.when(jax.lax.axis_index("warpgroup") < CONSUMERS)(
            lambda: self._clear(memory, out, count[1])
        )
        plgpu.wait_smem_to_gmem(0)

    def _pipeline(self, step: Callable, finish: Callable, at: tuple) -> Any:
        """Walk over K for one tile of the result."""
        return plgpu.emit_pipeline_warp_specialized(
            step,
            grid=(self.steps,),
            memory_registers=COPYING if self.config.m <= 128 else COPYING_MUCH,
            in_specs=self.arithmetic.specs(*at),
            max_concurrent_steps=self.config.steps,
            wg_axis="warpgroup",
            num_compute_wgs=CONSUMERS,
            compute_context=finish,
        )

    def _tile(
        self, late: list, out: Any, memory: dict, at: tuple, rows: Any, pipeline: Callable
    ) -> None:
        """Have one tile of the result computed, and store it."""
        expert, start, n = at
        me = jax.lax.axis_index("warpgroup")
        there = n * WIDTH + me * ROWS
        by_row = None
        if self.arithmetic.by_row:
            scales, *late = late
            by_row, ready = memory["scales"].at[me], memory["ready"].at[me]
            plgpu.copy_gmem_to_smem(scales.at[pl.ds(start, by_row.shape[0])], by_row, ready)
        total = self._total(pipeline)
        if self.arithmetic.by_row:
            plgpu.barrier_wait(memory["ready"].at[me])
        total = self.arithmetic.scaled(total, by_row, late, expert, there)
        target = out.at[:, pl.ds(there, ROWS)]
        height = min(PIECE, self.config.m)
        for first in range(0, self.config.m, height):
            part = total[:, first : first + height].astype(out.dtype)
            pl.when(rows > first)(
                partial(self._store, part, memory, target, start + first, rows - first)
            )

    def _total(self, pipeline: Callable) -> Any:
        sums, shape = self.arithmetic.sums, (ROWS, self.config.m)
        if sums is None:
            return pipeline(zeros(self.weight, self.config.m))
        return accumulated(pipeline, shape, sums)

    def _store(self, part: Any, memory: dict, out: Any, start: Any, rows: Any) -> None:
        """Write the first `rows` of a piece `[64, height]` to rows of `out [M, 64]`.

        All of it at once; or lines of 8 rows, and row by row what is less than a line.
        """
        me, height = jax.lax.axis_index("warpgroup"), part.shape[1]
        piece, line = memory["piece"].at[me], memory["line"].at[me, :, pl.ds(0, ROWS)]
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        store(self.weight, part, piece)
        plgpu.commit_smem()
        pl.when(rows >= height)(
            lambda: plgpu.copy_smem_to_gmem(piece, out.at[pl.ds(start, height)])
        )

        @pl.when(rows < height)
        def _() -> None:
            for first in range(0, height, LINE):
                here = pl.ds(first, LINE)
                there = out.at[pl.ds(start + first, LINE)]
                whole, some = rows >= first + LINE, (rows > first) & (rows < first + LINE)
                pl.when(whole)(partial(plgpu.copy_smem_to_gmem, piece.at[here], there))
                rest = part[:, first : first + LINE]
                pl.when(some)(
                    partial(self._store_rows, rest, line, out, start + first, rows - first)
                )

    def _store_rows(self, part: Any, line: Any, out: Any, start: Any, rows: Any) -> None:
        store(self.weight, part, line)
        plgpu.commit_smem()
        for row in range(LINE - 1):
            source, target = line.at[pl.ds(row, 1)], out.at[pl.ds(start + row, 1)]
            pl.when(row < rows)(partial(plgpu.copy_smem_to_gmem, source, target))

    def _clear(self, memory: dict, out: Any, start: Any) -> None:
        """Write zeros to the rows that have no expert."""
        me, height = jax.lax.axis_index("warpgroup"), min(PIECE, self.config.m)
        piece = memory["piece"].at[me]
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        store(self.weight, zeros(self.weight, height).astype(out.dtype), piece)
        plgpu.commit_smem()
        wide = -(-out.shape[1] // WIDTH)
        tiles = jax.lax.div(out.shape[0] - start + height - 1, jnp.int32(height))

        @plgpu.nd_loop((tiles, wide), collective_axes="program")
        def _(info: plgpu.NDLoopInfo) -> None:
            tile, n = info.index
            here = pl.ds(start + tile * height, height)
            there = pl.ds(n * WIDTH + me * ROWS, ROWS)
            plgpu.copy_smem_to_gmem(piece, out.at[here, there])
