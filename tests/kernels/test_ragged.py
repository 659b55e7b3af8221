"""Ragged products on CPU against float64: every type, group sizes of all kinds."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax import export

from qpass_kernels import (
    CPU,
    KERNELS,
    NATIVE_KERNELS,
    REFERENCE,
    RaggedProduct,
    portable,
    select_ragged,
)
from qpass_kernels.ragged_blocks import block_rows
from qpass_kernels.ragged_reference import one_expert
from tests.kernels.ragged_oracle import SIZES, assert_close, operands, ragged, ragged_products

PRODUCTS = [
    ragged(40, 24, 64, 4, "int8", "int8"),
    ragged(40, 24, 64, 4, "int8", "int4", group=16),
    ragged(40, 9, 33, 4, "int8", "int8", group=8, lhs_group=True, out="bfloat16"),
    ragged(40, 24, 64, 4, "float8_e4m3fn", "float8_e4m3fn"),
    ragged(40, 24, 64, 4, "bfloat16", "int4", group=32, out="bfloat16"),
    ragged(40, 24, 64, 4, "float32", "int8"),
]


def run(kernel: Any, p: RaggedProduct, args):
    return jax.jit(kernel.ragged.run, static_argnums=0)(p, *args)


def those_that_take(p: RaggedProduct) -> list[Any]:
    table = (*NATIVE_KERNELS, CPU, REFERENCE)
    return [k for k in table if k.ragged and k.ragged.supports(p) is None]


def rounded_to(kernel: Any, p: RaggedProduct) -> str:
    """XLA's form on CPU rounds grouped weights to the bfloat16 beside them."""
    return "bfloat16" if kernel is CPU and p.lhs == "bfloat16" else "float32"


@pytest.mark.parametrize("p", PRODUCTS, ids=lambda p: f"{p.lhs}-{p.rhs}-{p.group}")
def test_agrees_with_float64(p):
    kernels = those_that_take(p)
    assert len(kernels) >= 2
    for kernel in kernels:
        program = jax.jit(kernel.ragged.run, static_argnums=0)
        for sizes in SIZES.values():
            args = operands(p, sizes)
            assert_close(p, program(p, *args), args, rounded_to(kernel, p))


@settings(max_examples=5, deadline=None)
@given(ragged_products(sizes=20, ks=40))
def test_random_products_agree_with_float64(drawn):
    p, sizes = drawn
    args = operands(p, sizes)
    kernel = those_that_take(p)[0]
    assert_close(p, run(kernel, p, args), args, rounded_to(kernel, p))


def test_the_oracle_sees_a_wrong_expert():
    p = PRODUCTS[0]
    args = operands(p, SIZES["even"])
    wrong = (*args[:4], args[4].at[0].add(1).at[1].add(-1))
    with pytest.raises(AssertionError, match="of the bound"):
        assert_close(p, run(REFERENCE, p, wrong), args)


def test_integer_codes_have_the_bits_of_the_reference():
    p = PRODUCTS[0]
    args = operands(p, SIZES["empty ones"])
    want = np.asarray(run(REFERENCE, p, args))
    for kernel in those_that_take(p):
        np.testing.assert_array_equal(np.asarray(run(kernel, p, args)), want)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_work_on_cpu_is_that_of_the_ragged_product(sizes):
    """XLA counts what a block costs; the loop has as many as the sizes of the groups ask for."""
    p = ragged(1000, 32, 64, 4, "int8", "int8")
    sizes = np.array(sizes) * 25
    block = one_expert(p, block_rows(p.m, p.experts))
    ints = [jax.ShapeDtypeStruct((1, n, p.k), jnp.int8) for n in (block.m, p.n)]
    scales = [jax.ShapeDtypeStruct((1, n, 1), jnp.float32) for n in (block.m, p.n)]
    compiled = jax.jit(CPU.run, static_argnums=0).lower(
        block, ints[0], scales[0], ints[1], scales[1]
    )
    cost = compiled.compile().cost_analysis()
    assert cost
    assert cost["flops"] * np.sum(-(-sizes // block.m)) <= 1.2 * 2 * p.m * p.n * p.k


def test_loop_runs_once_for_each_block():
    """The trip count that the count of work above relies on, as the program has it."""
    p = ragged(1000, 32, 64, 4, "int8", "int8")
    assert CPU.ragged
    traced = jax.make_jaxpr(CPU.ragged.run, static_argnums=0)(p, *operands(p, (250, 0, 300, 7)))
    (loop,) = [eqn for eqn in traced.eqns if eqn.primitive.name == "while"]
    body = loop.params["body_jaxpr"].jaxpr
    dots = [eqn for eqn in body.eqns if eqn.primitive.name == "dot_general"]
    assert [eqn.outvars[0].aval.shape for eqn in dots] == [(1, block_rows(p.m, p.experts), p.n)]


def test_symbolic_rows_are_exported():
    (m,) = export.symbolic_shape("m")
    p = ragged(m, 24, 64, 4, "int8", "int8")
    picked = select_ragged(portable(KERNELS), "cpu", p)
    assert picked.ragged is CPU.ragged
    args = operands(PRODUCTS[0], SIZES["rows left"])
    shapes = [
        jax.ShapeDtypeStruct((m, *a.shape[1:]) if a.shape[0] == 40 else a.shape, a.dtype)
        for a in args
    ]
    exported = export.export(jax.jit(lambda *a: picked.ragged.run(p, *a)))(*shapes)
    assert_close(PRODUCTS[0], exported.call(*args), args)


def test_refusals_are_told_and_other_kinds_passed_over():
    p = ragged(40, 24, 64, 4, "float32", "int8")
    assert select_ragged((NATIVE_KERNELS[0], REFERENCE), "cpu", p).refused == ()
    with pytest.raises(ValueError, match="End the table with"):
        select_ragged((), "cpu", p)
