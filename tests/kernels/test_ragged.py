"""Ragged products on CPU against float64: every type, group sizes of all kinds."""

import jax
import pytest

from qpass_kernels import REFERENCE, RaggedProduct
from tests.kernels.ragged_oracle import SIZES, assert_close, operands, ragged

PRODUCTS = [
    ragged(40, 24, 64, 4, "int8", "int8"),
    ragged(40, 24, 64, 4, "int8", "int4", group=16),
    ragged(40, 9, 33, 4, "int8", "int8", group=8, lhs_group=True, out="bfloat16"),
    ragged(40, 24, 64, 4, "float8_e4m3fn", "float8_e4m3fn"),
    ragged(40, 24, 64, 4, "bfloat16", "int4", group=32, out="bfloat16"),
    ragged(40, 24, 64, 4, "float32", "int8"),
]


def run(ragged_matmul, p: RaggedProduct, args):
    return jax.jit(ragged_matmul.run, static_argnums=0)(p, *args)


@pytest.mark.parametrize("p", PRODUCTS, ids=lambda p: f"{p.lhs}-{p.rhs}-{p.group}")
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_reference_agrees_with_float64(p, sizes):
    args = operands(p, sizes)
    assert_close(p, run(REFERENCE.ragged, p, args), args)


def test_the_oracle_sees_a_wrong_expert():
    p = PRODUCTS[0]
    args = operands(p, SIZES["even"])
    wrong = (*args[:4], args[4].at[0].add(1).at[1].add(-1))
    with pytest.raises(AssertionError, match="of the bound"):
        assert_close(p, run(REFERENCE.ragged, p, wrong), args)
