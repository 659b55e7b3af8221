"""Extremes of blocks: whichever way they are computed, they are those of numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass.numerics import blocks as blocks_module
from qpass.numerics.axes import count_blocks
from qpass.numerics.blocks import extremes

CASES = [
    ((6, 8), (1, 8)),
    ((6, 8), (6, 8)),
    ((6, 8), (6, 1)),
    ((37, 5), (37, 1)),
    ((37, 5), (8, 1)),
    ((3, 37, 5), (2, 11, 1)),
    ((3, 37, 5), (2, 11, 3)),
    ((5,), (1,)),
    ((1, 1), (1, 1)),
    ((), ()),
]


def by_numpy(x, blocks):
    """Block after block."""
    shape = tuple(map(count_blocks, x.shape, blocks))
    least, greatest = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for index in np.ndindex(shape):
        block = x[tuple(slice(i * b, (i + 1) * b) for i, b in zip(index, blocks, strict=True))]
        least[index], greatest[index] = min(block.min(), 0), max(block.max(), 0)
    return least, greatest


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize(("shape", "blocks"), CASES)
def test_extremes(shape, blocks, large, monkeypatch):
    monkeypatch.setattr(blocks_module, "_LARGE", 0 if large else 10**6)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x.flat[:3] = np.nan, np.inf, -np.inf
    least, greatest = jax.jit(lambda x: extremes(x, blocks))(x)
    finite = np.where(np.isfinite(x), x, 0)
    np.testing.assert_array_equal(least, by_numpy(finite, blocks)[0])
    np.testing.assert_array_equal(greatest, by_numpy(finite, blocks)[1])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("blocks", [(1, 5), (37, 1), (8, 1)])
def test_extremes_of_narrow_arrays_are_those_of_their_casts(dtype, blocks, monkeypatch):
    monkeypatch.setattr(blocks_module, "_LARGE", 0)
    x = jax.random.normal(jax.random.key(0), (37, 5)).astype(dtype)
    x = x.at[0, :3].set(jnp.array([jnp.nan, jnp.inf, 1e-7], dtype))
    found = jax.jit(lambda x: extremes(x, blocks))(x)
    wide = np.asarray(x.astype(jnp.float32))
    expected = by_numpy(np.where(np.isfinite(wide), wide, 0), blocks)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("blocks", [(1, 4), (0, 4), (0, 1)])
def test_blocks_without_elements_have_zeros(blocks):
    least, greatest = extremes(jnp.zeros((0, 4)), blocks)
    assert (least == 0).all()
    assert (greatest == 0).all()


def test_extremes_are_mapped_over():
    x = jax.random.normal(jax.random.key(0), (2, 6, 4))
    least, greatest = jax.vmap(lambda x: extremes(x, (3, 2)))(x)
    np.testing.assert_array_equal(least, extremes(x, (1, 3, 2))[0])
    np.testing.assert_array_equal(greatest, extremes(x, (1, 3, 2))[1])
