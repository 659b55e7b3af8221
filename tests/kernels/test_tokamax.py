"""Ragged products by tokamax: which, and against float64 where it is installed (on CPU, by XLA)."""

from importlib.util import find_spec

import jax
import pytest

from qpass_kernels import KERNELS, select, select_ragged
from qpass_kernels.tokamax import MISSING, TOKAMAX, supports
from tests.kernels.oracle import product
from tests.kernels.ragged_oracle import SIZES, assert_close, operands, ragged

BF16 = "bfloat16"
IS_HERE = find_spec("tokamax") is not None
TABLE = (TOKAMAX, *KERNELS)


@pytest.mark.skipif(IS_HERE, reason="tokamax is installed")
def test_without_the_package_the_next_kernel_is_taken():
    chosen = select_ragged(TABLE, "cuda", ragged(64, 128, 128, 4, BF16, "int8"))
    assert chosen.refused[0] == ("tokamax", MISSING)
    assert chosen.ragged.name == "hopper_ragged"


def test_dense_products_go_to_the_next_kernel():
    chosen = select(TABLE, "cuda", product(64, 128, 128, BF16, "int8"))
    assert chosen.refused[0] == ("tokamax", "takes ragged products only")


@pytest.mark.parametrize(
    ("p", "reason"),
    [
        (ragged(8, 8, 64, 2, "int8", "int8"), "int8 x int8"),
        (ragged(8, 8, 64, 2, "float32", "int8"), "float32 x int8"),
        (ragged(8, 8, 64, 2, BF16, "int8", group=48), "k = 64 is no multiple of the group 48"),
        (ragged(8, 8, 64, 2, BF16, "int4", group=32), None),
    ],
)
def test_what_it_takes(p, reason, monkeypatch):
    monkeypatch.setattr("qpass_kernels.tokamax.find_spec", lambda name: object())
    assert supports(p) == reason


@pytest.mark.skipif(not IS_HERE, reason="tokamax is not installed (pip install tokamax)")
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("rhs", "group"), [("int8", None), ("int4", 32), ("int8", 16)])
def test_against_float64(sizes, rhs, group):
    p = ragged(40, 24, 64, 4, BF16, rhs, group=group)
    args = operands(p, SIZES[sizes])
    assert_close(p, jax.jit(lambda *a: TOKAMAX.ragged.run(p, *a))(*args), args, BF16)
