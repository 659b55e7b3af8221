"""Tiles of ragged products, against a loop over rows."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpass_kernels.ragged_tiles import cut, most

CUT = jax.jit(cut, static_argnames=("m", "tile", "aligned"))


@st.composite
def sizes(draw):
    """Rows of four experts, some of them with none, and rows that have no expert."""
    m, group_sizes = draw(st.sampled_from((9, 16))), []
    for _ in range(4):
        group_sizes.append(draw(st.just(0) | st.integers(0, m - sum(group_sizes))))
    return np.array(group_sizes, np.int32), m


@settings(max_examples=60, deadline=None)
@given(sizes(), st.sampled_from((1, 4)), st.booleans())
def test_every_row_is_in_one_tile_of_its_expert(case, tile, aligned):
    group_sizes, m = case
    tiles = jax.tree.map(np.asarray, CUT(group_sizes, m=m, tile=tile, aligned=aligned))
    owner = np.repeat(np.arange(len(group_sizes)), group_sizes)
    found = []
    for t in range(tiles.count):
        begin, start, stop = (int(x[t]) for x in (tiles.begin, tiles.start, tiles.stop))
        assert begin <= start < stop <= begin + tile
        assert not aligned or begin % tile == 0
        found += [(row, tiles.expert[t]) for row in range(start, stop)]
    assert found == list(enumerate(owner))
    assert tiles.rows == len(owner)
    assert tiles.count <= len(tiles.expert)


@pytest.mark.parametrize(
    ("group_sizes", "m", "tile", "aligned"),
    [([1, 1, 6], 8, 4, False), ([5, 5, 6], 16, 4, True), ([1], 1, 4, True)],
)
def test_no_more_tiles_are_kept_than_there_may_be(group_sizes, m, tile, aligned):
    tiles = cut(np.array(group_sizes, np.int32), m, tile, aligned=aligned)
    assert most(m, len(group_sizes), tile, aligned=aligned) == int(tiles.count)


def test_rows_beyond_the_last_are_nobodys():
    tiles = cut(np.array([3, 9], np.int32), 5, 4)
    assert (int(tiles.rows), int(tiles.count)) == (5, 2)
