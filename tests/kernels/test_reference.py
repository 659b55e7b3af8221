"""The reference against float64, over shapes, types and tails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export

from qpass_kernels import REFERENCE, Product
from qpass_kernels.cpu import CPU
from qpass_kernels.kernel import CODES, FLOATS
from tests.kernels.oracle import assert_close, operands, product

ACTS = ("int8", "float8_e4m3fn", "float8_e5m2")


@st.composite
def products(draw):
    size = st.integers(1, 40)
    lhs = draw(st.sampled_from(ACTS + FLOATS))
    group = draw(st.none() | st.integers(1, 24))
    return product(
        draw(size),
        draw(size),
        draw(st.integers(1, 70)),
        lhs,
        draw(st.sampled_from(CODES)),
        batch=draw(st.integers(1, 3)),
        out=draw(st.sampled_from(FLOATS)),
        group=group,
        lhs_group=draw(st.booleans()),
    )


@settings(max_examples=40, deadline=None)
@given(products(), st.integers(0, 99))
def test_agrees_with_float64(p, seed):
    args = operands(p, seed)
    assert_close(p, REFERENCE.run(p, *args), args)


@settings(max_examples=40, deadline=None)
@given(products(), st.integers(0, 99))
def test_cpu_agrees_with_float64(p, seed):
    args = operands(p, seed)
    assert CPU.supports(p) is None
    assert_close(p, CPU.run(p, *args), args)


@pytest.mark.parametrize("kernel", [REFERENCE, CPU], ids=lambda k: k.name)
def test_integer_products_are_exact(kernel):
    p = product(3, 5, 4096, "int8", "int8")
    ones = jnp.ones((1, 1, 1), jnp.float32)
    lhs, rhs = jnp.full((1, 3, 4096), 127, jnp.int8), jnp.full((1, 5, 4096), -127, jnp.int8)
    got = kernel.run(p, lhs, ones.repeat(3, 1), rhs, ones.repeat(5, 1))
    np.testing.assert_array_equal(np.asarray(got), np.float32(-127 * 127 * 4096))


@pytest.mark.parametrize("kernel", [REFERENCE, CPU], ids=lambda k: k.name)
@pytest.mark.parametrize("m", [1, 2])
def test_long_integer_sums_do_not_wrap(kernel, m):
    k = 140_000
    p = product(m, 2, k, "int8", "int8")
    ones = jnp.ones((1, 2, 1), jnp.float32)
    codes = jnp.full((1, 2, k), 127, jnp.int8)
    got = kernel.run(p, codes[:, :m], ones[:, :m], codes, ones)
    np.testing.assert_allclose(np.asarray(got), 127.0 * 127.0 * k, rtol=1e-4)  # float32 drift


@pytest.mark.parametrize("group", [None, 16])
def test_batch_and_m_may_be_symbolic(group):
    batch, m = export.symbolic_shape("b, m")
    p = Product(
        batch,
        m,
        5,
        40,
        "float32",
        "int8",
        "float32",
        group or 40,
        "none",
        "group" if group else "row",
    )
    assert p.symbolic == ("batch", "m")
    shapes = (
        jax.ShapeDtypeStruct((batch, m, 40), jnp.float32),
        jax.ShapeDtypeStruct((batch, 5, 40), jnp.int8),
        jax.ShapeDtypeStruct((batch, 5, p.groups), jnp.float32),
    )
    exported = export.export(jax.jit(lambda x, w, s: REFERENCE.run(p, x, None, w, s)))(*shapes)
    real = product(3, 5, 40, "float32", "int8", batch=2, group=group)
    x, none, w, s = operands(real)
    assert_close(real, exported.call(x, w, s), (x, none, w, s))
