"""Texts of ranges: what they mean, that they read back, and what is said of wrong ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpass.errors import RuleError
from qpass.numerics.range_hqq import Hqq
from qpass.numerics.range_search import Mse, Snr, WeightedMse
from qpass.numerics.range_text import METHODS, WORDS, as_range, read_range
from qpass.numerics.ranges import AbsMax, AbsMean, Fixed, Percentile, PowerOfTwo, Rms

TEXTS = {
    "absmax": AbsMax(),
    "absmax,0.9": AbsMax(0.9),
    "rms,7": Rms(7),
    "absmean,2.5": AbsMean(2.5),
    "percentile,99.9": Percentile(99.9),
    "fixed,4": Fixed(4),
    "fixed,-1,4": Fixed(-1, 4),
    "mse": Mse(),
    "mse,40": Mse(40),
    "mse,20,0.2": Mse(20, 0.2),
    "wmse": WeightedMse(),
    "wmse,40": WeightedMse(40),
    "hqq": Hqq(),
    "hqq,40": Hqq(40),
    "snr": Snr(),
    "snr,1,0.5": Snr((1, 0.5)),
    "pow2": PowerOfTwo(),
    "pow2,absmax,0.9": PowerOfTwo(AbsMax(0.9)),
    "pow2,rms,7": PowerOfTwo(Rms(7)),
    "pow2,mse": PowerOfTwo(Mse()),
}
SIZES = st.floats(1e-30, 1e30) | st.integers(1, 10**6)
SHARES = st.floats(1e-30, 1)
RANGES = st.one_of(
    st.builds(AbsMax, SIZES),
    st.builds(Rms, SIZES),
    st.builds(AbsMean, SIZES),
    st.builds(Percentile, st.floats(50, 100)),
    st.builds(Fixed, SIZES),
    st.builds(lambda lo, hi: Fixed(-lo, hi), SIZES | st.just(0), SIZES),
    st.builds(Mse, st.integers(1, 1000), SHARES),
    st.builds(WeightedMse, st.integers(1, 1000), SHARES),
    st.builds(Hqq, st.integers(1, 1000)),
    st.builds(Snr, st.lists(SIZES, min_size=1).map(tuple)),
)


@pytest.mark.parametrize(("text", "wanted"), TEXTS.items())
def test_texts(text, wanted):
    assert as_range(text) == wanted
    assert str(wanted) == text
    assert not read_range(text).asymmetric


@given(RANGES | st.builds(PowerOfTwo, RANGES))
def test_the_text_of_every_range_reads_back(value):
    found = read_range(str(value))
    assert found.range == value
    assert not found.asymmetric
    assert " " not in str(value)
    assert str(value).split(",")[0] in WORDS


def test_minmax_is_absmax_with_a_zero_point():
    for text, wanted in (("minmax", AbsMax()), ("minmax,0.9", AbsMax(0.9))):
        assert read_range(text).range == wanted
        assert read_range(text).asymmetric
    assert read_range("pow2,minmax").asymmetric
    assert read_range("pow2,minmax").range == PowerOfTwo()


def test_configurations_may_have_blanks_and_capital_letters():
    assert as_range("Fixed, -4, 4") == Fixed(4)
    assert as_range(" ABSMAX , .9 ") == AbsMax(0.9)
    assert as_range("rms,7e0") == Rms(7)


def test_a_fixed_scale_and_its_greatest_code():
    """Two numbers above 0 cannot be a range that holds 0."""
    assert as_range("fixed,0.5,8") == as_range("fixed,8,0.5") == Fixed(4)
    assert str(as_range("fixed,0.03125,128")) == "fixed,4"


def test_a_range_returns_as_it_is():
    assert as_range(Rms(7)) is not None
    mine = Rms(7)
    assert as_range(mine) is mine


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("absmx", "'absmx' is none: did you mean 'absmax'"),
        ("percntile,99", "did you mean 'percentile'"),
        ("", "'' is none: known: 'absmax'"),
        ("histogram", "known: 'absmax'"),
        ("absmax,0.9,1", "'absmax' or 'absmax,0.9'; got 'absmax,0.9,1' with 2 numbers"),
        ("minmax,0.9,1", "'minmax' or 'minmax,0.9'; got 'minmax,0.9,1' with 2 numbers"),
        ("rms", "the range 'rms' as 'rms,7'; got 'rms' with 0 numbers"),
        ("rms,7,8", "with 2 numbers"),
        ("fixed", "'fixed,4', 'fixed,-1,4' or 'fixed,0.5,8'; got 'fixed' with 0 numbers"),
        ("fixed,-4,4,8", "with 3 numbers"),
        ("fixed,-4,-2", "hold 0 and something else.*got -4 to -2"),
        ("mse,20,0.2,3", "with 3 numbers"),
        ("mse,2.5", "got 2.5"),
        ("rms,x", "got 'rms,x': 'x' is no number"),
        ("absmax,", "got 'absmax,': '' is no number"),
        ("rms,nan", "finite number"),
        ("pow2,pow2", "whose scales are rounded to powers of two"),
        ("pow2,rsm,7", "did you mean 'rms'"),
    ],
)
def test_wrong_texts(text, said):
    with pytest.raises(RuleError, match=said):
        read_range(text)


def test_something_else_than_a_text():
    for what in (7, None, ("rms", 7)):
        with pytest.raises(RuleError, match="Give a range as a text"):
            as_range(what)


def test_usages_in_messages_are_right():
    for method in METHODS:
        for text in method.usage.replace(" or ", ", ").split("', '"):
            assert read_range(text.strip("'")).asymmetric == method.asymmetric
