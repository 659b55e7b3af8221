import math

import pytest

from qpass.views.units import bytes_text, decibels, percent, plural, ratio_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (98_400_000, "98.4 MB"),
        (7_000_000_000_000, "7.00 TB"),
        (5 * 10**18, "5000 PB"),
    ],
)
def test_bytes_keep_three_digits(size, text):
    assert bytes_text(size) == text


def test_ratio_of_nothing_is_nothing():
    assert (ratio_text(1, 4), ratio_text(0, 0)) == ("0.25×", "")


@pytest.mark.parametrize(
    ("value", "text"), [(31.44, "31.4 dB"), (math.inf, "exact"), (math.nan, "not a number")]
)
def test_decibels(value, text):
    assert decibels(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.027, "2.70%"), (0.0, "0.00%"), (3.2e-7, "3.2e-05%"), (math.nan, "not a number")],
)
def test_percent(value, text):
    assert percent(value) == text


def test_plural():
    assert [plural(1, "site"), plural(1200, "site"), plural(2, "quantized leaf")] == [
        "1 site",
        "1,200 sites",
        "2 quantized leaves",
    ]
