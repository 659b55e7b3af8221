"""Ranges of groups that shards cut: XLA gathers an array that it is to cut elsewhere than it lies.

So values are compared in parts that lie on one device each, and only what is found of the parts is
brought together.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from qpass.numerics import AbsMax, block_sizes
from qpass.numerics.blocks import extremes, reduce_blocks
from qpass.ops.weights import Storage

type Bounds = tuple[jax.Array, jax.Array]


def ranges_of_cut_groups(x: Any, storage: Storage) -> Bounds | None:
    """The least and greatest value of every block of a leaf, where a shard ends inside of one.

    Args:
        x: the leaf.
        storage: how it is stored.

    Returns:
        float32 arrays of the shape of the scales, as `encode_within` takes them, with the values
        that `encode_weight` finds. None where no block is cut, where the sharding is not known (in
        a traced program), and of ranges that look for more than extremes.
    """
    quantizer = storage.quantizer
    if isinstance(x, Tracer) or not isinstance(x, jax.Array):
        return None
    if quantizer.range != AbsMax() or quantizer.is_static or quantizer.is_learned:
        return None
    blocks = block_sizes(x.shape, quantizer.granularity, storage.contract, storage.separate)
    shard = x.sharding.shard_shape(x.shape)
    parts = tuple(map(_part, x.shape, blocks, shard))
    return None if parts == blocks else ranges_by_parts(x, blocks, parts)


def _part(n: int, block: int, shard: int) -> int:
    """The largest part of a block that never lies on two devices."""
    return block if block == n or shard == n else math.gcd(block, shard)


@partial(jax.jit, static_argnames=("blocks", "parts"))
def ranges_by_parts(x: jax.Array, blocks: tuple[int, ...], parts: tuple[int, ...]) -> Bounds:
    """The extremes of blocks, found by way of those of their parts.

    Args:
        x: array of any float dtype.
        blocks: one block size for each axis.
        parts: one divisor of it for each axis.
    """
    together = tuple(block // part for block, part in zip(blocks, parts, strict=True))
    least, greatest = extremes(x, parts)
    return reduce_blocks(least, together, jnp.min), reduce_blocks(greatest, together, jnp.max)
