"""The compiled weight-only product against float64: every instruction set, code, tail and stack."""

import platform
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpass_kernels import REFERENCE
from qpass_kernels.kernel import CODES, FLOATS
from qpass_kernels.native import floating, library
from qpass_kernels.native.floating import NATIVE_FLOAT
from tests.kernels.oracle import assert_close, operands, product, products

pytestmark = pytest.mark.skipif(library.why_not() is not None, reason="no compiled library")

SHAPES = [  # m, n, k, group: rows in registers and in tiles; tails of blocks, panels and groups
    (1, 1, 1, None),
    (1, 9, 40, 32),
    (3, 19, 2048, 32),
    (5, 6, 1000, None),
    (2, 4, 77, None),
    (7, 33, 1100, 100),
    (6, 5, 50, 3),
    (33, 17, 1064, 32),
    (300, 3, 96, 48),
]


ISAS = ("neon", "portable") if platform.machine() == "aarch64" else ("avx512", "avx2", "portable")


@cache
def refusal(isa):
    """What the library says when it is asked for an instruction set; None where there is it."""
    try:
        multiply(product(1, 1, 1, "float32", "int8"), isa=isa)
    except jax.errors.JaxRuntimeError as error:
        return str(error)
    return None


def arrays(p, seed=0):
    """Random lhs, no scale of it, codes and their scale."""
    lhs, _, rhs, scale = operands(p, seed)
    assert scale is not None
    return lhs, None, rhs, scale


def multiply(p, args=None, isa=""):
    lhs, _, rhs, scale = args or arrays(p)
    return floating.run_stacked(p, lhs, None, rhs[None], scale[None], jnp.int32(0), isa=isa)


@pytest.fixture(params=ISAS)
def isa(request):
    if "lacks" in (refusal(request.param) or ""):
        pytest.skip(f"this machine has no {request.param}")
    return request.param


def test_some_instruction_set_of_this_machine_is_tested():
    assert refusal("portable") is None
    assert "lacks the instructions" in str(refusal("none of those"))


@settings(max_examples=15, deadline=None)
@given(products(acts=FLOATS), st.integers(0, 99))
def test_agrees_with_float64(p, seed):
    args = arrays(p, seed)
    assert NATIVE_FLOAT.supports(p) is None
    assert_close(p, NATIVE_FLOAT.run(p, *args), args)


@pytest.mark.parametrize("rhs", ["int8", "int4", "float8_e4m3fn"])
@pytest.mark.parametrize(("m", "n", "k", "group"), SHAPES)
def test_shapes(isa, m, n, k, group, rhs):
    p = product(m, n, k, "float32", rhs, group=group, batch=2)
    args = arrays(p)
    assert_close(p, multiply(p, args, isa), args)


@pytest.mark.parametrize("group", [None, 2])
@pytest.mark.parametrize("rhs", CODES)
def test_every_code(isa, rhs, group):
    """Rows of the unit matrix pick single codes, which float32 holds exactly."""
    if rhs == "int4":
        codes = jnp.asarray([[low, high] for low in range(-8, 8) for high in range(-8, 8)], rhs)
        codes = codes.reshape(-1)
    else:
        codes = jax.lax.bitcast_convert_type(jnp.arange(256, dtype=jnp.uint8), jnp.dtype(rhs))
    k = codes.size
    want = np.asarray(codes).astype(np.float32)
    want[~np.isfinite(want)] = 0
    finite = jnp.asarray(want).astype(jnp.int8 if "int" in rhs else codes.dtype).astype(rhs)
    p = product(k, 1, k, "float32", rhs, group=group)
    scale = jnp.ones((1, 1, p.groups))
    got = multiply(p, (jnp.eye(k)[None], None, finite[None, None], scale), isa)
    np.testing.assert_array_equal(np.asarray(got)[0, :, 0], want)


@pytest.mark.parametrize("rhs", [name for name in CODES if "float" in name])
def test_codes_that_are_no_number(isa, rhs):
    codes = jax.lax.bitcast_convert_type(jnp.arange(256, dtype=jnp.uint8), jnp.dtype(rhs))
    p = product(1, 256, 1, "float32", rhs)
    got = multiply(p, (jnp.ones((1, 1, 1)), None, codes[None, :, None], jnp.ones((1, 256, 1))), isa)
    number = np.isfinite(np.asarray(codes).astype(np.float32))
    np.testing.assert_array_equal(np.isfinite(np.asarray(got)[0, 0]), number)


@pytest.mark.parametrize("group", [None, 32, 12])
@pytest.mark.parametrize("rhs", ["int8", "int4", "float8_e5m2"])
def test_bits_of_a_row_do_not_depend_on_the_others(isa, rhs, group):
    p = product(301, 40, 1100, "float32", rhs, group=group)
    lhs, _, codes, scale = arrays(p)
    want = np.asarray(multiply(p, (lhs, None, codes, scale), isa))
    for row, rows in ((0, 1), (4, 3), (9, 8), (17, 33), (300, 1), (201, 100)):
        some = product(rows, 40, 1100, "float32", rhs, group=group)
        got = multiply(some, (lhs[:, row : row + rows], None, codes, scale), isa)
        np.testing.assert_array_equal(np.asarray(got), want[:, row : row + rows])


def test_bits_do_not_depend_on_where_a_column_lies_or_which_thread_computes_it():
    """One column of few rows is a thread's; all of them together are shared out."""
    p = product(5, 2050, 1024, "float32", "int4", group=32)
    lhs, _, codes, scale = arrays(p)
    want = np.asarray(multiply(p, (lhs, None, codes, scale)))
    one = product(5, 1, 1024, "float32", "int4", group=32)
    for n in (0, 1, 1023, 1026, 2049):
        got = multiply(one, (lhs, None, codes[:, n : n + 1], scale[:, n : n + 1]))
        np.testing.assert_array_equal(np.asarray(got)[..., 0], want[..., n])


@pytest.mark.parametrize("rhs", ["int8", "int4", "float8_e4m3fn"])
@pytest.mark.parametrize("k", [64, 33])
def test_a_layer_of_a_stack(rhs, k):
    p = product(3, 9, k, "float32", rhs, group=8, batch=2)
    layers = [arrays(p, seed) for seed in range(3)]
    lhs = layers[0][0]
    stack = jnp.stack([codes for _, _, codes, _ in layers])
    scales = jnp.stack([scale for _, _, _, scale in layers])
    run = jax.jit(floating.run_stacked, static_argnums=0)
    for index, layer in ((0, 0), (1, 1), (2, 2), (7, 2), (-1, 0)):
        got = run(p, lhs, None, stack, scales, jnp.int32(index))
        _, _, codes, scale = layers[layer]
        want = NATIVE_FLOAT.run(p, lhs, None, codes, scale)
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want))


@pytest.mark.parametrize("sizes", [(0, 2, 3), (2, 0, 3), (2, 2, 3)])
@pytest.mark.parametrize("batch", [0, 1])
def test_nothing_to_compute(sizes, batch):
    m, n, k = sizes
    p = product(m, n, k, "float32", "int8", batch=batch)
    assert multiply(p).shape == (batch, m, n)
    assert NATIVE_FLOAT.supports(product(2, 2, 0, "float32", "int8")) == "nothing to add up"


@pytest.mark.parametrize("group", [None, 32])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("m", [4, 40])
def test_what_is_not_finite_stays_in_its_row_and_column(isa, m, bad, group):
    p = product(m, 7, 70, "float32", "int4", group=group)
    lhs, _, codes, scale = arrays(p)
    want = np.array(multiply(p, (lhs, None, codes, scale), isa))
    poisoned = lhs.at[0, 2, 69].set(bad), None, codes, scale.at[0, 3, -1].set(bad)
    got = np.asarray(multiply(p, poisoned, isa))
    assert not np.isfinite(got[0, 2]).any()
    assert not np.isfinite(got[0, :, 3]).any()
    got, want = (np.delete(np.delete(x[0], 2, 0), 3, 1) for x in (got, want))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("out", FLOATS)
@pytest.mark.parametrize("lhs", FLOATS)
def test_float_types_are_rounded_at_the_border(lhs, out):
    p = product(3, 16, 64, lhs, "int8", out=out)
    x, _, rhs, scale = arrays(p)
    wide, bias = x.astype(jnp.float32) * 1.01, jnp.linspace(0.1, 0.3, 16)

    @jax.jit
    def fused(wide, rhs, scale):
        got = NATIVE_FLOAT.run(p, wide.astype(lhs), None, rhs, scale)
        return got.astype(jnp.float32) + bias

    alone = NATIVE_FLOAT.run(p, wide.astype(lhs), None, rhs, scale)
    assert alone.dtype == out
    want = np.asarray(alone.astype(jnp.float32)) + np.asarray(bias)
    np.testing.assert_array_equal(np.asarray(fused(wide, rhs, scale)), want)


def test_row_scales_are_applied_as_in_the_reference():
    """After the sum: scales that are powers of two change no bit."""
    p = product(2, 5, 100, "float32", "int8")
    lhs, _, rhs, _ = arrays(p)
    ones = jnp.ones((1, 5, 1))
    got = multiply(p, (lhs, None, rhs, ones * 2.0**-60))
    np.testing.assert_array_equal(got, multiply(p, (lhs, None, rhs, ones)) * 2.0**-60)
    overflow = multiply(p, (lhs, None, rhs, ones * jnp.inf))
    want = REFERENCE.run(p, lhs, None, rhs, ones * jnp.inf)
    np.testing.assert_array_equal(overflow, want)


@pytest.mark.parametrize(
    ("p", "reason"),
    [
        (product(1, 2, 3, "int8", "int8"), "quantized activations"),
        (product(1, 2, 3, "float32", "float32"), "weight decoded beforehand"),
    ],
)
def test_refuses_the_rest(p, reason):
    assert NATIVE_FLOAT.supports(p) == reason
