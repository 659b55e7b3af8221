"""Hopper kernels compiled for an H200: instructions, registers, shared memory."""

import pytest

from qpass_kernels.hopper import HOPPER_KERNELS
from tests.aot.devices import assembled, shapes
from tests.aot.products import call, cases, config, found, name, ragged_cases

pytestmark = pytest.mark.aot
CASES, NAMES = cases(HOPPER_KERNELS, closely=True)
RAGGED, RAGGED_NAMES = ragged_cases(HOPPER_KERNELS)
SHORT = {"int8": "s8", "float8_e4m3fn": "e4m3", "float8_e5m2": "e5m2"}
DECODED = {"bfloat16": "bf16", "float16": "f16"}


def products(p):
    """The types of the tensor core's product that the types of the operands ask for.

    Codes of 8 bits have an instruction of their own, with either operand on its left; others are
    decoded to the float beside them, or int4 to the type of the codes beside it.
    """
    if p.lhs in DECODED:
        return {f"f32.{DECODED[p.lhs]}.{DECODED[p.lhs]}"}
    if p.integer:
        exact = {"s32.s8.s8"}
        return exact if p.rhs == "int8" or not p.grouped else exact | {"f32.bf16.bf16"}
    lhs, rhs = SHORT[p.lhs], SHORT[p.rhs]
    return {f"f32.{rhs}.{lhs}", f"f32.{lhs}.{rhs}"}


def judged(reports, p):
    """The reports, once their instructions are those that the types ask for."""
    if reports:
        used = {types for report in reports for types in report.products}
        assert used
        assert used <= products(p)
    return reports


@pytest.mark.parametrize(("kernel", "p", "number"), CASES + RAGGED, ids=NAMES + RAGGED_NAMES)
def test_compiles_to_the_tensor_core_without_spills(kernel, p, number, seen, record):
    reports = judged(assembled(call(kernel, p, number), shapes(p), seen), p)
    record("H200", kernel.name, name(p), config(kernel, p, number), **found(reports))


def test_every_kernel_is_tried():
    assert {kernel.name for kernel, _, _ in CASES} == {kernel.name for kernel in HOPPER_KERNELS}
