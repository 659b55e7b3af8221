"""Grouped int8 activations on CPU: both forms against float64, and reproducible bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from qpass_kernels import CPU, Product, cpu_groups
from tests.kernels.oracle import assert_close, operands, product

SHAPES = [  # batch, m, n, k, group, both grouped by slices or rows
    (1, 1, 40, 128, 128),
    (2, 1, 70, 576, 128),
    (1, 1, 33, 100, 32),
    (2, 4, 9, 64, 16),
    (2, 17, 9, 100, 32),
    (1, 130, 40, 320, 64),
]


@pytest.mark.parametrize("rhs_scale", ["row", "group"])
@pytest.mark.parametrize(("batch", "m", "n", "k", "group"), SHAPES)
def test_agrees_with_float64(batch, m, n, k, group, rhs_scale):
    p = Product(batch, m, n, k, "int8", "int8", "float32", group, "group", rhs_scale)
    args = operands(p)
    assert cpu_groups.fits(p)
    assert_close(p, jax.jit(CPU.run, static_argnums=0)(p, *args), args)


@pytest.mark.parametrize("m", [1, 20])
def test_bits_do_not_depend_on_the_program_around(m):
    p = product(m, 96, 256, "int8", "int8", group=64, lhs_group=True)
    args = operands(p)
    want = jax.jit(lambda *a: CPU.run(p, *a))(*args)
    bias = jnp.linspace(0.1, 0.3, 96)

    @jax.jit
    def around(lhs, lhs_scale, rhs, rhs_scale):
        out = CPU.run(p, lhs, lhs_scale * 4 * 0.25, rhs, jnp.minimum(rhs_scale, 9))
        return out, out + bias

    got, after = around(*args)
    np.testing.assert_array_equal(np.asarray(got), np.asarray(want))
    np.testing.assert_array_equal(np.asarray(after), np.asarray(want) + np.asarray(bias))


(SYMBOL,) = export.symbolic_shape("m")


@pytest.mark.parametrize(
    "p",
    [
        product(4, 8, 64, "float32", "int8", group=32),
        product(4, 8, 64, "int8", "int4", group=32, lhs_group=True),
        product(4, 8, 64, "int8", "int8", group=32),
        product(64, 8, 4096, "int8", "int8", group=32, lhs_group=True),
        product(SYMBOL, 8, 64, "int8", "int8", group=32, lhs_group=True),
    ],
)
def test_leaves_the_rest_to_the_tiles(p):
    assert not cpu_groups.fits(p)
    assert CPU.supports(p) is None
