"""The Hopper kernels for 8-bit codes: interpreted against float64, and lowered without a GPU.

The interpreter takes seconds a case, so the cases are few, each with several tails, and all of them
look for races and for reads of what nobody wrote.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from qpass_kernels import KERNELS, REFERENCE, select
from qpass_kernels.hopper import HOPPER_CODES, HOPPER_KERNELS, HOPPER_SUBCHANNEL
from qpass_kernels.hopper.work import Config
from tests.aot.devices import shapes
from tests.kernels.oracle import assert_close, operands, product

E4, E5 = "float8_e4m3fn", "float8_e5m2"
FEW = Config(16, 64, steps=2, turned=True, blocks=2)
MANY = Config(128, 64, steps=2, slots=1, blocks=1)


def interpreted(p, config, args):
    kernel = select(HOPPER_KERNELS, "cuda", p).kernel
    params = plgpu.InterpretGPUParams(detect_races=True, out_of_bounds_reads="uninitialized")
    return jax.jit(lambda *a: kernel.run(p, *a, config=config, interpret=params))(*args)


@pytest.mark.parametrize(
    ("p", "config"),
    [
        (product(13, 72, 288, "int8", "int8", batch=2), FEW),
        (product(5, 136, 416, "int8", "int8", out="bfloat16"), replace(FEW, split=2)),
        (product(137, 88, 160, "int8", "int8"), MANY),
        (product(137, 72, 288, "int8", "int8"), replace(MANY, m=64, pairs=True, blocks=2)),
        (product(9, 72, 160, E4, E5), None),
        (product(70, 24, 320, "int8", "int8", group=64), replace(MANY, k=64)),
        (product(21, 264, 288, E4, E4, group=128, lhs_group=True), Config(64, 256, steps=2)),
        (product(21, 72, 544, E5, E4, group=256), replace(FEW, m=32, split=3)),
    ],
)
def test_every_tail_without_races(p, config):
    args = operands(p)
    got = interpreted(p, config, args)
    assert_close(p, got, args)
    if p.integer and not p.grouped:
        assert jnp.array_equal(got, REFERENCE.run(p, *args))


SHAPES = [(1, 4096, 4096), (16, 14336, 4096), (100, 1000, 576), (300, 4096, 4096), (4096,) * 3]
KINDS = [
    ("int8", "int8", None, False),
    (E4, E5, None, False),
    ("int8", "int8", 64, False),
    (E4, E4, 128, True),
    ("int8", "int8", 256, False),
]


@pytest.mark.parametrize("size", SHAPES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}-{kind[2]}")
def test_default_lowers_for_cuda_without_a_gpu(size, kind):
    (m, n, k), (lhs, rhs, group, lhs_group) = size, kind
    p = product(m, n, k, lhs, rhs, group=group, lhs_group=lhs_group, out="bfloat16")
    kernel = HOPPER_SUBCHANNEL if group else HOPPER_CODES
    assert select(KERNELS, "cuda", p).kernel is kernel
    traced = jax.jit(lambda *a: kernel.run(p, *a)).trace(*shapes(p))
    assert "mosaic_gpu_v2" in traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("n", [8, 24, 1000, 4096])
@pytest.mark.parametrize("m", [7, 65])
@pytest.mark.parametrize("out", ["float32", "bfloat16"])
def test_every_tail_of_the_result_lowers(m, n, out):
    p = product(m, n, 96, "int8", "int8", out=out)
    traced = jax.jit(lambda *a: HOPPER_CODES.run(p, *a)).trace(*shapes(p))
    traced.lower(lowering_platforms=("cuda",))


def test_configs_are_distinct_and_give_every_multiprocessor_work():
    for p in (product(1, 4096, 4096, "int8", "int8"), product(4096, 4096, 4096, E4, E4)):
        configs = HOPPER_CODES.configs(p)
        assert len(set(configs)) == len(configs) > 3
        blocks = -(-p.m // configs[0].m) * -(-p.n // configs[0].n) * configs[0].split
        assert blocks > 100


@pytest.mark.parametrize(
    ("kernel", "p", "reason"),
    [
        (HOPPER_CODES, product(4, 8, 140_032, "int8", "int8"), "overflow"),
        (HOPPER_CODES, product("m", 8, 64, "int8", "int8"), "symbolic"),
        (HOPPER_CODES, product(4, 8, 100, "int8", "int8"), "no multiple of 32"),
        (HOPPER_CODES, product(4, 12, 64, "int8", "int8"), "no multiple of 8"),
        (HOPPER_SUBCHANNEL, product(4, 8, 64, "int8", "int8", group=32), "group 32"),
        (HOPPER_SUBCHANNEL, product(4, 8, 100, E4, E5, group=64), "no multiple of 32"),
    ],
)
def test_refuses_with_a_reason(kernel, p, reason):
    assert reason in kernel.supports(p)
    assert (kernel.name, kernel.supports(p)) in select(KERNELS, "cuda", p).refused


@pytest.mark.parametrize(
    "p",
    [
        product(4, 8, 64, "bfloat16", "int8"),
        product(4, 8, 64, "int8", "int4"),
        product(4, 8, 64, "int8", E4),
        product(4, 8, 64, "int8", "float32"),
    ],
)
def test_other_products_are_none_of_their_business(p):
    for kernel in (HOPPER_CODES, HOPPER_SUBCHANNEL):
        assert kernel.supports(p)
        assert not kernel.meant_for(p)
