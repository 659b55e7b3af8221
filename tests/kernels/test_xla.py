"""XLA's own products, run on CPU, against float64; and what they are lowered to."""

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpass_kernels import KERNELS, XLA, select
from tests.kernels.oracle import assert_close, operands, product, products

TAKEN = products(sizes=9, ks=40).filter(lambda p: XLA.supports(p) is None)


@settings(max_examples=12)
@given(TAKEN, st.integers(0, 99))
def test_agrees_with_float64(p, seed):
    args = operands(p, seed)
    got = jax.jit(lambda *a: XLA.run(p, *a))(*args)
    assert_close(p, got, args, p.lhs if p.grouped else "float32")


def test_a_tail_of_a_group_and_a_batch():
    p = product(5, 7, 50, "bfloat16", "int4", group=16, batch=2)
    args = operands(p)
    assert_close(p, XLA.run(p, *args), args, "bfloat16")


@pytest.mark.parametrize(("lhs", "rhs"), [("int8", "int8"), ("float8_e4m3fn", "float8_e5m2")])
def test_codes_are_multiplied_as_they_are(lhs, rhs):
    """Converted operands would be multiplied at a half or a quarter of the speed."""
    p = product(4, 8, 64, lhs, rhs, out="bfloat16")
    jaxpr = jax.make_jaxpr(lambda *a: XLA.run(p, *a))(*operands(p))
    (dot,) = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]
    assert [v.aval.dtype.name for v in dot.invars] == [lhs, rhs]


@pytest.mark.parametrize(
    ("p", "reason"),
    [
        (product(4, 8, 64, "int8", "int8", group=32), "group scales"),
        (product(4, 8, 64, "int8", "float8_e5m2"), "integer codes times fp8"),
        (product(4, 8, 140_000, "int8", "int8"), "overflow"),
        (product(4, 8, 64, "float32", "int8"), "lhs is float32"),
        (product(4, 8, 64, "bfloat16", "float32"), "rounded"),
        (product(4, 8, 64, "bfloat16", "float8_e4m3fnuz"), "no matrix unit"),
    ],
)
def test_refuses_with_a_reason(p, reason):
    assert reason in XLA.supports(p)


def test_is_not_for_cpu():
    p = product(4, 8, 64, "bfloat16", "int8")
    assert select((XLA, *KERNELS), "cpu", p).kernel is not XLA
    assert select((XLA, *KERNELS), "cuda", p).kernel is XLA
