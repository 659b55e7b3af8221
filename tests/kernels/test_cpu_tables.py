"""Codes of four bits with a table, decoded tile by tile by XLA's form of the product."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass_kernels.cpu import CPU
from tests.kernels.oracle import assert_close
from tests.kernels.test_native_tables import TABLES, decoded, operands, product, stored

SHAPES = [(1, 9, 64, 16), (5, 33, 50, None), (3, 2, 8, 2)]


@pytest.mark.parametrize(("m", "n", "k", "group"), SHAPES)
def test_agrees_with_float64(m, n, k, group):
    p = product(m, n, k, 4, group, batch=2)
    lhs, indices, scale = operands(p)
    assert CPU.reads(p)
    got = jax.jit(CPU.run, static_argnums=0)(p, lhs, None, stored(p, indices), scale)
    assert_close(p.decoded, got, (lhs, None, decoded(p, indices), scale))


@pytest.mark.parametrize("dtype", ["uint4", "float4_e2m1fn"])
def test_every_code_of_a_layer(dtype):
    p = product(16, 1, 16, 4)
    codes = jax.lax.bitcast_convert_type(jnp.arange(16).astype(jnp.uint4), getattr(jnp, dtype))
    stack = jnp.stack([codes[::-1], codes])[:, None, None]
    assert CPU.run_stacked is not None
    run = jax.jit(CPU.run_stacked, static_argnums=0)
    got = run(p, jnp.eye(16)[None], None, stack, jnp.ones((2, 1, 1, 1)), jnp.int32(1))
    np.testing.assert_array_equal(np.asarray(got)[0, :, 0], np.asarray(TABLES[4], np.float32))


def test_what_is_decoded_beforehand():
    plain = product(1, 2, 64, 4, 16)
    assert CPU.reads(plain)
    others = [product(1, 2, 33, 4), product(1, 2, 64, 4, 3), product(1, 2, 64, 4, 48)]
    others += [product(1, 2, 64, 2), replace(plain, table=None)]
    assert not any(map(CPU.reads, others))
