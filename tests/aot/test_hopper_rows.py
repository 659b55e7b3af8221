"""Rows of activations quantized on Hopper, compiled for an H200."""

import jax
import pytest

from qpass_kernels.hopper.rows import HOPPER_ROWS
from qpass_kernels.row_quantizer import Rows
from tests.aot.devices import assembled
from tests.aot.products import found

pytestmark = pytest.mark.aot
CASES = [
    Rows(1, 4096, 4096, "bfloat16"),
    Rows(1, 14336, 14336, "bfloat16"),
    Rows(3, 14336, 14336, "float32"),
    Rows(4096, 8192, 8192, "float16"),
    Rows(7, 640, 640, "bfloat16"),
    Rows(1, 4096, 128, "bfloat16"),
    Rows(4096, 4096, 128, "bfloat16"),
    Rows(64, 8192, 256, "float32"),
    Rows(32, 640, 32, "float16"),
]


@pytest.mark.parametrize("rows", CASES, ids=str)
def test_compiles_without_spills(rows, seen, record):
    assert HOPPER_ROWS.supports(rows) is None
    x = jax.ShapeDtypeStruct((rows.rows, rows.k), rows.dtype)
    reports = assembled(lambda x: HOPPER_ROWS.run(rows, x), (x,), seen)
    record("H200", "rows", str(rows), "", **found(reports))
