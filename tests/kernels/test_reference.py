"""The reference against float64, over shapes, types and tails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export

from qpass_kernels import CPU, REFERENCE, Product
from tests.kernels.oracle import assert_close, operands, product, products

PLAIN = pytest.mark.parametrize("kernel", [REFERENCE, CPU], ids=lambda kernel: kernel.name)


@settings(max_examples=25, deadline=None)
@given(products(), st.integers(0, 99))
def test_agrees_with_float64(p, seed):
    args = operands(p, seed)
    assert_close(p, REFERENCE.run(p, *args), args)


@PLAIN
def test_integer_products_are_exact(kernel):
    p = product(3, 5, 4096, "int8", "int8")
    ones = jnp.ones((1, 1, 1), jnp.float32)
    lhs, rhs = jnp.full((1, 3, 4096), 127, jnp.int8), jnp.full((1, 5, 4096), -127, jnp.int8)
    got = kernel.run(p, lhs, ones.repeat(3, 1), rhs, ones.repeat(5, 1))
    np.testing.assert_array_equal(np.asarray(got), np.float32(-127 * 127 * 4096))


@PLAIN
@pytest.mark.parametrize("m", [1, 2])
def test_long_integer_sums_do_not_wrap(kernel, m):
    k = 140_000
    p = product(m, 2, k, "int8", "int8")
    ones = jnp.ones((1, 2, 1), jnp.float32)
    codes = jnp.full((1, 2, k), 127, jnp.int8)
    got = kernel.run(p, codes[:, :m], ones[:, :m], codes, ones)
    # a float32 sum of equal terms drifts; a wrapped int32 would be off by its sign
    np.testing.assert_allclose(np.asarray(got), 127.0 * 127.0 * k, rtol=1e-4)


@PLAIN
@pytest.mark.parametrize("group", [None, 16])
@pytest.mark.parametrize(("lhs", "rhs"), [("float32", "int4"), ("int8", "int8")])
def test_m_may_be_symbolic(kernel, group, lhs, rhs):
    (m,) = export.symbolic_shape("m")
    real = product(7, 300, 2000, lhs, rhs, batch=2, group=group)
    p = Product(**(vars(real) | {"m": m}))
    assert kernel.supports(p) is None
    args = operands(real)
    shapes = tuple(
        x if x is None else jax.ShapeDtypeStruct((2, m if i < 2 else 300, x.shape[2]), x.dtype)
        for i, x in enumerate(args)
    )
    exported = export.export(jax.jit(lambda *a: kernel.run(p, *a)))(*shapes)
    assert_close(real, exported.call(*args), args)


@pytest.mark.parametrize("group", [None, 16])
def test_batch_may_be_symbolic(group):
    batch, m = export.symbolic_shape("b, m")
    real = product(3, 5, 40, "float32", "int8", batch=2, group=group)
    p = Product(**(vars(real) | {"batch": batch, "m": m}))
    assert p.symbolic == ("batch", "m")
    x, none, w, s = operands(real)
    shapes = (
        jax.ShapeDtypeStruct((batch, m, 40), x.dtype),
        jax.ShapeDtypeStruct((batch, 5, 40), w.dtype),
        jax.ShapeDtypeStruct((batch, 5, p.groups), s.dtype),
    )
    exported = export.export(jax.jit(lambda x, w, s: REFERENCE.run(p, x, None, w, s)))(*shapes)
    assert_close(real, exported.call(x, w, s), (x, none, w, s))
    assert "batch symbolic" in CPU.supports(p)


@PLAIN
@pytest.mark.parametrize("group", [None, 32])
@pytest.mark.parametrize(("lhs", "rhs"), [("float32", "int4"), ("int8", "int4")])
def test_runs_inside_shard_map(kernel, group, lhs, rhs):
    p = product(3, 300, 2048, lhs, rhs, group=group)
    args = operands(p)
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec(None, "x")
    run = jax.shard_map(
        lambda *a: kernel.run(p, *a),
        mesh=mesh,
        in_specs=(
            jax.sharding.PartitionSpec(),
            None if args[1] is None else jax.sharding.PartitionSpec(),
            rows,
            rows,
        ),
        out_specs=jax.sharding.PartitionSpec(None, None, "x"),
    )
    assert_close(p, jax.jit(run)(*args), args)
