"""Which rows of a ragged product make up each tile, and whose weight they are multiplied by."""

from typing import Any, NamedTuple

import jax.numpy as jnp


class Tiles(NamedTuple):
    """Tiles of rows, in their order; those after the first `count` are nobody's.

    Attributes:
        expert: int32 `[T]`, whose weight a tile is multiplied by.
        begin: int32 `[T]`, the row at which it begins.
        start, stop: int32 `[T]`, the rows of the expert in it: from, and to before.
        count: int32 scalar, how many tiles there are.
        rows: int32 scalar, how many rows have an expert.
    """

    expert: Any
    begin: Any
    start: Any
    stop: Any
    count: Any
    rows: Any


def cut(group_sizes: Any, m: int, tile: int, *, aligned: bool = False) -> Tiles:
    """Cut the rows of every expert into tiles, which no two experts share.

    Args:
        group_sizes: int `[E]`, rows of each expert.
        m: rows in all.
        tile: rows of a tile.
        aligned: tiles begin at multiples of `tile`, so that experts whose rows lie in one such
            block each have a tile of it; else they begin with the expert's first row.
    """
    ends = jnp.minimum(jnp.cumsum(group_sizes.astype(jnp.int32), dtype=jnp.int32), m)
    starts = jnp.concatenate([jnp.zeros(1, jnp.int32), ends[:-1]])
    before = starts % tile if aligned else jnp.zeros_like(starts)
    counts = jnp.where(ends > starts, -((starts - before - ends) // tile), 0)
    lasts = jnp.cumsum(counts, dtype=jnp.int32)
    index = jnp.arange(most(m, group_sizes.shape[0], tile, aligned=aligned), dtype=jnp.int32)
    expert = jnp.sum(index[:, None] >= lasts, axis=1, dtype=jnp.int32)
    expert = jnp.minimum(expert, group_sizes.shape[0] - 1)
    begin = (starts - before)[expert] + (index - (lasts - counts)[expert]) * tile
    return Tiles(
        expert=expert,
        begin=begin,
        start=jnp.maximum(begin, starts[expert]),
        stop=jnp.minimum(begin + tile, ends[expert]),
        count=lasts[-1],
        rows=ends[-1],
    )


def most(m: int, experts: int, tile: int, *, aligned: bool = False) -> int:
    """The greatest number of tiles that any sizes make."""
    some = min(experts, m)
    if aligned:
        return -(-m // tile) + max(some - 1, 0)
    return some + (m - some) // tile
