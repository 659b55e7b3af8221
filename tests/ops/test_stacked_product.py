"""A product with one layer of a stack equals the product with that layer cut out, bit for bit."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass.graph.text import aval_text
from qpass.ops.matmul import quantized_matmul
from qpass_kernels import KERNELS, REFERENCE, Kernel

S, B, M, N, K = 3, 2, 4, 6, 8
TABLES = {"table": KERNELS, "reference": (REFERENCE,)}
# lhs dtype, rhs dtype, elements of K that share a scale
CASES = [
    ("int8", "int8", K),
    ("int8", "int8", 4),
    ("int8", "int4", K),
    ("float32", "int8", K),
    ("float32", "int4", 4),
    ("bfloat16", "float8_e4m3fn", K),
]


def operands(lhs, rhs, group, seed=0):
    """lhs, its scale, and stacks of rhs and of its scale."""
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.integers(-8, 8, (B, M, K)), lhs)
    stack = jnp.asarray(rng.integers(-8, 8, (S, B, N, K)), rhs)
    x_scale = scales(rng, B, M, K // group) if "int" in lhs else None
    return x, x_scale, stack, scales(rng, S, B, N, K // group)


def scales(rng, *shape):
    return jnp.asarray(rng.uniform(1, 2, shape), jnp.float32)


def of(kernels, group):
    return partial(quantized_matmul, group=group, out="float32", kernels=kernels)


def assert_same(got, wanted):
    np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))


@pytest.mark.parametrize("kernels", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize(("lhs", "rhs", "group"), CASES)
def test_every_layer(lhs, rhs, group, kernels):
    x, x_scale, stack, scale = operands(lhs, rhs, group)
    product = of(kernels, group)
    in_place = jax.jit(lambda i: product(x, x_scale, stack, scale, index=i))
    cut_out = jax.jit(lambda i: product(x, x_scale, stack[i], scale[i]))
    for i in range(S):
        assert_same(in_place(i), cut_out(i))


@pytest.mark.parametrize("mapped", ["x", "stack", "index", "x and stack", "all"])
def test_vmap(mapped):
    many = jax.tree.map(lambda *a: jnp.stack(a), *(operands("int8", "int8", 4, k) for k in (0, 1)))
    args = (*many, jnp.arange(2))
    axes = (
        *(0 if "x" in mapped or mapped == "all" else None,) * 2,
        *(0 if "stack" in mapped or mapped == "all" else None,) * 2,
        0 if mapped in ("index", "all") else None,
    )
    args = [a if axis == 0 else a[0] for a, axis in zip(args, axes, strict=True)]

    def product(*args):
        return of(KERNELS, 4)(*args[:4], index=args[4])

    got = jax.vmap(product, axes)(*args)
    for k in range(2):
        one = [a[k] if axis == 0 else a for a, axis in zip(args, axes, strict=True)]
        assert_same(got[k], jax.jit(product)(*one))


def test_vmap_over_the_activation_keeps_the_stack():
    x, x_scale, stack, scale = operands("int8", "int8", K)
    mapped = jax.vmap(lambda x, s: of(KERNELS, K)(x, s, stack, scale, index=jnp.int32(1)))
    five = jax.tree.map(lambda a: jnp.stack([a] * 5), (x, x_scale))
    jaxpr = jax.make_jaxpr(mapped)(*five)
    (eqn,) = [e for e in jaxpr.eqns if e.primitive.name == "quantized_matmul"]
    assert [aval_text(v.aval) for v in eqn.invars[:2]] == ["i8[2,20,8]", "i8[3,2,6,8]"]


def test_a_kernel_that_reads_layers_in_place_gets_the_stack():
    seen = []

    def run(product, lhs, lhs_scale, rhs, rhs_scale):
        raise AssertionError("the layer was cut out")

    def run_stacked(product, lhs, lhs_scale, stack, stack_scale, index):
        seen.append((product.n, product.k, stack.shape, stack_scale.shape, index.dtype))
        return jnp.zeros((product.batch, product.m, product.n), product.out)

    kernel = Kernel("mine", (), lambda product: None, run, run_stacked=run_stacked)
    x, x_scale, stack, scale = operands("int8", "int8", 4)
    of((kernel,), 4)(x, x_scale, stack, scale, index=jnp.int32(1))
    assert seen == [(N, K, (S, B, N, K), (S, B, N, 2), jnp.int32)]
