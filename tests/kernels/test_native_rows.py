"""Rows quantized by compiled code against the formula: the same bits, whatever the numbers."""

import os
import platform
import subprocess
import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpass.numerics import int8, quantize
from qpass.numerics.casts import as_f32
from qpass_kernels.kernel import FLOATS
from qpass_kernels.native import library, rows
from qpass_kernels.native.rows import NATIVE_ROWS
from qpass_kernels.row_quantizer import Rows

pytestmark = pytest.mark.skipif(library.why_not() is not None, reason="no compiled library")

ISAS = (
    ("portable",) if platform.machine() in ("aarch64", "arm64") else ("avx512", "avx2", "portable")
)
SHAPES = [  # rows, k, group: tails of vectors and of groups, and rows for several threads
    (1, 1, 1),
    (1, 576, 576),
    (2, 17, 4),
    (3, 64, 1),
    (3, 100, 32),
    (5, 1301, 1301),
    (9, 576, 64),
    (700, 300, 70),
]


@partial(jax.jit, static_argnums=1)
def formula(x, group):
    q = quantize(x, int8.grouped(group), (1,))
    return q.codes, q.scale


@partial(jax.jit, static_argnums=(1, 2))
def native(x, group, isa=""):
    m, k = x.shape
    return rows.run(Rows(m, k, group, x.dtype.name), as_f32(x), isa)


def assert_same(x, group, isa=""):
    codes, scale = map(np.asarray, native(x, group, isa))
    want, want_scale = map(np.asarray, formula(x, group))
    np.testing.assert_array_equal(codes, want)
    np.testing.assert_array_equal(scale.view(np.uint32), want_scale.view(np.uint32))


def array(values, dtype):
    with np.errstate(over="ignore"):
        return jnp.asarray(np.asarray(values).astype(jnp.dtype(dtype)))


@cache
def refusal(isa):
    """What the library says when it is asked for an instruction set; None where there is it."""
    try:
        native(jnp.ones((1, 1)), 1, isa)[0].block_until_ready()
    except jax.errors.JaxRuntimeError as error:
        return str(error)
    return None


@pytest.fixture(params=ISAS)
def isa(request):
    if "lacks" in (refusal(request.param) or ""):
        pytest.skip(f"this machine has no {request.param}")
    return request.param


def test_some_instruction_set_of_this_machine_is_tested():
    assert refusal("portable") is None
    assert "lacks the instructions" in str(refusal("none of those"))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("m", "k", "group"), SHAPES)
def test_shapes(isa, m, k, group, dtype):
    rng = np.random.default_rng(0)
    spread = np.exp(5 * rng.standard_normal((m, k)))
    assert_same(array(rng.standard_normal((m, k)) * spread, dtype), group, isa)


@pytest.mark.parametrize("dtype", FLOATS)
def test_scales(isa, dtype):
    """Rows of every magnitude from below the least number to beyond the greatest."""
    rng = np.random.default_rng(1)
    magnitudes = np.repeat(2.0 ** np.arange(-152, 130), 6)
    assert_same(
        array(rng.standard_normal((len(magnitudes), 37)) * magnitudes[:, None], dtype), 37, isa
    )


def special(dtype):
    info = jnp.finfo(dtype)
    ends = (info.max, info.tiny, info.smallest_subnormal, np.inf, 1, 0)
    inner = (float(info.max) * 0.996, float(info.tiny) * 0.6)
    return [sign * float(x) for x in (*ends, *inner) for sign in (1, -1)] + [np.nan]


@pytest.mark.parametrize("group", [5, 2])
@pytest.mark.parametrize("dtype", FLOATS)
def test_zeros_infinities_nan_and_the_ends_of_the_type(isa, dtype, group):
    drawn = np.random.default_rng(2).choice(special(dtype), (3000, 5))
    assert_same(array(drawn, dtype), group, isa)


@pytest.mark.parametrize("dtype", FLOATS)
def test_where_the_greatest_number_bounds_the_scale(isa, dtype):
    """Both sides about as large as can be: the scale is cut, or half a step larger."""
    rng = np.random.default_rng(3)
    signs = rng.choice([-1, 1], (4000, 3))
    assert_same(
        array(signs * float(jnp.finfo(dtype).max) * rng.uniform(0.98, 1, (4000, 3)), dtype), 3, isa
    )


def test_ties_go_to_the_even_code(isa):
    ties = np.arange(-127.5, 127, dtype=np.float32)
    x = jnp.asarray(np.append(ties, -128)[None])
    assert_same(x, x.shape[1], isa)
    codes, scale = native(x, x.shape[1], isa)
    assert scale == 1
    np.testing.assert_array_equal(codes[0, :3], [-128, -126, -126])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(width=32), min_size=1, max_size=40),
    st.integers(1, 12),
)
def test_any_floats(values, group):
    x = jnp.asarray(np.array(values, np.float32)[None])
    assert_same(x, min(group, x.shape[1]))


def wide():
    x = np.random.default_rng(4).standard_normal((700, 600)).astype(np.float32) * 2.0**-124
    return b"".join(np.asarray(a).tobytes() for a in native(jnp.asarray(x), 100))


ONE_THREAD = """
import os
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
from tests.kernels.test_native_rows import wide
print(wide().hex())
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be counted here")
def test_one_thread_gives_the_same_bits():
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    alone = subprocess.run(
        [sys.executable, "-c", ONE_THREAD], env=env, capture_output=True, check=True
    )
    assert bytes.fromhex(alone.stdout.decode()) == wide()


@pytest.mark.parametrize(
    ("refused", "why"),
    [
        (Rows(0, 8, 8, "float32"), "nothing to quantize"),
        (Rows(2, 0, 0, "float32"), "nothing to quantize"),
        (Rows(2, 8, 8, "float64"), "float64"),
        (Rows(jax.export.symbolic_shape("n")[0], 8, 8, "float32"), "symbolic"),
    ],
)
def test_what_it_refuses(refused, why):
    assert why in str(NATIVE_ROWS.supports(refused))
