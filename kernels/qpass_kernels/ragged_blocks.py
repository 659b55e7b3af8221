"""Rows sorted by expert, walked over in blocks that belong to one expert each."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

MOST_ROWS = 256
"""Rows of a block: more no longer make the product faster."""

ROWS_OF_MANY = 16
"""Rows of a block where their number in all is not known."""


def block_rows(rows: Any, experts: int) -> int:
    """How many rows a block has: few enough that those too many are less than a fifth of all.

    Each expert's last block may hold one row only.
    """
    if not isinstance(rows, int):
        return ROWS_OF_MANY
    return min(1 + rows // (5 * experts), MOST_ROWS)


def over_blocks(group_sizes: Any, size: int, step: Callable[..., Any], begin: Any) -> Any:
    """Walk over blocks of rows; the last one of an expert runs on into the rows of the next.

    Args:
        group_sizes: int `[E]`, rows of each expert.
        size: rows of a block.
        step: (expert, first row of the block, row behind the expert's last, result so far) -> the
            result with the block.
        begin: the result before any block.
    """
    blocks = -(-group_sizes // size)
    last = jnp.cumsum(blocks, dtype=jnp.int32)
    ends = jnp.cumsum(group_sizes, dtype=jnp.int32)

    def one(number: Any, so_far: Any) -> Any:
        expert = jnp.searchsorted(last, number, side="right").astype(jnp.int32)
        block = number - last[expert] + blocks[expert]
        start = ends[expert] - group_sizes[expert] + block * size
        return step(expert, start, ends[expert], so_far)

    return lax.fori_loop(0, last[-1], one, begin)


def zeros(shape: tuple[Any, ...], kind: Any, *operands: Any) -> Any:
    """Zeros to begin with, which vary over the axes of a shard_map as the operands do."""
    zero = jnp.zeros((), kind)
    for x in operands:
        first = x[(0,) * x.ndim]
        zero = jnp.where(first != first, zero, zero)
    return jnp.broadcast_to(zero, shape)
