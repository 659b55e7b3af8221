"""What becomes of a finished tile: row scales, the cast to the result's type, the way to memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from qpass_kernels.hopper.layouts import LAYOUT, spread, swizzled
from qpass_kernels.hopper.work import ROWS, WIDTHS, Work, row_bytes

LEAST = 32  # float32 numbers that can be copied at a time: one for each thread of a warp


def memory(work: Work) -> dict[str, Any]:
    """Describe the shared memory of the warpgroups that multiply."""
    shape = (work.piece, ROWS) if work.config.turned else (ROWS, work.piece)
    slots = (work.warpgroups, work.config.slots)
    pieces = plgpu.SMEM((*slots, *shape), work.result, transforms=_transforms(work))
    scales = {
        side: plgpu.SMEM((work.warpgroups, _count(work, side)), jnp.float32) for side in work.late
    }
    if not scales:
        return {"pieces": pieces}
    ready = plgpu.Barrier(num_arrivals=len(scales), num_barriers=work.warpgroups)
    return {"pieces": pieces, "ready": ready, **scales}


def _transforms(work: Work) -> tuple[Any, ...]:
    """Spread a piece over the banks of shared memory, as far as its rows can be copied so."""
    itemsize = work.result.itemsize
    columns = ROWS if work.config.turned else work.piece
    width = row_bytes(work.product.n * itemsize, columns * itemsize)
    return swizzled(width or WIDTHS[-1], 8 * itemsize)


def _count(work: Work, side: str) -> int:
    """Scales of a side that a warpgroup needs, and no fewer than can be copied."""
    return ROWS if side == work.sides[0] else max(work.columns, LEAST)


def _start(work: Work, side: str, at: dict) -> Any:
    """Where the rows of a side begin that this warpgroup has to do with."""
    begin = at[side] * work.tile(side)
    return begin + jax.lax.axis_index("warpgroup") * ROWS if side == work.sides[0] else begin


def fetch(work: Work, late: dict, memory: dict, at: dict) -> None:
    """Begin to copy the row scales of a tile."""
    mine = jax.lax.axis_index("warpgroup")
    for side, scale in late.items():
        source = scale.at[pl.ds(_start(work, side, at), _count(work, side))]
        plgpu.copy_gmem_to_smem(source, memory[side].at[mine], memory["ready"].at[mine])


def finish(work: Work, totals: Any, memory: dict, out: Any, at: dict, interpret: Any) -> None:
    """Scale, cast and write this warpgroup's part of a tile, `[64, columns]` in pieces."""
    mine = jax.lax.axis_index("warpgroup")
    if work.late:
        plgpu.barrier_wait(memory["ready"].at[mine])
    start = {side: _start(work, side, at) for side in work.sides}
    done = 0
    for total in totals:
        for first in range(0, total.shape[1], work.piece):
            part = total[:, first : first + work.piece]
            columns = done * work.piece
            slot = memory["pieces"].at[mine, done % work.config.slots]
            # the last tile's pieces may lie in any slot, this one's only in the others
            plgpu.wait_smem_to_gmem(work.config.slots - 1 if done else 0, wait_read_only=True)
            _put(work, _scaled(work, part, memory, columns), slot, interpret)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(slot, _target(work, out, start, columns))
            done += 1


def _scaled(work: Work, part: Any, memory: dict, first: int) -> Any:
    """Multiply a piece by its row scales, lhs first, and cast it."""
    if not work.late:
        return part.astype(work.result)
    part = part.astype(jnp.float32)
    for side in work.late:
        scale = memory[side].at[jax.lax.axis_index("warpgroup")]
        if side == work.sides[0]:
            part = part * spread(scale, part.shape, 0)
        else:
            part = part * spread(scale.at[pl.ds(first, part.shape[1])], part.shape, 1)
    return part.astype(work.result)


def _put(work: Work, part: Any, slot: Any, interpret: Any) -> None:
    if not work.config.turned:
        slot[...] = part
    elif interpret:
        slot[...] = part.T
    else:
        slot.T[...] = plgpu.layout_cast(part, LAYOUT.WGMMA_TRANSPOSED)


def _target(work: Work, out: Any, start: dict, first: int) -> Any:
    """The piece of the result `[M, N]` that begins at a column of the tile."""
    left, right = work.sides
    at = {left: pl.ds(start[left], ROWS), right: pl.ds(start[right] + first, work.piece)}
    return out.at[at["lhs"], at["rhs"]]
