"""What the Hopper kernels do after a product: interpreted against float64, lowered without a GPU.

The interpreter looks for races, and for reads of what nobody wrote.
"""

from dataclasses import replace
from functools import partial

import jax
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from qpass_kernels import select
from qpass_kernels.epilogue import Epilogue
from qpass_kernels.hopper import HOPPER_DECODED, HOPPER_KERNELS
from qpass_kernels.hopper.few_rows import FewRows
from qpass_kernels.hopper.many_rows import ManyRows
from qpass_kernels.hopper.work import Config
from tests.aot.devices import shapes
from tests.kernels.oracle import product
from tests.kernels.oracle_epilogue import ALL, abstract, assert_close, operands

BIAS = Epilogue(bias=True, activation="gelu")
GATED = Epilogue(activation="gelu_tanh", multiply=True)
E4 = "float8_e4m3fn"
FEW = Config(16, 64, steps=2, turned=True, blocks=2)
MANY = Config(128, 64, steps=2, slots=1, blocks=1)


slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("p", "config", "epilogue"),
    [
        (product(13, 72, 96, "int8", "int8", batch=2), FEW, ALL),
        (product(137, 88, 96, "int8", "int8", out="bfloat16"), MANY, ALL),
        (product(13, 72, 128, "bfloat16", "int4", group=64), FewRows(16, 64, 2, 2), ALL),
        (product(70, 88, 64, "bfloat16", "int8"), ManyRows(64, 64, 2, "codes", 2), ALL),
        (product(21, 70, 100, "int8", "int4", out="bfloat16"), None, ALL),
        slow(product(5, 136, 416, "int8", "int8", out="bfloat16"), replace(FEW, split=2), ALL),
        slow(product(70, 72, 64, "int8", "int8", group=64), replace(MANY, k=64), BIAS),
        slow(product(21, 272, 128, E4, E4, group=128, lhs_group=True), None, GATED),
        slow(product(5, 136, 128, "float16", "int8"), FewRows(8, 64, 2, 1, 2), ALL),
        slow(product(70, 88, 128, "bfloat16", "int4", group=32), None, BIAS),
    ],
)
def test_every_tail_without_races(p, config, epilogue):
    p = replace(p, epilogue=epilogue)
    args = operands(p)
    kernel = select(HOPPER_KERNELS, "cuda", p).kernel
    params = plgpu.InterpretGPUParams(detect_races=True, out_of_bounds_reads="uninitialized")
    chosen = {} if config is None else {"config": config}
    got = jax.jit(lambda *a: kernel.run(p, *a, **chosen, interpret=params))(*args)
    assert_close(p, got, args, dequantized="bfloat16" if p.lhs == "bfloat16" else "float32")


P = product(100, 1000, 576, "int8", "int8", out="bfloat16")


@pytest.mark.parametrize(
    ("p", "epilogue"),
    [
        (P, ALL),
        (P, BIAS),
        (P, GATED),
        (product(16, 4096, 4096, "int8", "int8", group=128, lhs_group=True, out="bfloat16"), ALL),
        (product(1, 4096, 4096, "bfloat16", "int4", group=128, out="bfloat16"), ALL),
        (product(4096, 4096, 4096, "bfloat16", "int8", out="bfloat16"), ALL),
        (product(100, 1000, 576, "int8", "int4", out="float32"), ALL),
    ],
)
def test_default_lowers_for_cuda_without_a_gpu(p, epilogue):
    p = replace(p, epilogue=epilogue)
    picked = select(HOPPER_KERNELS, "cuda", p)
    assert picked.product == p
    traced = jax.jit(lambda *a: picked.kernel.run(p, *a)).trace(*shapes(p), *abstract(p))
    assert "mosaic_gpu_v2" in traced.lower(lowering_platforms=("cuda",)).as_text()


def test_every_kernel_fuses_what_it_can():
    p = product(16, 64, 64, "int8", "int8")
    assert all(kernel.fuses(replace(p, epilogue=ALL)) for kernel in HOPPER_KERNELS)
    assert not HOPPER_DECODED.fuses(replace(p, epilogue=BIAS))
