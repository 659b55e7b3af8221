"""The TPU kernels in the interpreter against float64, and lowered for TPUs that are not there."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AbstractDevice, AbstractMesh

from qpass_kernels import KERNELS, REFERENCE, select
from qpass_kernels.tpu import TPU_CODES, TPU_DECODED, TPU_KERNELS, chip
from qpass_kernels.tpu.blocks import Config, vmem
from tests.kernels.oracle import assert_close, operands, product

KINDS = {"v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite", "7x": "TPU7x"}
BF16, E4M3, E5M2 = "bfloat16", "float8_e4m3fn", "float8_e5m2"


def on(generation):
    """Lower for that generation of TPU."""
    device = AbstractDevice(KINDS[generation], 1, "tpu")
    return jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device))


def check(kernel, p, config=None, interpret: Any = True):
    args = operands(p)
    config = config or kernel.configs(p)[0]
    got = jax.jit(lambda *a: kernel.run(p, *a, config=config, interpret=interpret))(*args)
    rounded = config.before and p.lhs != "float32"
    assert_close(p, got, args, BF16 if rounded else "float32")


AFTER, BEFORE = Config(8, 128, 128), Config(8, 128, 128, before=True)
CASES = [
    (3, 5, 100, "int8", "int8", None, False, None),  # everything in one block
    (9, 130, 300, "int8", "int4", None, False, AFTER),  # blocks over every edge
    (9, 130, 300, E4M3, E5M2, None, False, AFTER),
    (9, 130, 300, "int8", "int8", 128, True, AFTER),  # a short last group
    (9, 130, 300, E4M3, E4M3, 256, True, AFTER),  # a group in two blocks
    (70, 5, 300, "int8", "int8", 128, True, Config(70, 5, 256)),  # a loop over parts of a block
    (9, 130, 300, BF16, "int8", None, False, AFTER),
    (9, 130, 300, "float32", E4M3, None, False, AFTER),
    (9, 130, 300, BF16, "int4", 128, False, AFTER),
    (9, 130, 300, BF16, "int4", 128, False, BEFORE),
    (9, 130, 300, "float32", E5M2, 32, False, BEFORE),
    (9, 130, 300, "int8", "int4", 32, False, BEFORE),
    (1, 5, 100, BF16, "int8", 64, False, None),  # a block beyond the only edge
    (1, 5, 96, BF16, "int4", 32, False, None),  # whole groups that are no whole lanes
]


@pytest.mark.parametrize(("m", "n", "k", "lhs", "rhs", "group", "lhs_group", "config"), CASES)
def test_agrees_with_float64(m, n, k, lhs, rhs, group, lhs_group, config):
    p = product(m, n, k, lhs, rhs, batch=1 + (m == 3), group=group, lhs_group=lhs_group)
    check(select(TPU_KERNELS, "tpu", p).kernel, p, config)


@pytest.mark.parametrize(("group", "config"), [(None, AFTER), (128, AFTER), (32, BEFORE)])
def test_agrees_in_the_interpreter_that_watches_for_races(group, config):
    p = product(9, 130, 200, BF16, "int4", group=group)
    watch = pltpu.InterpretParams(detect_races=True, out_of_bounds_reads="uninitialized")
    check(TPU_DECODED, p, config, watch)


@pytest.mark.parametrize("generation", ["v6e", "7x"])
def test_integers_are_exact_whether_the_chip_multiplies_them_or_not(generation):
    """Sums beyond 2**24, which float32 does not hold."""
    p = product(2, 3, 2500, "int8", "int8")
    ones = jnp.ones((1, 3, 1)), jnp.ones((1, 2, 1))
    x = jnp.full((1, 2, 2500), -127, jnp.int8).at[0, 0, 0].set(-126)
    w = jnp.full((1, 3, 2500), 127, jnp.int8)
    args = (x, ones[1], w, ones[0])
    with on(generation):
        got = TPU_CODES.run(p, *args, interpret=True)
    np.testing.assert_array_equal(got, REFERENCE.run(p, *args))


def test_reads_a_layer_of_a_stack_in_place():
    p = product(3, 130, 200, BF16, "int8", group=32)
    x, _, *weight = operands(p)
    layers = [weight, jax.tree.map(jnp.negative, weight), weight]
    stack, scales = (jnp.stack(arrays) for arrays in zip(*layers, strict=True))
    run_stacked = TPU_DECODED.run_stacked
    assert run_stacked is not None
    run = jax.jit(lambda i: run_stacked(p, x, None, stack, scales, i, interpret=True))
    want = TPU_DECODED.run(p, x, None, *layers[1], interpret=True)
    np.testing.assert_array_equal(run(jnp.int32(1)), want)


LOWERED = [
    ("int8", "int8", None, False),
    ("int8", "int4", None, False),
    ("int8", "int8", 128, True),
    (E4M3, E4M3, 128, True),
    (BF16, "int8", None, False),
    ("float32", "int4", 32, False),
    (BF16, "int4", 128, False),
    ("int8", "int4", 32, False),
]


@pytest.mark.parametrize("m", [1, 600])
@pytest.mark.parametrize(("lhs", "rhs", "group", "lhs_group"), LOWERED)
def test_lowers_for_tpu_without_one(m, lhs, rhs, group, lhs_group):
    p = product(m, 1536, 576, lhs, rhs, group=group, lhs_group=lhs_group, out=BF16)
    chosen = select(KERNELS, "tpu", p).kernel
    native = lhs not in (BF16, "float32") and group in (None, 128)
    assert chosen is (TPU_CODES if native else TPU_DECODED)
    assert lowers(chosen, p)


@pytest.mark.parametrize("generation", KINDS)
@pytest.mark.parametrize(("lhs", "native"), [("int8", KINDS), (E4M3, ("7x",))])
def test_each_generation_multiplies_its_own_codes(generation, lhs, native):
    p = product(8, 256, 512, lhs, lhs, group=128, lhs_group=True)
    with on(generation):
        chosen = select(TPU_KERNELS, "tpu", p).kernel
        assert chosen is (TPU_CODES if generation in native else TPU_DECODED)
        assert lowers(chosen, p)


@pytest.mark.parametrize(("generation", "before"), [("v5e", False), ("v6e", True), ("7x", True)])
def test_groups_shorter_than_the_matrix_unit_are_scaled_before(generation, before):
    p = product(8, 256, 512, BF16, "int4", group=128)
    with on(generation):
        first, *others = TPU_DECODED.configs(p)
        assert first.before is before
        assert any(config.before is not before for config in others)
        assert all(c.before for c in TPU_DECODED.configs(dataclasses.replace(p, group=64)))
        assert not TPU_DECODED.configs(dataclasses.replace(p, group=256))[0].before


def test_every_config_divides_groups_and_fits():
    for m in (1, 100, 4096):
        for k in (576, 4096, 11008, 53248):
            for group in (None, 32, 96, 128, 1024):
                p = product(m, 4096, k, BF16, "int4", group=group)
                for c in TPU_DECODED.configs(p):
                    assert vmem(p, c) <= chip.UNKNOWN.vmem
                    assert c.k == k or c.k % 128 == 0
                    assert c.n % 128 == 0
                    assert c.m == m or c.m % 128 == 0
                    assert group is None or c.k % group == 0 or group % c.k == 0


def lowers(kernel, p):
    traced = jax.jit(lambda *a: kernel.run(p, *a)).trace(*operands(p))
    return "tpu_custom_call" in traced.lower(lowering_platforms=("tpu",)).as_text()


def test_lowers_inside_shard_map():
    p = product(8, 256, 512, BF16, "int4", group=32)
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
        (TPU_CODES, product(4, 8, 64, "int8", "int8", group=32), "no multiple of 128"),
        (TPU_CODES, product(4, 8, 64, "int8", E5M2), "integer codes times fp8"),
        (TPU_CODES, product(4, 8, 64, "int8", "int8", out="float16"), "float16"),
        (TPU_CODES, product(4, 8, 140_000, "int8", "int8"), "overflow"),
        (TPU_CODES, product("m", 8, 64, "int8", "int8"), "symbolic"),
        (TPU_DECODED, product(4, 8, 64, "float16", "int8"), "float16"),
        (TPU_DECODED, product(4, 8, 64, "float32", "int8", group=12), "multiple of 8"),
        (TPU_DECODED, product(4, 8, 9000, "float32", "int8", group=1000), "no block"),
        (TPU_DECODED, product(4, 8, 64, "int8", "int8", group=32, lhs_group=True), "lhs in groups"),
        (TPU_DECODED, product("m", 8, 64, "float32", "int8", group=32), "symbolic"),
    ],
)
def test_refuses_with_a_reason(kernel, p, reason):
    assert reason in kernel.supports(p)
    assert (kernel.name, kernel.supports(p)) in select(KERNELS, "tpu", p).refused


@pytest.mark.parametrize(
    ("lhs", "rhs", "named"), [("int8", "float32", set()), (BF16, "int8", {"tpu_decoded"})]
)
def test_plans_name_no_kernel_that_has_nothing_to_do_with_the_product(lhs, rhs, named):
    p = product(4, 8, 64, lhs, rhs, out="float16")
    refused = {name for name, _ in select(KERNELS, "tpu", p).refused}
    assert {name for name in refused if name.startswith("tpu")} == named
