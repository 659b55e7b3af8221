"""The TPU kernels in the interpreter against float64, and lowered for a TPU that is not there."""

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from qpass_kernels import KERNELS, select
from qpass_kernels.tpu import TPU_CODES, TPU_DECODED, TPU_KERNELS
from qpass_kernels.tpu.blocks import choose_blocks
from tests.kernels.oracle import assert_close, operands, product, products


def precision(p):
    """What grouped weights are decoded to."""
    return "float32" if p.lhs == "float32" or not p.grouped else "bfloat16"


def check(kernel, p, seed=0, interpret=True):
    args = operands(p, seed)
    run = jax.jit(lambda *a: kernel.run(p, *a, interpret=interpret))
    assert_close(p, run(*args), args, precision(p))


@settings(max_examples=15, deadline=None)
@given(products(sizes=80, ks=300, groups=(None, 8, 32, 64)), st.integers(0, 99))
def test_agrees_with_float64(p, seed):
    for kernel in TPU_KERNELS:
        if kernel.supports(p) is None:
            check(kernel, p, seed)


BF16, E4M3 = "bfloat16", "float8_e4m3fn"
CASES = [
    (300, 700, 160, "int8", "int8", None),  # blocks of M and N over the edge
    (300, 700, 160, BF16, "int4", None),
    (3, 5, 2304, "int8", "int4", None),  # K in two blocks
    (3, 5, 2304, "float32", "int8", None),
    (3, 5, 2500, "int8", "int8", None),  # K that no block divides
    (3, 5, 2500, E4M3, "float8_e5m2", None),
    (300, 20, 1300, BF16, "int4", 32),  # K in blocks of groups, none divides it
    (300, 20, 1300, "int8", "int4", 32),
    (3, 600, 2048, "float32", "int4", 128),
    (3, 600, 2048, E4M3, E4M3, 128),
    (1, 5, 100, BF16, "int8", 64),  # a short last group
]


@pytest.mark.parametrize(("m", "n", "k", "lhs", "rhs", "group"), CASES)
def test_every_kind_of_tail(m, n, k, lhs, rhs, group):
    p = product(m, n, k, lhs, rhs, batch=2, group=group)
    check(select(TPU_KERNELS, "tpu", p).kernel, p)


@pytest.mark.parametrize("group", [None, 32])
def test_agrees_in_the_interpreter_that_watches_for_races(group):
    p = product(40, 130, 1344, "bfloat16", "int4", group=group)
    check(TPU_DECODED, p, interpret=pltpu.InterpretParams(detect_races=True))


def test_blocks_of_common_models_need_no_padding():
    for k in (576, 1536, 2048, 4096, 8192, 11008, 14336, 28672, 53248):
        assert choose_blocks(product(1, 4096, k, "int8", "int8")).padded_k == k
        assert choose_blocks(product(1, 4096, k, "bfloat16", "int4", group=32)).padded_k == k


LOWERED = [
    ("int8", "int8", None),
    ("int8", "int4", None),
    ("float8_e4m3fn", "float8_e4m3fn", None),
    ("bfloat16", "int8", None),
    ("float32", "int4", 32),
    ("bfloat16", "int4", 128),
    ("int8", "int4", 32),
]


@pytest.mark.parametrize("m", [1, 300])
@pytest.mark.parametrize(("lhs", "rhs", "group"), LOWERED)
def test_lowers_for_tpu_without_one(m, lhs, rhs, group):
    p = product(m, 1536, 576, lhs, rhs, group=group, out="bfloat16")
    chosen = select(KERNELS, "tpu", p).kernel
    native = lhs != "bfloat16" and lhs != "float32" and group is None
    assert chosen is (TPU_CODES if native else TPU_DECODED)
    traced = jax.jit(lambda *a: chosen.run(p, *a)).trace(*operands(p))
    assert "tpu_custom_call" in traced.lower(lowering_platforms=("tpu",)).as_text()


def test_lowers_inside_shard_map():
    p = product(8, 256, 512, "bfloat16", "int4", group=32)
    x, _, w, s = operands(p)
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec(None, "x")
    run = jax.shard_map(
        lambda x, w, s: TPU_DECODED.run(p, x, None, w, s),
        mesh=mesh,
        in_specs=(jax.sharding.PartitionSpec(), rows, rows),
        out_specs=jax.sharding.PartitionSpec(None, None, "x"),
    )
    lowered = jax.jit(run).trace(x, w, s).lower(lowering_platforms=("tpu",))
    assert "tpu_custom_call" in lowered.as_text()


@pytest.mark.parametrize(
    ("kernel", "p", "reason"),
    [
        (TPU_CODES, product(4, 8, 64, "int8", "int8", group=32), "group scales"),
        (TPU_CODES, product(4, 8, 64, "float32", "int8"), "not codes"),
        (TPU_CODES, product(4, 8, 64, "int8", "float8_e5m2"), "integer codes times fp8"),
        (TPU_CODES, product(4, 8, 64, "int8", "int8", out="float16"), "float16"),
        (TPU_CODES, product(4, 8, 140_000, "int8", "int8"), "overflow"),
        (TPU_DECODED, product(4, 8, 64, "float16", "int8"), "float16"),
        (TPU_DECODED, product(4, 8, 64, "float32", "int8", group=12), "multiple of 8"),
        (TPU_DECODED, product(4, 8, 9000, "float32", "int8", group=1000), "no block"),
        (TPU_DECODED, product(4, 8, 64, "int8", "int8", group=32, lhs_group=True), "on lhs"),
        (TPU_DECODED, product("m", 8, 64, "float32", "int8", group=32), "symbolic"),
        (TPU_CODES, product(4, 8, 64, "int8", "float32"), "rhs is values"),
        (TPU_DECODED, product(4, 8, 64, "float32", "float32"), "rhs is values"),
    ],
)
def test_refuses_with_a_reason(kernel, p, reason):
    assert reason in kernel.supports(p)
    assert (kernel.name, kernel.supports(p)) in select(KERNELS, "tpu", p).refused
