"""The Hopper kernels in the interpreter against float64, and lowered for a GPU that is not there.

The interpreter takes a second a case, so the cases are few and small and each has several tails.
"""

import jax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import mosaic_gpu as plgpu

from qpass_kernels import KERNELS, select
from qpass_kernels.hopper import HOPPER_DECODED, HOPPER_KERNELS, HOPPER_WEIGHT_ONLY
from qpass_kernels.hopper.blocks import choose_tiles
from tests.kernels.oracle import assert_close, operands, product, products


def precision(p):
    """What grouped weights are decoded to."""
    if not p.grouped:
        return "float32"
    return p.lhs if p.lhs in ("bfloat16", "float16") else "bfloat16"


def check(kernel, p, seed=0, **how):
    args = operands(p, seed)
    params = plgpu.InterpretGPUParams(**how)
    run = jax.jit(lambda *a: kernel.run(p, *a, interpret=params))
    assert_close(p, run(*args), args, precision(p))


CASES = [  # m, n, k, lhs, rhs, group: every size has a tail, or is whole
    (9, 65, 128, "int8", "int4", None),
    (40, 100, 90, "bfloat16", "int8", None),
    (40, 100, 150, "bfloat16", "int4", 32),
    (1, 64, 200, "float16", "int4", 128),
    (17, 70, 96, "int8", "int4", 16),
    (70, 60, 70, "float8_e4m3fn", "int8", 64),
]


@pytest.mark.parametrize(("m", "n", "k", "lhs", "rhs", "group"), CASES)
def test_every_kind_of_tail(m, n, k, lhs, rhs, group):
    p = product(m, n, k, lhs, rhs, group=group)
    check(select(HOPPER_KERNELS, "cuda", p).kernel, p)


SUPPORTED = products(sizes=70, ks=130, groups=(None, 8, 32, 64)).filter(
    lambda p: any(kernel.supports(p) is None for kernel in HOPPER_KERNELS)
)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(SUPPORTED, st.integers(0, 99))
def test_agrees_with_float64(p, seed):
    check(select(HOPPER_KERNELS, "cuda", p).kernel, p, seed)


@pytest.mark.parametrize(
    ("lhs", "rhs", "group"), [("int8", "int8", None), ("bfloat16", "int4", 32)]
)
def test_no_races_and_no_reads_of_what_nobody_wrote(lhs, rhs, group):
    p = product(20, 70, 300, lhs, rhs, group=group, batch=2)
    kernel = select(HOPPER_KERNELS, "cuda", p).kernel
    check(kernel, p, detect_races=True, out_of_bounds_reads="uninitialized")


@pytest.mark.parametrize("m", [1, 300])
@pytest.mark.parametrize("out", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("lhs", "rhs", "group", "kernel"),
    [
        ("int8", "int4", None, HOPPER_DECODED),
        ("bfloat16", "int8", None, HOPPER_DECODED),
        ("bfloat16", "int4", 32, HOPPER_DECODED),
        ("float16", "int8", 128, HOPPER_DECODED),
        ("int8", "int4", 32, HOPPER_DECODED),
    ],
)
def test_lowers_for_cuda_without_a_gpu(m, out, lhs, rhs, group, kernel):
    # K no multiple of 64: other kernels do not take a weight that every call would pad
    p = product(m, 1000, 600, lhs, rhs, group=group, out=out, batch=2 if m == 1 else 1)
    assert select(KERNELS, "cuda", p).kernel is kernel
    traced = jax.jit(lambda *a: kernel.run(p, *a)).trace(*operands(p))
    assert "mosaic_gpu_v2" in traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("kernel", [HOPPER_DECODED, HOPPER_WEIGHT_ONLY], ids=lambda k: k.name)
def test_lowers_inside_shard_map(kernel):
    p = product(8, 256, 512, "bfloat16", "int4", group=32)
    x, _, w, s = operands(p)
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec(None, "x")
    run = jax.shard_map(
        lambda x, w, s: kernel.run(p, x, None, w, s),
        mesh=mesh,
        in_specs=(jax.sharding.PartitionSpec(), rows, rows),
        out_specs=jax.sharding.PartitionSpec(None, None, "x"),
    )
    lowered = jax.jit(run).trace(x, w, s).lower(lowering_platforms=("cuda",))
    assert "mosaic_gpu_v2" in lowered.as_text()


def test_weights_of_common_models_are_not_padded():
    for n, k in ((576, 1536), (1536, 576), (4096, 11008), (49152, 576), (1024, 8192)):
        tiles = choose_tiles(product(1, n, k, "int8", "int8"), 128, 128)
        assert (tiles.padded_n, tiles.padded_k) == (n, k)


@pytest.mark.parametrize(
    ("kernel", "p", "reason"),
    [
        (HOPPER_DECODED, product(4, 8, 64, "float32", "int8"), "float32"),
        (HOPPER_DECODED, product(4, 8, 64, "bfloat16", "float8_e5m2"), "widened"),
        (HOPPER_DECODED, product(4, 8, 64, "bfloat16", "int8", group=24), "neither divides 64"),
        (HOPPER_DECODED, product(4, 8, 64, "bfloat16", "int8", group=4), "below 8"),
        (HOPPER_DECODED, product(4, 8, 64, "int8", "int8", group=32, lhs_group=True), "on lhs"),
        (HOPPER_DECODED, product(4, 8, 64, "bfloat16", "float32"), "rhs is float32"),
    ],
)
def test_refuses_with_a_reason(kernel, p, reason):
    assert reason in kernel.supports(p)
    listed = (kernel.name, kernel.supports(p)) in select(KERNELS, "cuda", p).refused
    assert listed == kernel.meant_for(p)


def test_is_not_named_for_weights_that_are_no_integers():
    assert not HOPPER_DECODED.meant_for(product(4, 8, 64, "bfloat16", "float8_e5m2"))
    assert HOPPER_DECODED.meant_for(product(4, 8, 64, "bfloat16", "int4"))
