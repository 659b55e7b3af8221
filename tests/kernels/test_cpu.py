"""The CPU path against float64: tiles, packed codes, every fp8 value, and reproducible bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpass_kernels import CPU, REFERENCE, cpu, cpu_codes
from tests.kernels.oracle import assert_close, operands, product, products


def precision(p):
    """What weights are decoded to before the sum, where that rounds them."""
    rounds = p.grouped or p.rhs == "float32"
    return "bfloat16" if p.lhs == "bfloat16" and rounds and p.m > 1 else "float32"


@settings(max_examples=25, deadline=None)
@given(products(), st.integers(0, 99))
def test_agrees_with_float64(p, seed):
    args = operands(p, seed)
    assert CPU.supports(p) is None
    assert_close(p, CPU.run(p, *args), args, precision(p))


@pytest.mark.parametrize("m", [1, 5])
@pytest.mark.parametrize(
    ("batch", "n", "k", "group"),
    [
        (1, 301, 2048, 32),
        (1, 301, 2047, None),
        (7, 40, 3000, None),
        (7, 40, 3001, 30),
        (2, 300, 2000, 25),
        (1, 700, 2048, None),
    ],
)
@pytest.mark.parametrize(
    ("lhs", "rhs"),
    [
        ("float32", "int4"),
        ("bfloat16", "int8"),
        ("int8", "int4"),
        ("float16", "float8_e4m3fn"),
        ("bfloat16", "float32"),
        ("int8", "float32"),
    ],
)
def test_tiles_cover_the_whole_weight(m, batch, n, k, group, lhs, rhs):
    p = product(m, n, k, lhs, rhs, batch=batch, group=group)
    args = operands(p)
    assert_close(p, jax.jit(CPU.run, static_argnums=0)(p, *args), args, precision(p))


def test_those_shapes_do_take_several_tiles():
    assert cpu.FLOAT_TILE < 301 * 2047
    assert cpu.INT_TILE < 700 * 2048


@pytest.mark.parametrize("name", sorted(cpu_codes.FP8))
def test_every_fp8_number_decodes_to_itself(name):
    codes = jax.lax.bitcast_convert_type(jnp.arange(256, dtype=jnp.uint8), jnp.dtype(name))
    want = np.asarray(codes).astype(np.float32)
    want[np.isinf(want)] = np.nan  # no finite number has these codes
    (got,) = jax.jit(cpu_codes.decode, static_argnums=1)(cpu_codes.as_bytes(codes), name)
    np.testing.assert_array_equal(np.asarray(got), want)


def test_every_int4_pair_decodes_to_itself():
    codes = jnp.asarray([[[low, high] for low in range(-8, 8) for high in range(-8, 8)]], jnp.int4)
    codes = codes.reshape(1, 1, 512)
    got = cpu_codes.decode(cpu_codes.as_bytes(codes), "int4")
    for half, want in zip(got, cpu_codes.parts(codes, "int4"), strict=True):
        np.testing.assert_array_equal(np.asarray(half), np.asarray(want))


@pytest.mark.parametrize("code", [-8, -3, -1, 0, 5])
def test_codes_that_are_all_alike_may_be_constants(code):
    codes = jnp.full((4, 6), code, "int4")
    pairs = jax.jit(lambda: cpu_codes.as_bytes(codes))()
    np.testing.assert_array_equal(pairs, np.full((4, 3), (code & 15) * 17, "u1").view("i1"))


@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize(
    ("lhs", "rhs", "group"),
    [
        ("int8", "int8", None),
        ("float32", "int4", 32),
        ("float32", "int8", None),
        ("bfloat16", "int8", None),
        ("float8_e4m3fn", "float8_e4m3fn", None),
    ],
)
def test_bits_do_not_depend_on_the_program_around(m, lhs, rhs, group):
    p = product(m, 320, 1024, lhs, rhs, group=group)
    lhs, lhs_scale, rhs, rhs_scale = operands(p)
    want = jax.jit(lambda *a: CPU.run(p, *a))(lhs, lhs_scale, rhs, rhs_scale)

    @jax.jit
    def around(lhs, lhs_scale, rhs, rhs_scale, bias):
        if lhs_scale is not None:
            lhs_scale = lhs_scale * 2 / 2
        rhs = (rhs.astype(jnp.float32) * 4 / 4).astype(rhs.dtype)
        out = CPU.run(p, lhs, lhs_scale, rhs, rhs_scale * 4 * 0.25)
        return out, out + bias

    bias = jnp.linspace(0.1, 0.3, 320)
    got, after = around(lhs, lhs_scale, rhs, rhs_scale, bias)
    np.testing.assert_array_equal(np.asarray(got), np.asarray(want))
    np.testing.assert_array_equal(np.asarray(after), np.asarray(want) + np.asarray(bias))


@pytest.mark.parametrize("kernel", [CPU, REFERENCE], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("m", [1, 4])
def test_bfloat16_operands_and_results_are_rounded_at_the_border(kernel, m):
    p = product(m, 64, 128, "bfloat16", "int8", out="bfloat16")
    lhs, _, rhs, scale = operands(p)
    wide, bias = (lhs.astype(jnp.float32) * 1.01), jnp.linspace(0.1, 0.3, 64)

    @jax.jit
    def fused(wide, rhs, scale):
        out = kernel.run(p, wide.astype(jnp.bfloat16), None, rhs, scale)
        return out.astype(jnp.float32) + bias

    alone = jax.jit(kernel.run, static_argnums=0)(p, wide.astype(jnp.bfloat16), None, rhs, scale)
    np.testing.assert_array_equal(
        np.asarray(fused(wide, rhs, scale)), np.asarray(alone).astype(np.float32) + bias
    )
