"""Matrices that spread channels: orthogonal in integers, against what is known of their orders."""

import numpy as np
import pytest
from scipy.linalg import hadamard as sylvester

from qpass.folds.hadamard import block_order, hadamard, is_known, spread


@pytest.mark.parametrize("n", [1, 2, 4, 8, 12, 20, 28, 36, 44, 60, 76, 96, 384, 576, 960])
def test_rows_are_orthogonal(n):
    h = np.asarray(hadamard(n), np.int64)
    assert set(np.unique(h)) <= {-1, 1}
    np.testing.assert_array_equal(h @ h.T, n * np.eye(n))
    np.testing.assert_array_equal(h[0], 1)


def test_powers_of_two_are_sylvesters():
    np.testing.assert_array_equal(hadamard(64), sylvester(64))


def test_which_orders_are_known():
    known = [n for n in range(1, 100) if hadamard(n) is not None]
    assert known == [n for n in range(1, 100) if is_known(n)]
    assert known == [1, 2, *(n for n in range(4, 100, 4) if n not in (52, 92))]


@pytest.mark.parametrize(("n", "block"), [(576, 576), (1536, 1536), (6, 2), (7, 1), (52, 4)])
def test_other_sizes_are_blocks(n, block):
    assert block_order(n) == block
    q = spread(n, seed=1)
    np.testing.assert_allclose(q @ q.T, np.eye(n), atol=1e-14)
    assert np.count_nonzero(q) == n * block
    np.testing.assert_allclose(np.abs(q[q != 0]), block**-0.5)


@pytest.mark.parametrize("n", [4, 12, 64, 24])
def test_means_are_kept(n):
    q = spread(n, seed=1, keeps_ones=True)
    np.testing.assert_allclose(q @ q.T, np.eye(n), atol=1e-14)
    np.testing.assert_allclose(np.ones(n) @ q, 1, atol=1e-14)
    assert np.abs(q - np.eye(n)).max() > 0.5


def test_seeds_differ():
    assert not np.array_equal(spread(12, 0), spread(12, 1))
