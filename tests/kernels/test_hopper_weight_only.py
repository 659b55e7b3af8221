"""Weight-only products on Hopper: in the interpreter against float64, and lowered without a GPU.

The interpreter takes a second a case, so the cases are few and small and each has several tails.
"""

import jax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import mosaic_gpu as plgpu

from qpass_kernels import KERNELS, select
from qpass_kernels.hopper import HOPPER_DECODED, HOPPER_KERNELS, HOPPER_WEIGHT_ONLY
from qpass_kernels.hopper.few_rows import FewRows
from qpass_kernels.hopper.many_rows import ManyRows
from tests.kernels.oracle import assert_close, operands, product

STRICT = {"detect_races": True, "out_of_bounds_reads": "uninitialized"}


def check(p, config=None, seed=0):
    """Only codes that are scaled before they are multiplied are rounded on the way."""
    args = operands(p, seed)
    params = plgpu.InterpretGPUParams(**STRICT)
    run = jax.jit(lambda *a: HOPPER_WEIGHT_ONLY.run(p, *a, config=config, interpret=params))
    rounded = p.grouped and isinstance(config, ManyRows) and config.scaled == "codes"
    assert_close(p, run(*args), args, p.lhs if rounded else "float32")


CASES = [  # m, n, k, lhs, rhs, group, out, batch, config
    (5, 72, 768, "bfloat16", "int4", 128, "float32", 1, FewRows(8, 128, 2, 1, 2)),
    (20, 72, 512, "float16", "int8", 16, "float16", 2, FewRows(16, 64, 3, 4)),
    (9, 136, 256, "bfloat16", "int8", None, "float32", 1, FewRows(16, 64, 2, 2)),
    (100, 136, 512, "bfloat16", "int8", 128, "float32", 1, ManyRows(64, 64, 3, programs=2)),
    (100, 136, 128, "float16", "int4", 32, "float16", 1, ManyRows(64, 64, 2, "codes", 2, 1)),
    (70, 264, 192, "bfloat16", "int4", None, "bfloat16", 2, ManyRows(128, 64, 2, "codes", 2)),
]


@pytest.mark.parametrize(("m", "n", "k", "lhs", "rhs", "group", "out", "batch", "config"), CASES)
def test_every_way_to_cut_with_every_kind_of_tail(m, n, k, lhs, rhs, group, out, batch, config):
    p = product(m, n, k, lhs, rhs, group=group, out=out, batch=batch)
    assert config.fits(p)
    check(p, config)


@st.composite
def aligned(draw):
    """Products that copies can be made of as they are."""
    group = draw(st.sampled_from((None, 16, 32, 64, 128, 192)))
    return product(
        draw(st.integers(1, 40)),
        8 * draw(st.integers(1, 12)),
        64 * draw(st.integers(1, 6)),
        draw(st.sampled_from(("bfloat16", "float16"))),
        draw(st.sampled_from(("int8", "int4"))),
        out=draw(st.sampled_from(("float32", "bfloat16", "float16"))),
        group=group,
    )


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(aligned(), st.integers(0, 99))
def test_agrees_with_float64_in_the_default_setting(p, seed):
    assert HOPPER_WEIGHT_ONLY.supports(p) is None
    check(p, seed=seed)


SHAPES = [  # m, n, k, lhs, rhs, group
    (1, 4096, 8192, "bfloat16", "int4", 128),
    (16, 1000, 576, "float16", "int8", 64),
    (300, 1000, 576, "bfloat16", "int8", None),
    (4096, 4096, 4096, "float16", "int4", 32),
]


@pytest.mark.parametrize(("m", "n", "k", "lhs", "rhs", "group"), SHAPES)
def test_lowers_for_cuda_without_a_gpu(m, n, k, lhs, rhs, group):
    p = product(m, n, k, lhs, rhs, group=group, out=lhs, batch=2 if m == 16 else 1)
    assert select(KERNELS, "cuda", p).kernel is HOPPER_WEIGHT_ONLY
    shapes = jax.eval_shape(lambda: operands(p))
    traced = jax.jit(lambda *a: HOPPER_WEIGHT_ONLY.run(p, *a)).trace(*shapes)
    assert "mosaic_gpu_v2" in traced.lower(lowering_platforms=("cuda",)).as_text()


def test_neither_weight_nor_scales_are_copied_for_a_token():
    p = product(1, 4096, 4096, "bfloat16", "int4", group=128)
    jaxpr = jax.make_jaxpr(lambda *a: HOPPER_WEIGHT_ONLY.run(p, *a))(
        *jax.eval_shape(lambda: operands(p))
    )
    copies = {"pad", "transpose", "concatenate", "convert_element_type"}
    large = [
        equation.primitive.name
        for equation in jaxpr.eqns
        if any(getattr(x.aval, "size", 0) >= p.n * p.groups for x in equation.invars)
    ]
    assert not copies & set(large)


def test_few_rows_are_split_over_all_multiprocessors():
    for n, k in ((4096, 4096), (1024, 8192), (8192, 8192), (14336, 4096)):
        config = HOPPER_WEIGHT_ONLY.configs(product(1, n, k, "bfloat16", "int4", group=128))[0]
        assert isinstance(config, FewRows)
        assert n // 64 * config.split > 99


def test_settings_that_do_not_fit_are_not_offered():
    for m, k, group in ((1, 576, 64), (64, 4096, 32), (512, 8192, 16), (4096, 11008, 128)):
        p = product(m, 1024, k, "bfloat16", "int4", group=group)
        found = HOPPER_WEIGHT_ONLY.configs(p)
        assert found
        assert len(set(found)) == len(found)
        assert all(config.fits(p) for config in found)
    assert not FewRows(8, 128, 4, 4).fits(product(1, 1024, 576, "bfloat16", "int4"))
    assert not FewRows(64, 128, 4, 4).fits(product(64, 1024, 4096, "bfloat16", "int8"))
    assert not ManyRows(256, 128, 4).fits(product(512, 1024, 4096, "bfloat16", "int4"))


@pytest.mark.parametrize(
    ("p", "reason"),
    [
        (product("m", 64, 64, "bfloat16", "int8"), "symbolic"),
        (product(4, 64, 64, "float32", "int8"), "float32"),
        (product(4, 64, 100, "bfloat16", "int8"), "copy the weight"),
        (product(4, 60, 64, "bfloat16", "int4"), "copy the weight"),
        (product(4, 64, 192, "bfloat16", "int8", group=96), "neither divides 64"),
        (product(4, 64, 64, "bfloat16", "int8", group=4), "no multiple of 8"),
    ],
)
def test_refuses_with_a_reason(p, reason):
    assert reason in HOPPER_WEIGHT_ONLY.supports(p)
    assert (HOPPER_WEIGHT_ONLY.name, HOPPER_WEIGHT_ONLY.supports(p)) in select(
        KERNELS, "cuda", p
    ).refused


def test_is_not_named_for_products_of_another_kind():
    for lhs, rhs in (("int8", "int8"), ("bfloat16", "float8_e4m3fn"), ("int8", "int4")):
        p = product(4, 64, 64, lhs, rhs)
        assert HOPPER_WEIGHT_ONLY.supports(p)
        refused = dict(select(KERNELS, "cuda", p).refused)
        assert HOPPER_WEIGHT_ONLY.name not in refused


def test_sizes_that_would_be_padded_go_to_the_kernel_that_pads():
    p = product(4, 60, 100, "bfloat16", "int4")
    assert select(HOPPER_KERNELS, "cuda", p).kernel is HOPPER_DECODED
