"""Compiled integer products against float64: every instruction set, tail, group and stack."""

import dataclasses
import os
import platform
import subprocess
import sys
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpass_kernels import REFERENCE, Product
from qpass_kernels.kernel import FLOATS
from qpass_kernels.native import integer, library
from qpass_kernels.native.integer import NATIVE_INT
from qpass_kernels.reference import INT32_SAFE_K
from tests.kernels.oracle import assert_close, operands, product, with_out

pytestmark = pytest.mark.skipif(library.why_not() is not None, reason="no compiled library")

SHAPES = [  # m, n, k, group, grouped sides: few rows and many; tails of blocks, chunks and groups
    (1, 1, 1, None, "both"),
    (1, 37, 576, 64, "both"),
    (1, 35, 640, 32, "both"),
    (2, 18, 448, 64, "both"),
    (1, 19, 2050, 32, "right"),
    (1, 9, 392, 128, "left"),
    (1, 21, 500, 48, "both"),
    (2, 35, 1030, 100, "right"),
    (7, 18, 1100, 230, "both"),
    (2, 50, 1301, None, "both"),
    (3, 21, 700, 200, "both"),
    (4, 33, 1026, 256, "left"),
    (5, 6, 77, 25, "both"),
    (13, 40, 2100, None, "both"),
    (7, 3, 97, 1, "left"),
    (27, 70, 1500, 6, "right"),
    (131, 5, 300, 48, "both"),
]
ISAS = (
    ("neondot", "neon", "portable")
    if platform.machine() in ("aarch64", "arm64")
    else ("vnni", "avx2", "portable")
)


def multiply(p, args=None, isa="", layer=0, layers=1):
    """The product with a layer of a stack whose other layers are zero."""
    lhs, lhs_scale, rhs, rhs_scale = map(jnp.asarray, args or operands(p))
    stack = jnp.stack([rhs if i == layer else jnp.zeros_like(rhs) for i in range(layers)])
    scales = jnp.stack([rhs_scale] * layers)
    return integer.run_stacked(p, lhs, lhs_scale, stack, scales, jnp.int32(layer), isa=isa)


def integers(m, n, k, rhs="int8", *, group=None, sides="both", **options):
    """A product of int8 rows with scales per group on the left, the right, or both sides."""
    p = product(m, n, k, "int8", rhs, group=group, lhs_group=sides != "right", **options)
    return dataclasses.replace(p, rhs_scale="row") if sides == "left" else p


@cache
def refusal(isa):
    """What the library says when it is asked for an instruction set; None where there is it."""
    try:
        multiply(integers(1, 1, 1), isa=isa)
    except jax.errors.JaxRuntimeError as error:
        return str(error)
    return None


@pytest.fixture(params=ISAS)
def isa(request):
    if "lacks" in (refusal(request.param) or ""):
        pytest.skip(f"this machine has no {request.param}")
    return request.param


def bits(x):
    return np.asarray(x).view({2: np.uint16, 4: np.uint32}[x.dtype.itemsize])


def test_some_instruction_set_of_this_machine_is_tested():
    assert refusal("portable") is None
    assert "lacks the instructions" in str(refusal("none of those"))


@pytest.mark.parametrize("rhs", ["int8", "int4"])
@pytest.mark.parametrize(("m", "n", "k", "group", "sides"), SHAPES)
def test_shapes(isa, m, n, k, group, rhs, sides):
    p = integers(m, n, k, rhs, group=group, sides=sides, batch=2)
    args = operands(p)
    assert_close(p, multiply(p, args, isa), args)


@st.composite
def random_products(draw):
    size = st.integers(1, 70)
    codes = st.sampled_from(["int8", "int4"])
    return product(
        draw(size),
        draw(size),
        draw(st.integers(1, 400)),
        draw(codes),
        draw(codes),
        batch=draw(st.integers(1, 3)),
        out=draw(st.sampled_from(FLOATS)),
        group=draw(st.sampled_from([None, 1, 7, 8, 16, 32, 50, 64, 128])),
        lhs_group=draw(st.booleans()),
    )


@settings(max_examples=30, deadline=None)
@given(random_products(), st.integers(0, 99))
def test_agrees_with_float64(p, seed):
    args = operands(p, seed)
    assert NATIVE_INT.supports(p) is None
    assert_close(p, NATIVE_INT.run(p, *args), args)


@pytest.mark.parametrize("m", [1, 5])
@pytest.mark.parametrize("k", [64, 1027, INT32_SAFE_K])
@pytest.mark.parametrize("codes", [(-128, -128), (-128, 127), (127, 127)])
def test_the_largest_sums_are_exact(isa, m, k, codes):
    p = integers(m, 3, k)
    lhs, rhs = (
        jnp.full((1, rows, k), code, jnp.int8) for rows, code in zip((m, 3), codes, strict=True)
    )
    one = jnp.ones((1, 1, 1), jnp.float32)
    got = multiply(p, (lhs, jnp.repeat(one, m, 1), rhs, jnp.repeat(one, 3, 1)), isa)
    np.testing.assert_array_equal(np.asarray(got), np.float32(codes[0] * codes[1] * k))


@pytest.mark.parametrize("m", [1, 3, 20])
@pytest.mark.parametrize("rhs", ["int8", "int4"])
@pytest.mark.parametrize("out", FLOATS)
def test_one_group_has_the_bits_of_the_reference(isa, m, rhs, out):
    p = integers(m, 45, 1030, rhs, batch=2, out=out)
    args = operands(p)
    np.testing.assert_array_equal(bits(multiply(p, args, isa)), bits(REFERENCE.run(p, *args)))


@pytest.mark.parametrize("group", [None, 32, 64, 20])
@pytest.mark.parametrize("rhs", ["int8", "int4"])
def test_every_instruction_set_and_number_of_rows_gives_the_same_bits(group, rhs):
    p = integers(140, 40, 1100, rhs, group=group)
    args = operands(p)
    lhs, lhs_scale = map(jnp.asarray, args[:2])
    want = bits(multiply(p, args))
    for isa in (isa for isa in ISAS if refusal(isa) is None):
        for rows in (slice(139, 140), slice(0, 2), slice(7, 11), slice(0, 13), slice(0, 140)):
            part = dataclasses.replace(p, m=rows.stop - rows.start)
            got = multiply(part, (lhs[:, rows], lhs_scale[:, rows], *args[2:]), isa)
            np.testing.assert_array_equal(bits(got), want[:, rows])


ONE_THREAD = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from tests.kernels.test_native_integer import wide
sys.stdout.write(wide().tobytes().hex())
"""


def wide():
    """Products with work for several threads: few rows, and many."""
    few, many = integers(1, 700, 2048, group=64), integers(70, 300, 512, group=64)
    return np.concatenate([bits(multiply(p)).ravel() for p in (few, many)])


@pytest.mark.skipif(sys.platform != "linux", reason="cannot take processors away")
def test_one_thread_gives_the_same_bits():
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", ONE_THREAD]
    alone = subprocess.run(command, env=env, capture_output=True, check=True)
    assert bytes.fromhex(alone.stdout.decode()) == wide().tobytes()


@pytest.mark.parametrize("rhs", ["int8", "int4"])
@pytest.mark.parametrize("m", [1, 9])
def test_a_layer_of_a_stack_is_read_in_place(m, rhs):
    p = integers(m, 30, 192, rhs, group=32, batch=2)
    args = operands(p)
    want = bits(NATIVE_INT.run(p, *args))
    for layer in range(3):
        got = multiply(p, args, layer=layer, layers=3)
        np.testing.assert_array_equal(bits(got), want)


@pytest.mark.parametrize("m", [1, 9])
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, 0.0, 1e-7, 3e-5, 1e3])
@pytest.mark.parametrize("out", FLOATS)
def test_strange_scales_come_through(m, scale, out):
    p = integers(m, 20, 64, group=32, out=out)
    lhs, lhs_scale, rhs, rhs_scale = operands(p)
    args = lhs, jnp.asarray(lhs_scale).at[0, 0, 1].set(scale), rhs, rhs_scale
    got = np.asarray(multiply(p, args), np.float32)
    single = multiply(with_out(p, "float32"), args).astype(out)
    np.testing.assert_array_equal(got, np.asarray(single, np.float32))
    np.testing.assert_allclose(got, np.asarray(REFERENCE.run(p, *args), np.float32), rtol=1e-2)


@pytest.mark.parametrize(("batch", "m", "n"), [(0, 2, 3), (2, 0, 3), (2, 3, 0)])
def test_empty_results(batch, m, n):
    p = integers(m, n, 16, batch=batch)
    assert NATIVE_INT.supports(p) is None
    assert NATIVE_INT.run(p, *operands(p)).shape == (batch, m, n)


def test_what_it_refuses():
    def reason(**changes):
        plain = Product(1, 2, 3, 64, "int8", "int8", "float32", 64, "row", "row")
        return NATIVE_INT.supports(dataclasses.replace(plain, **changes))

    assert reason() is None
    assert reason(rhs="float8_e4m3fn") == "not a product of integer codes"
    assert reason(k=0, group=0) == "nothing to add up"
    assert "int32" in str(reason(k=2**20, group=2**20))
    (m,) = jax.export.symbolic_shape("m")
    assert "symbolic m" in str(reason(m=m))
