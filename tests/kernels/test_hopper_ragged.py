"""Ragged products on Hopper: in the interpreter against float64, and lowered without a GPU.

The interpreter takes seconds a case, so the cases are few, each with several tails, and all of them
look for races and for reads of what nobody wrote.
"""

import jax
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from qpass_kernels import KERNELS, select_ragged
from qpass_kernels.hopper.ragged import HOPPER_RAGGED, configs
from qpass_kernels.hopper.ragged_kernel import Config
from tests.aot.devices import shapes
from tests.kernels.ragged_oracle import assert_close, operands, ragged

BF16, E4, E5 = "bfloat16", "float8_e4m3fn", "float8_e5m2"
STRICT = {"detect_races": True, "out_of_bounds_reads": "uninitialized"}


def config(m, k):
    return Config(m, k, steps=2, programs=2)


CASES = [  # rows of experts, product, config, what the scaled weight is rounded to
    ((5, 0, 13), ragged(25, 136, 192, 3, "int8", "int8"), config(16, 128), "float32"),
    ((70, 3), ragged(73, 72, 128, 2, E4, E5, out=BF16), config(128, 128), "float32"),
    (
        (3, 17),
        ragged(20, 72, 256, 2, "int8", "int8", group=64, lhs_group=True),
        config(8, 64),
        "float32",
    ),
    ((1, 0, 9), ragged(11, 72, 256, 3, BF16, "int4", group=128), config(8, 128), "float32"),
    ((9, 0), ragged(9, 72, 128, 2, BF16, "int4", group=32, out=BF16), config(16, 64), BF16),
    ((0, 0), ragged(19, 72, 64, 2, BF16, "int8"), config(16, 64), "float32"),
]


@pytest.mark.parametrize(("sizes", "p", "cut", "rounded"), CASES)
def test_every_tail_without_races(sizes, p, cut, rounded):
    assert HOPPER_RAGGED.supports(p) is None
    args = operands(p, sizes)
    params = plgpu.InterpretGPUParams(**STRICT)
    run = jax.jit(lambda *a: HOPPER_RAGGED.run(p, *a, config=cut, interpret=params))
    assert_close(p, run(*args), args, rounded)


LOWERED = [
    ("int8", "int8", None, False),
    (E4, E4, 128, True),
    (E4, E5, 128, False),
    (BF16, "int4", 128, False),
    ("float16", "int8", None, False),
    (BF16, "int4", 32, False),
]


@pytest.mark.parametrize("m", [8, 4096])
@pytest.mark.parametrize(("lhs", "rhs", "group", "lhs_group"), LOWERED)
def test_lowers_for_cuda_without_a_gpu(m, lhs, rhs, group, lhs_group):
    out = BF16 if m == 8 else "float32"
    p = ragged(m, 1000, 1536, 8, lhs, rhs, group=group, lhs_group=lhs_group, out=out)
    assert select_ragged(KERNELS, "cuda", p).ragged is HOPPER_RAGGED
    traced = jax.jit(lambda *a: HOPPER_RAGGED.run(p, *a)).trace(*shapes(p))
    assert "mosaic_gpu_v2" in traced.lower(lowering_platforms=("cuda",)).as_text()


def test_tiles_have_about_as_many_rows_as_an_expert():
    for m, experts, rows in ((1, 128, 8), (256, 8, 32), (8192, 8, 128)):
        found = configs(ragged(m, 1536, 2048, experts, BF16, "int4", group=128))
        assert found[0].m == rows
        assert len(set(found)) == len(found) > 1


@pytest.mark.parametrize(
    ("p", "reason"),
    [
        (ragged("m", 64, 64, 2, "int8", "int8"), "symbolic"),
        (ragged(4, 64, 64, 2, "float32", "int8"), "float32 x int8"),
        (ragged(4, 64, 64, 2, "int8", E4), "int8 x float8_e4m3fn"),
        (ragged(4, 64, 64, 2, "int8", "int4"), "int8 x int4"),
        (ragged(4, 64, 96, 2, "int8", "int8"), "no multiple of 64"),
        (ragged(4, 60, 64, 2, "int8", "int8"), "no multiple of 8"),
        (ragged(4, 64, 140_032, 2, "int8", "int8"), "overflow"),
        (ragged(4, 64, 64, 2, "int8", "int8", group=32), "group 32"),
        (ragged(4, 64, 192, 2, BF16, "int8", group=96), "neither divides 64"),
    ],
)
def test_refuses_with_a_reason(p, reason):
    assert reason in HOPPER_RAGGED.supports(p)
