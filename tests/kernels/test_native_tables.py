"""Codes of a few bits with a table, read as they are stored by the compiled weight-only product."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass_kernels import Product
from qpass_kernels.native import floating, library
from qpass_kernels.native.floating import NATIVE_FLOAT
from tests.kernels.oracle import assert_close
from tests.kernels.test_native_floating import isa as isa

pytestmark = pytest.mark.skipif(library.why_not() is not None, reason="no compiled library")

# m, n, k, group: rows in registers and in tiles; groups of whole blocks, several to a block, and
# such as end within blocks or within what a lane holds; tails of all of them
SHAPES = [
    (1, 1, 1, None),
    (2, 9, 40, 16),
    (3, 19, 2048, 32),
    (5, 6, 1000, None),
    (1, 5, 2000, 128),
    (2, 4, 77, 8),
    (7, 33, 1100, 100),
    (6, 5, 50, 3),
    (40, 17, 1064, 16),
    (33, 7, 1160, 64),
]
NUMBERS = np.random.default_rng(0).uniform(-2, 2, 16).astype(np.float32).tolist()
TABLES = {bits: tuple(NUMBERS[: 2**bits]) for bits in (4, 3, 2)}


def product(m, n, k, bits, group=None, batch=1, out="float32"):
    layout = "group" if group else "row"
    plain = Product(batch, m, n, k, "float32", "float32", out, group or k, "none", layout)
    return replace(plain, table=TABLES[bits])


def operands(p, seed=0):
    """lhs, indices in the table, and scales."""
    rng = np.random.default_rng(seed)
    lhs = jnp.asarray(rng.standard_normal((p.batch, p.m, p.k)), jnp.float32)
    indices = rng.integers(0, len(p.table), (p.batch, p.n, p.k), np.uint8)
    scale = jnp.asarray(rng.uniform(0.5, 2, (p.batch, p.n, p.groups)), jnp.float32)
    return lhs, indices, scale


def stored(p, indices):
    """As the kernel takes them: bits put one behind another, independently of the library."""
    if p.code_bits == 4:
        return jnp.asarray(indices).astype(jnp.uint4)
    bits = np.unpackbits(indices[..., None], axis=-1, count=p.code_bits, bitorder="little")
    bits = bits.reshape(*indices.shape[:-1], -1)
    return jnp.asarray(np.packbits(bits, axis=-1, bitorder="little"))


def decoded(p, indices):
    return jnp.asarray(np.asarray(p.table, np.float32)[indices])


def multiply(p, lhs, indices, scale, isa=""):
    rhs = stored(p, indices)
    return floating.run_stacked(p, lhs, None, rhs[None], scale[None], jnp.int32(0), isa=isa)


@pytest.mark.parametrize("bits", TABLES)
@pytest.mark.parametrize(("m", "n", "k", "group"), SHAPES)
def test_agrees_with_float64(isa, m, n, k, group, bits):
    p = product(m, n, k + k % 2 * (bits == 4), bits, group, batch=2)
    lhs, indices, scale = operands(p)
    assert NATIVE_FLOAT.reads(p)
    assert NATIVE_FLOAT.supports(p) is None
    got = multiply(p, lhs, indices, scale, isa)
    assert_close(p.decoded, got, (lhs, None, decoded(p, indices), scale))


@pytest.mark.parametrize("bits", TABLES)
@pytest.mark.parametrize("group", [None, 128, 32, 16, 12])
def test_bits_of_a_row_do_not_depend_on_the_others(isa, bits, group):
    p = product(70, 21, 1100, bits, group)
    lhs, indices, scale = operands(p)
    want = np.asarray(multiply(p, lhs, indices, scale, isa))
    for row, rows in ((0, 1), (4, 3), (9, 30)):
        some = lhs[:, row : row + rows]
        got = multiply(replace(p, m=rows), some, indices, scale, isa)
        np.testing.assert_array_equal(np.asarray(got), want[:, row : row + rows])


@pytest.mark.parametrize("bits", TABLES)
def test_every_code(isa, bits):
    """A row of ones at one place picks a single code, whatever its neighbours are."""
    codes = np.arange(256, dtype=np.uint8) * 7 % 2**bits
    p = product(256, 1, 256, bits, 16)
    got = multiply(p, jnp.eye(256)[None], codes[None, None], jnp.ones((1, 1, 16)), isa)
    np.testing.assert_array_equal(np.asarray(got)[0, :, 0], np.asarray(p.table, np.float32)[codes])


@pytest.mark.parametrize("bits", TABLES)
def test_a_layer_of_a_stack(bits):
    p = product(3, 9, 44, bits, 8, batch=2)
    layers = [operands(p, seed) for seed in range(3)]
    stack = jnp.stack([stored(p, indices) for _, indices, _ in layers])
    scales = jnp.stack([scale for _, _, scale in layers])
    run = jax.jit(floating.run_stacked, static_argnums=0)
    for index, (_, indices, scale) in enumerate(layers):
        got = run(p, layers[0][0], None, stack, scales, jnp.int32(index))
        want = NATIVE_FLOAT.run(p, layers[0][0], None, stored(p, indices), scale)
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want))


@pytest.mark.parametrize("dtype", ["uint4", "int4", "float4_e2m1fn"])
def test_any_dtype_of_four_bits(dtype):
    p = product(2, 5, 64, 4, 32)
    lhs, indices, scale = operands(p)
    codes = jax.lax.bitcast_convert_type(stored(p, indices), jnp.dtype(getattr(jnp, dtype)))
    got = jax.jit(NATIVE_FLOAT.run, static_argnums=0)(p, lhs, None, codes, scale)
    np.testing.assert_array_equal(got, multiply(p, lhs, indices, scale))


def test_what_is_decoded_beforehand():
    assert not NATIVE_FLOAT.reads(product(1, 2, 33, 4))  # rows of half a byte more
    assert NATIVE_FLOAT.reads(product(1, 2, 33, 3))
    codes = Product(1, 2, 3, 64, "int8", "int8", "float32", 64, "row", "row", TABLES[4])
    assert not NATIVE_FLOAT.reads(codes)
    assert not NATIVE_FLOAT.reads(codes.decoded)
