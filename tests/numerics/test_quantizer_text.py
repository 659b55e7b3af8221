"""Quantizers as text: every printed form reads back, and wrong texts say what is wrong."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

import qpass
from qpass.errors import RuleError, UnknownTypeError
from qpass.numerics import DIALECTS, QPASS, QTYPES, Quantizer, as_quantizer, find_qtype
from qpass.numerics.granularity import PerBlock, PerChannel, PerGroup, PerTensor
from qpass.numerics.range_search import Mse, WeightedMse
from qpass.numerics.ranges import AbsMax, Fixed, PowerOfTwo, Rms
from qpass.numerics.rounding import NEAREST, Stochastic
from qpass.numerics.scale_formats import E8M0, PowerRounding
from tests.numerics.test_range_text import RANGES

int8, int4, fp8_e4m3, mxfp4 = map(find_qtype, ("int8", "int4", "fp8_e4m3", "mxfp4"))

SIZES = st.integers(1, 4096)
FULL = int4.grouped(128).asymmetric().ranged(WeightedMse()).stochastic(4).in_dialect("qwix")
AXES = st.lists(st.integers(-4, 4), min_size=1, unique=True).map(tuple)
GRANULARITIES = st.one_of(
    st.builds(PerTensor),
    st.builds(PerChannel, st.none() | AXES),
    st.builds(PerGroup, SIZES | st.integers(2, 64).map(lambda n: Fraction(1, n))),
    st.builds(PerBlock, SIZES, SIZES),
)


@st.composite
def quantizers(draw):
    qtype = draw(st.sampled_from(QTYPES))
    dialect = draw(st.none() | st.sampled_from([d for d in DIALECTS if qtype.kind in d.kinds]))
    powers = isinstance(qtype.scale_format, E8M0)
    centred = qtype.kind != "int" or not (dialect or QPASS).asymmetric
    return Quantizer(
        qtype,
        draw(GRANULARITIES),
        dialect,
        centred or draw(st.booleans()),
        draw(st.just(AbsMax()) | RANGES | st.builds(PowerOfTwo, RANGES)),
        draw(st.just(NEAREST) | st.builds(Stochastic, st.none() | st.integers(1, 16))),
        draw(st.sampled_from([None, "masked"])),
        draw(st.booleans()),
        draw(st.none() | st.sampled_from(PowerRounding)) if powers else None,
    )


@given(quantizers())
def test_every_printed_form_reads_back(quantizer):
    found = as_quantizer(str(quantizer))
    if quantizer.dialect == QPASS:  # which is not written
        found = replace(found, dialect=QPASS)
    assert found == quantizer
    assert str(found) == str(quantizer)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("int8 asym", int8.asymmetric()),
        ("int4 g32 mse", int4.grouped(32).ranged(Mse())),
        ("int8 tensor fixed,-1,4", int8.per_tensor().ranged(Fixed(-1, 4))),
        ("int8 absmax,0.9", int8.ranged(AbsMax(0.9))),
        ("int8 axis0,-1 asym rms,7", int8.per_channel(0, -1).asymmetric().ranged(Rms(7))),
        ("int4 g1/4", int4.grouped(1 / 4)),
        ("int8 b128x64 pow2", int8.per_block(128, 64).ranged(PowerOfTwo())),
        ("fp8_e4m3 sr", fp8_e4m3.stochastic()),
        ("int8 sr8 masked static", int8.stochastic(8).masked().static()),
        ("mxfp4 channel", mxfp4.per_channel()),
        ("mxfp4", mxfp4.grouped(32)),
        ("mxfp4 floor g16 mse", mxfp4.scaled("floor").grouped(16).ranged("mse")),
        (
            "int4 g128 asym wmse sr4 qwix",
            int4.grouped(128).asymmetric().ranged(WeightedMse()).stochastic(4).in_dialect("qwix"),
        ),
    ],
)
def test_texts(text, wanted):
    assert as_quantizer(text) == wanted
    assert str(wanted) == text


def test_other_ways_to_write_the_same():
    assert as_quantizer("int8 minmax") == as_quantizer("int8 asym") == int8.asymmetric()
    assert as_quantizer("int8 asym minmax,0.9") == int8.asymmetric().ranged(AbsMax(0.9))
    assert as_quantizer("int8 channel absmax") == as_quantizer("int8")
    assert as_quantizer("mxfp4 g32") == as_quantizer("mxfp4")
    assert as_quantizer("int8 tensor fixed,-4,4") == int8.per_tensor().ranged(Fixed(4))


def test_ranges_of_builders_may_be_texts():
    assert int8.ranged("rms,7") == int8.ranged(Rms(7))
    assert int8.ranged("minmax,0.9") == int8.asymmetric().ranged(AbsMax(0.9))
    with pytest.raises(RuleError, match=r"'rsm,7' is none: did you mean 'rms'"):
        int8.ranged("rsm,7")


def test_rules_take_texts():
    rule = qpass.Rule(weight="int4 g32 mse", act="int8 asym")
    assert rule.weight == int4.grouped(32).ranged(Mse())
    assert rule.act == int8.asymmetric()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("int8 tensr", "'tensr' means nothing: did you mean 'tensor'"),
        ("int8 qwixx", "'qwixx' means nothing: did you mean 'qwix'"),
        ("int8 asymm", "did you mean 'asym'"),
        ("int4 g32 wsme", "'wsme' means nothing: did you mean 'wmse'"),
        ("int8 absmx,0.9", "'absmx,0.9' means nothing: did you mean 'absmax'"),
        ("int8 rms", "the range 'rms' as 'rms,7'"),
        ("int8 fixed,-4,4,1", "with 3 numbers"),
        ("int8 g0", "group size that is an int of 1 or more"),
        ("int8 b0x4", "block sizes that are ints of 1 or more"),
        ("int8 axis0,0", "distinct axes"),
        ("int8 sr17", "1 to 16 random bits.*got 17"),
        ("fp8_e4m3 asym", "fp8_e4m3 has no zero point"),
        ("fp8_e4m3 minmax", "fp8_e4m3 has no zero point"),
        ("int8 g32 tensor", "'g32' and 'tensor' both say the granularity"),
        ("int8 mse g32 rms,7", "'mse' and 'rms,7' both say the range"),
        ("int8 mse g32", "its words go in the order 'int8 g32 mse'"),
        ("int8 qwix static asym", "in the order 'int8 asym static qwix'"),
        ("int8  g32", "'' means nothing: there is a blank too many"),
        ("int8 ", "there is a blank too many"),
    ],
)
def test_wrong_texts(text, said):
    with pytest.raises(RuleError, match=said):
        as_quantizer(text)


def test_the_type_comes_first():
    with pytest.raises(UnknownTypeError, match="'mse' is none"):
        as_quantizer("mse int8")
