"""Ragged products on TPU: in the interpreter against float64, and lowered for TPUs not there."""

import jax
import pytest
from jax.experimental.pallas import tpu as pltpu

from qpass_kernels import KERNELS, select_ragged
from qpass_kernels.tpu import TPU_CODES, TPU_DECODED, TPU_KERNELS
from qpass_kernels.tpu.blocks import Config
from tests.aot.devices import shapes
from tests.kernels.ragged_oracle import assert_close, operands, ragged

BF16, E4 = "bfloat16", "float8_e4m3fn"
SIZES = [(5, 0, 9, 11), (0, 0, 0, 0), (16, 8, 0, 5), (0, 29, 0, 0)]
CASES = [  # product, config, what the scaled weight is rounded to
    (ragged(29, 130, 300, 4, "int8", "int8"), Config(8, 128, 128), "float32"),
    (ragged(29, 130, 300, 4, E4, E4, group=128, lhs_group=True), Config(8, 128, 128), "float32"),
    (ragged(29, 130, 300, 4, BF16, "int4", group=128), Config(16, 128, 128), "float32"),
    (ragged(29, 130, 200, 4, BF16, "int8", group=32, out=BF16), Config(8, 128, 128, True), BF16),
]


@pytest.mark.parametrize(("p", "cut", "rounded"), CASES)
def test_agrees_with_float64(p, cut, rounded):
    ragged = select_ragged(TPU_KERNELS, "tpu", p).ragged
    run = jax.jit(lambda *a: ragged.run(p, *a, config=cut, interpret=True))
    for sizes in SIZES:
        args = operands(p, sizes)
        assert_close(p, run(*args), args, rounded)


def test_agrees_in_the_interpreter_that_watches_for_races():
    p = ragged(19, 130, 200, 3, "int8", "int8")
    watch = pltpu.InterpretParams(detect_races=True, out_of_bounds_reads="uninitialized")
    args = operands(p, (9, 0, 7))
    cut = Config(8, 128, 128)
    run = jax.jit(lambda *a: TPU_CODES.ragged.run(p, *a, config=cut, interpret=watch))
    assert_close(p, run(*args), args)


LOWERED = [
    ("int8", "int8", None, False),
    (E4, E4, 128, True),
    (BF16, "int4", 128, False),
    ("float32", "int4", 32, False),
]


@pytest.mark.parametrize("m", [8, 4096])
@pytest.mark.parametrize(("lhs", "rhs", "group", "lhs_group"), LOWERED)
def test_lowers_for_tpu_without_one(m, lhs, rhs, group, lhs_group):
    p = ragged(m, 1536, 2048, 8, lhs, rhs, group=group, lhs_group=lhs_group, out=BF16)
    chosen = select_ragged(KERNELS, "tpu", p).ragged
    assert chosen.name == ("tpu_decoded" if lhs in (BF16, "float32") else "tpu_codes")
    traced = jax.jit(lambda *a: chosen.run(p, *a)).trace(*shapes(p))
    assert "tpu_custom_call" in traced.lower(lowering_platforms=("tpu",)).as_text()


def test_blocks_have_about_as_many_rows_as_an_expert():
    for m, experts, rows in ((8, 128, 8), (4096, 128, 128), (1500, 8, 256), (8192, 8, 512)):
        found = TPU_DECODED.ragged.configs(ragged(m, 1536, 2048, experts, BF16, "int4", group=128))
        assert found[0].m == rows


@pytest.mark.parametrize(
    ("p", "reason"),
    [
        (ragged("m", 64, 64, 2, "int8", "int8"), "symbolic"),
        (ragged(4, 64, 64, 2, "float16", "int8"), "float16"),
        (ragged(4, 64, 64, 2, "float32", "int8", group=12), "multiple of 8"),
    ],
)
def test_refuses_with_a_reason(p, reason):
    assert reason in TPU_DECODED.ragged.supports(p)
