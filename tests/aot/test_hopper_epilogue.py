"""Hopper kernels with something after the product, compiled for an H200."""

from dataclasses import replace

import pytest

from qpass_kernels.epilogue import Epilogue
from qpass_kernels.hopper import HOPPER_KERNELS
from tests.aot.devices import assembled, shapes
from tests.aot.products import call, config, ends, found, name
from tests.kernels.oracle import product
from tests.kernels.oracle_epilogue import ALL, abstract

pytestmark = pytest.mark.aot
OTHERS = (Epilogue(bias=True, activation="gelu"), Epilogue(activation="gelu_tanh", residual=True))
E4 = "float8_e4m3fn"
KINDS = [
    ("int8", "int8", None, False),
    ("int8", "int8", 128, False),
    ("int8", "int8", 128, True),
    ("int8", "int4", None, False),
    (E4, E4, None, False),
    (E4, E4, 128, True),
    ("bfloat16", "int4", 128, False),
    ("bfloat16", "int4", 32, False),
    ("bfloat16", "int8", None, False),
]
SIZES = [(16, 4096, 4096), (100, 1000, 576), (4096, 4096, 4096)]
PRODUCTS = [
    product(*size, lhs, rhs, group=group, lhs_group=lhs_group, out="bfloat16")
    for size in SIZES
    for lhs, rhs, group, lhs_group in KINDS
]


def _cases():
    """Settings at the ends with the longest epilogue, the default with the others."""
    for p in PRODUCTS:
        kernel = next(k for k in HOPPER_KERNELS if k.meant_for(p) and k.supports(p) is None)
        for epilogue in (ALL, *OTHERS):
            whole = replace(p, epilogue=epilogue)
            first = [0] * kernel.fuses(whole)
            for number in ends(kernel.configs(whole)) if epilogue == ALL else first:
                yield kernel, whole, number


CASES = list(_cases())


@pytest.mark.parametrize(
    ("kernel", "p", "number"),
    CASES,
    ids=[f"{k.name}-{name(p)}-{p.epilogue.activation}-{i}" for k, p, i in CASES],
)
def test_compiles_without_spills(kernel, p, number, seen, record):
    assert kernel.fuses(p)
    # where K is split the kernel is that of the bare product: what follows comes after the sums
    reports = assembled(call(kernel, p, number), (*shapes(p), *abstract(p)), seen)
    product = f"{name(p)}, {p.epilogue}"
    record("H200", kernel.name, product, config(kernel, p, number), **found(reports))
