"""Rows quantized on Hopper: the bits of the formula in the interpreter, an exact reciprocal."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu

import qpass
from qpass.numerics import int8, quantize
from qpass_kernels.hopper.rows import HOPPER_ROWS, reciprocal
from qpass_kernels.row_quantizer import Rows

STRICT = {"detect_races": True, "out_of_bounds_reads": "uninitialized"}
SHAPES = [  # a row a program, a group a program, tiles of groups
    Rows(6, 256, 256, "float32"),
    Rows(6, 1152, 1152, "bfloat16"),
    Rows(6, 256, 128, "float32"),
    Rows(16, 256, 64, "float16"),
    Rows(8, 64, 8, "bfloat16"),
]


def numbers(rows):
    """Rows of all sizes: zeros, subnormals, the greatest numbers, infinities, NaN and ties."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows.rows, rows.k)) * 10.0 ** rng.integers(-4, 4, (rows.rows, 1))
    most = float(jnp.finfo(rows.dtype).max)
    x[1] = 0
    x[2, 3:5] = np.nan, -np.inf
    x[3] = np.clip(x[3], -1, 1) * most
    x[4] = np.rint(x[4] / np.abs(x[4]).max() * 256) / 2
    x[5, 0] = 1e-40
    return jnp.asarray(x).astype(rows.dtype)


@pytest.mark.parametrize("rows", SHAPES, ids=str)
def test_the_bits_of_the_formula(rows):
    assert HOPPER_ROWS.supports(rows) is None
    x = numbers(rows)
    params = plgpu.InterpretGPUParams(**STRICT)
    codes, scale = jax.jit(partial(HOPPER_ROWS.run, rows, interpret=params))(x)
    want = jax.jit(lambda x: quantize(x, int8.grouped(rows.group), (1,)))(x)
    np.testing.assert_array_equal(codes, want.codes)
    np.testing.assert_array_equal(np.asarray(scale).view("u4"), np.asarray(want.scale).view("u4"))


@pytest.mark.parametrize("off", [-2, -1, 0, 1, 2])
def test_the_reciprocal_of_every_mantissa(off):
    """Whatever the device's approximation, within two units in the last place."""

    def approximate(m):
        bits = lax.bitcast_convert_type(lax.optimization_barrier(1 / m), jnp.int32)
        return lax.bitcast_convert_type(bits + off, jnp.float32)

    x = (np.arange(2**23, dtype="u4") | 0x3F800000).view("f4")
    exact = (1 / x.astype("f8")).astype("f4")
    got = jax.jit(partial(reciprocal, approximate=approximate))(x)
    np.testing.assert_array_equal(got, exact)


@pytest.mark.parametrize("power", [-126, -60, 1, 100, 125])
def test_the_reciprocal_of_every_power_and_sign(power):
    x = np.float32([1.7, 1, -1.3]) * np.float32(2.0**power) / np.float32([1.7, 1, 1])
    np.testing.assert_array_equal(jax.jit(reciprocal)(x), 1 / x)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (Rows(1, 4000, 4000, "float32"), "1 groups of 4000: neither tiles of 64 nor lines of 128"),
        (Rows(1, 28672, 28672, "float32"), "more than 14336 numbers a row"),
        (Rows(5, 96, 32, "float32"), "15 groups of 32: neither tiles of 64 nor lines of 128"),
        (Rows(2, 100, 64, "float32"), "k = 100 is no multiple of the group 64"),
        (Rows(0, 128, 128, "float32"), "nothing to quantize"),
        (Rows(2, 128, 128, "float64"), "float64 floats"),
    ],
)
def test_what_is_left_to_the_formula(rows, reason):
    assert HOPPER_ROWS.supports(rows) == reason


def test_a_product_for_cuda_quantizes_its_rows_in_a_kernel():
    q = qpass.transform(lambda p, x: x @ p, qpass.Rule(weight="int8", act="int8"))
    args = jax.ShapeDtypeStruct((256, 128), "float32"), jax.ShapeDtypeStruct((8, 256), "float32")
    text = jax.jit(q).trace(*args).lower(lowering_platforms=("cuda",)).as_text()
    assert sum("qpass_rows" in line for line in text.splitlines()) == 1
