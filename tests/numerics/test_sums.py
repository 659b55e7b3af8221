"""Sums that do not depend on the order of their terms, and are right."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from qpass.numerics.sums import block_exponents, scale_down, scale_up, total


@pytest.mark.parametrize("n", [1, 2, 3, 32, 33, 1024, 70001])
def test_total_is_the_sum(n):
    y = np.random.default_rng(n).random((2, n)).astype(np.float32)
    y[1] *= 1e-5
    wanted = [math.fsum(row) for row in y.astype(np.float64)]
    got = total(jnp.asarray(y), (1, n))
    assert got.shape == (2, 1)
    np.testing.assert_allclose(got[:, 0], wanted, rtol=1e-7)


def test_total_of_the_largest_terms_does_not_overflow():
    for n in (1, 4, 5, 4096):
        y = jnp.full((n,), 1 - 2.0**-24, jnp.float32)
        assert total(y, (n,)) == np.float32(n * (1 - 2.0**-24))


def test_total_does_not_depend_on_the_order():
    rng = np.random.default_rng(0)
    y = rng.random((40, 3000)).astype(np.float32) ** 8
    mixed = rng.permuted(y, axis=1)
    assert (jnp.sum(y, axis=1) != jnp.sum(mixed, axis=1)).any()  # what sums of floats do
    wanted = total(jnp.asarray(y), (1, 3000))
    assert (total(jnp.asarray(mixed), (1, 3000)) == wanted).all()
    columns = jax.jit(lambda y: total(y, (3000, 1)))(jnp.asarray(mixed.T))
    assert (wanted == columns.T).all()


def test_total_of_nothing_is_zero():
    assert total(jnp.zeros((0,)), (0,)).tolist() == [0]
    assert total(jnp.zeros((2, 0)), (1, 0)).tolist() == [[0], [0]]
    assert total(jnp.zeros((0, 2)), (1, 2)).shape == (0, 1)


def test_total_of_a_block_of_unknown_size():
    (rows,) = export.symbolic_shape("rows")
    program = export.export(jax.jit(lambda y: total(y, y.shape)))(
        jax.ShapeDtypeStruct((rows, 8), jnp.float32)
    )
    y = jnp.full((1000, 8), 0.7, jnp.float32)
    np.testing.assert_allclose(program.call(y), [[8000 * np.float32(0.7)]], rtol=1e-7)


@pytest.mark.parametrize("largest", [0, 1e-38, 2.0**-126, 0.3, 1, 3, 2.0**127, 3.4028235e38])
def test_scaling_keeps_magnitudes_below_one_and_is_undone_exactly(largest):
    x = jnp.asarray([[largest, -largest], [largest / 2, 0], [0, 0]], jnp.float32)
    exponent = block_exponents(x, (1, 2))
    y = scale_down(x, exponent, (1, 2))
    assert (jnp.abs(y) < 1).all()
    if largest != 1e-38:  # a subnormal number, which XLA takes for zero
        assert (scale_up(y, exponent) == x).all()
