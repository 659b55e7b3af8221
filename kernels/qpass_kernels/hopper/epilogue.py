"""What becomes of a finished tile: scales, what follows the product, the way to memory."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from qpass_kernels.hopper.layouts import LAYOUT, spread, swizzled
from qpass_kernels.hopper.slot import Slot, followed
from qpass_kernels.hopper.warpgroups import LEAST, ROWS
from qpass_kernels.hopper.work import WIDTHS, Work, row_bytes


def memory(work: Work) -> dict[str, Any]:
    """Describe the shared memory of the warpgroups that multiply."""
    shape = (work.piece, ROWS) if work.config.turned else (ROWS, work.piece)
    slots = (work.warpgroups, work.config.slots)
    pieces = plgpu.SMEM((*slots, *shape), work.result, transforms=_transforms(work))
    vectors: dict[str, Any] = {
        name: plgpu.SMEM((work.warpgroups, _count(work, side)), jnp.float32)
        for name, side in work.vectors.items()
    }
    if vectors:
        count = len(vectors)
        vectors["ready"] = plgpu.Barrier(num_arrivals=count, num_barriers=work.warpgroups)
    if work.epilogue.beside:
        vectors["beside"] = plgpu.Barrier(num_barriers=work.warpgroups)
    return {"pieces": pieces, **vectors}


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
    """Begin to copy the row scales and the bias of a tile."""
    mine = jax.lax.axis_index("warpgroup")
    for name, side in work.vectors.items():
        source = late[name].at[pl.ds(_start(work, side, at), _count(work, side))]
        plgpu.copy_gmem_to_smem(source, memory[name].at[mine], memory["ready"].at[mine])


def finish(work: Work, totals: Any, memory: dict, refs: tuple, at: dict, interpret: Any) -> None:
    """Finish and write this warpgroup's part of a tile, `[64, columns]` in pieces.

    `refs`: by name the arrays that follow the product, and the result.
    """
    late, out = refs
    mine = jax.lax.axis_index("warpgroup")
    if work.vectors:
        plgpu.barrier_wait(memory["ready"].at[mine])
    start = {side: _start(work, side, at) for side in work.sides}
    done = 0
    for total in totals:
        for first in range(0, total.shape[1], work.piece):
            part = total[:, first : first + work.piece]
            columns = done * work.piece
            piece = memory["pieces"].at[mine, done % work.config.slots]
            # the last tile's pieces may lie in any slot, this one's only in the others
            plgpu.wait_smem_to_gmem(work.config.slots - 1 if done else 0, wait_read_only=True)
            arrived = memory["beside"].at[mine] if work.epilogue.beside else None
            slot = Slot(piece, arrived, work.config.turned, interpret is not None)
            part = _scaled(work, part, memory, columns)
            if work.epilogue:
                bias = partial(_along, work, "bias", memory, part.shape, columns)
                beside = [
                    _target(work, late[name], start, columns) for name in work.epilogue.beside
                ]
                part = followed(work.epilogue, part, bias, beside, slot)
            slot.put(part.astype(work.result))
            plgpu.copy_smem_to_gmem(piece, _target(work, out, start, columns))
            done += 1


def _scaled(work: Work, part: Any, memory: dict, first: int) -> Any:
    """Multiply a piece by its row scales, lhs first."""
    if work.late:
        part = part.astype(jnp.float32)
    for side in work.late:
        part = part * _along(work, side, memory, part.shape, first, LAYOUT.WGMMA)
    return part


def _along(
    work: Work, name: str, memory: dict, shape: tuple[int, int], first: int, layout: Any
) -> Any:
    """Spread a vector over the piece of a tile that begins at a column."""
    vector = memory[name].at[jax.lax.axis_index("warpgroup")]
    if work.vectors[name] == work.sides[0]:
        return spread(vector, shape, 0, layout)
    return spread(vector.at[pl.ds(first, shape[1])], shape, 1, layout)


def _target(work: Work, out: Any, start: dict, first: int) -> Any:
    """The piece of the result `[M, N]` that begins at a column of the tile."""
    left, right = work.sides
    at = {left: pl.ds(start[left], ROWS), right: pl.ds(start[right] + first, work.piece)}
    return out.at[at["lhs"], at["rhs"]]
