"""Hopper kernels compiled for an H200: instructions, registers, shared memory."""

import pytest

from qpass_kernels.hopper import HOPPER_KERNELS
from qpass_kernels.tuning.ptxas import compile_and_report
from tests.aot.devices import h200, lower, ragged_shapes, shapes
from tests.aot.products import call, cases, config, found, name, ragged_cases

pytestmark = pytest.mark.aot
CASES, NAMES = cases(HOPPER_KERNELS, closely=True)
RAGGED, RAGGED_NAMES = ragged_cases(HOPPER_KERNELS)
SHORT = {"int8": "s8", "float8_e4m3fn": "e4m3", "float8_e5m2": "e5m2"}
DECODED = {"bfloat16": "bf16", "float16": "f16"}


@pytest.fixture(scope="module")
def seen():
    """Programs that were compiled before: a kernel is compiled once, and not reported again."""
    return set()


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


def compiled(fn, shapes, p, seen):
    """Compile for an H200; return what the assembler says, after looking at it.

    A program that was compiled before in this process has no report.
    """
    device, lowered = h200(), []

    def compile():
        lowered.append(lower(device, fn, *shapes))
        return lowered[0].compile()

    _, reports = compile_and_report(compile)
    text = lowered[0].as_text()
    assert "mosaic_gpu" in text
    assert reports or text in seen
    seen.add(text)
    assert [report.fault for report in reports if report.fault] == []
    if reports:
        used = {types for report in reports for types in report.products}
        assert used
        assert used <= products(p)
    return reports


@pytest.mark.parametrize(("kernel", "p", "number"), CASES, ids=NAMES)
def test_compiles_to_the_tensor_core_without_spills(kernel, p, number, seen, record):
    reports = compiled(call(kernel, p, number), shapes(p), p, seen)
    record("H200", kernel.name, name(p), config(kernel, p, number), **found(reports))


@pytest.mark.parametrize(("kernel", "p", "number"), RAGGED, ids=RAGGED_NAMES)
def test_ragged_products_compile_as_well(kernel, p, number, seen, record):
    reports = compiled(call(kernel, p, number), ragged_shapes(p), p, seen)
    record("H200", kernel.name, name(p), config(kernel, p, number), **found(reports))


def test_every_kernel_is_tried():
    assert {kernel.name for kernel, _, _ in CASES} == {kernel.name for kernel in HOPPER_KERNELS}
