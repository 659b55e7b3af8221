"""Products, the choice of a kernel, and refusals."""

import pytest
from jax import export

from qpass_kernels import (
    KERNELS,
    REFERENCE,
    Kernel,
    Product,
    Selection,
    select,
)
from tests.kernels.oracle import product

P = product(4, 8, 64, "int8", "int8")


def refusing(reason, platforms=()):
    return Kernel(f"no {reason}", platforms, lambda p: reason, lambda *a: None)


TAKES = Kernel("takes", ("cuda",), lambda p: None, lambda *a: None)


def test_first_supporting_kernel_wins_and_refusals_are_kept_in_order():
    table = (refusing("a"), refusing("b"), TAKES, refusing("c"), REFERENCE)
    chosen = select(table, "cuda", P)
    assert chosen.kernel is TAKES
    assert chosen.refused == (("no a", "a"), ("no b", "b"))


def test_kernels_of_other_platforms_are_passed_over_silently():
    chosen = select((refusing("tpu only", ("tpu",)), TAKES, REFERENCE), "cpu", P)
    assert chosen.kernel is REFERENCE
    assert chosen.refused == ()


def test_kernels_for_other_kinds_of_products_are_passed_over_silently():
    other = Kernel("other", (), lambda p: "unasked", lambda *a: None, meant_for=lambda p: False)
    assert select((other, REFERENCE), "cpu", P) == Selection(REFERENCE, (), P)


@pytest.mark.parametrize(
    ("lhs", "other"), [("int8", "cpu-native-float"), ("float32", "cpu-native-int")]
)
def test_no_compiled_kernel_is_said_to_refuse_what_the_other_is_for(lhs, other):
    assert other not in dict(select(KERNELS, "cpu", product(4, 8, 64, lhs, "int8")).refused)


def test_gpu_means_cuda():
    assert select((TAKES, REFERENCE), "gpu", P).kernel is TAKES


def test_a_table_without_an_answer_says_who_refused():
    with pytest.raises(ValueError, match=r"no a: a.*REFERENCE"):
        select((refusing("a"),), "cuda", P)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu", "rocm", "something new"])
def test_the_table_ends_with_the_reference_which_runs_everywhere(platform):
    assert KERNELS[-1] is REFERENCE
    assert select((REFERENCE,), platform, P).kernel is REFERENCE


@pytest.mark.parametrize("platform", ["rocm", "something new"])
def test_unknown_platforms_get_the_reference(platform):
    assert select(KERNELS, platform, P).kernel is REFERENCE


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("lhs", {"lhs": "int16"}),
        ("rhs", {"rhs": "float16"}),
        ("out", {"out": "int32"}),
        ("lhs_scale", {"lhs_scale": "none"}),
        ("lhs_scale", {"lhs": "float32"}),
        ("rhs_scale", {"rhs_scale": "none"}),
    ],
)
def test_products_that_nobody_means_are_refused(field, change):
    fields = {f: getattr(P, f) for f in P.__dataclass_fields__}
    with pytest.raises(ValueError, match=rf"Product\.{field}"):
        Product(**(fields | change))


def test_properties():
    assert not P.grouped
    assert P.groups == 1
    assert P.integer
    assert not P.weight_only
    grouped = product(4, 8, 65, "bfloat16", "int4", group=32)
    assert (grouped.grouped, grouped.groups, grouped.weight_only) == (True, 3, True)
    batch, _ = export.symbolic_shape("b, m")
    assert Product(batch, 1, 1, 1, "int8", "int8", "float32", 1, "row", "row").symbolic == (
        "batch",
    )
