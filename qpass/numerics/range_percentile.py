"""Percentiles of the magnitudes of blocks."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from qpass.numerics.blocks import split_blocks
from qpass.numerics.range_base import Sample


def percentile(sample: Sample, p: float) -> jax.Array:
    """The p-th percentile of the magnitudes of each block's finite values.

    The least magnitude that at least `p` in a hundred do not exceed. No interpolation, whose last
    bit would depend on how XLA fuses a product with a sum. Only the magnitudes above it are sorted.

    Args:
        sample: values and blocks.
        p: from 0 to 100.

    Returns:
        float32 of the shape of the scales; 0 for a block without finite values.
    """
    share = (100 - p) / 100
    magnitudes = _block_last(jnp.abs(sample.values), sample.blocks)
    count = magnitudes.shape[-1]
    if count == 0:
        return jnp.zeros(sample.finite.shape, jnp.float32)
    # Elements that are not finite and those that fill up a short block are zeros, so they come last
    # in descending order. One place more than needed, for the rounding of a product in float32.
    largest = lax.top_k(magnitudes, min(count, int(share * (count - 1)) + 2))[0]
    place = jnp.floor(jnp.maximum(sample.finite - 1, 0) * share).astype(jnp.int32)
    place = jnp.minimum(place, largest.shape[-1] - 1)
    return jnp.take_along_axis(largest, place[..., None], axis=-1)[..., 0]


def _block_last(x: jax.Array, blocks: tuple[int, ...]) -> jax.Array:
    """All elements of a block along one last axis, after the axes of the scales."""
    x = split_blocks(x, blocks)
    counts, sizes = range(0, x.ndim, 2), range(1, x.ndim, 2)
    shape = tuple(x.shape[axis] for axis in counts)
    return lax.transpose(x, (*counts, *sizes)).reshape(*shape, math.prod(blocks))
