import jax.numpy as jnp
import pytest

from qpass.errors import QPassError, RuleError, UnknownTypeError
from qpass.numerics import (
    QTYPES,
    PerChannel,
    PerGroup,
    PerTensor,
    Quantizer,
    Scheme,
    as_quantizer,
    find_qtype,
    fp8_e4m3,
    int4,
    int8,
)


@pytest.mark.parametrize("qtype", QTYPES, ids=str)
def test_find(qtype):
    assert find_qtype(qtype.name) is qtype


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownTypeError, match=r"'fp8_e4m4'.*'fp8_e4m3'"):
        find_qtype("fp8_e4m4")
    with pytest.raises(QPassError, match=r"'zzz'.*'int8', 'int7', 'int6', .* more"):
        find_qtype("zzz")


def test_own_types_can_be_given():
    mine = type(int8)("int3", jnp.dtype(jnp.int8), -3, 3)
    assert as_quantizer("int3 g8", (*QTYPES, mine)) == mine.grouped(8)


def test_methods_of_a_type():
    assert int4.grouped(32) == Quantizer(int4, PerGroup(32))
    assert int8.per_channel() == Quantizer(int8, PerChannel()) == Quantizer(int8)
    assert int8.per_tensor() == Quantizer(int8, PerTensor())


@pytest.mark.parametrize(
    ("quantizer", "text"),
    [
        (int8.per_channel(), "int8"),
        (int4.grouped(32), "int4 g32"),
        (int8.per_tensor(), "int8 tensor"),
        (fp8_e4m3.grouped(128), "fp8_e4m3 g128"),
    ],
)
def test_text_of_a_quantizer_reads_back(quantizer, text):
    assert str(quantizer) == text
    assert as_quantizer(text) == quantizer


def test_as_quantizer():
    assert as_quantizer("int8") == as_quantizer(int8) == int8.per_channel()
    assert as_quantizer(int4.grouped(8)) == int4.grouped(8)


@pytest.mark.parametrize("text", ["int8 x", "int8 g", "int8 g4 g4", "int8 g-1", "int4  g32"])
def test_malformed_text(text):
    with pytest.raises(RuleError, match="Write a quantizer as"):
        as_quantizer(text)


@pytest.mark.parametrize("what", [8, None, jnp.int8])
def test_something_else(what):
    with pytest.raises(RuleError, match="Give a quantizer as a name"):
        as_quantizer(what)


@pytest.mark.parametrize("size", [0, -4, 1.5, True, "32", None])
def test_group_sizes_are_positive_ints(size):
    with pytest.raises(RuleError, match="group size"):
        int4.grouped(size)


@pytest.mark.parametrize(
    ("scheme", "text"),
    [
        (Scheme(int8.per_channel(), int8.per_channel()), "int8 x int8"),
        (Scheme(weight=int4.grouped(32)), "int4 g32 weight-only"),
        (Scheme(act=int8.per_channel()), "int8 act-only"),
        (Scheme(int8.per_channel(), int8.per_tensor()), "int8 x int8 tensor"),
        (
            Scheme(int8.per_channel(), int8.per_channel(), fp8_e4m3.per_channel()),
            "int8 x int8, grad fp8_e4m3",
        ),
        (Scheme(), "float"),
    ],
)
def test_text_of_a_scheme(scheme, text):
    assert str(scheme) == text


def test_values_compare_and_hash():
    assert {Scheme(int8.per_channel()), Scheme(as_quantizer("int8"))} == {
        Scheme(int8.per_channel())
    }
