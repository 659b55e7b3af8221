"""Rounding to nearest and at random, against every value that a type has, listed without qpass."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from qpass.errors import QuantizeError, RuleError
from qpass.numerics import QTYPES, as_quantizer, quantize
from qpass.numerics.rounding import NEAREST, Stochastic, round_codes

DRAWS = 400
KEY = jax.random.key(7)


@dataclass(frozen=True)
class Target:
    """What rounding has to know of a type."""

    name: str
    kind: str
    dtype: np.dtype
    table: tuple[float, ...] = ()


def floats(name, dtype):
    return Target(name, "float", np.dtype(dtype))


E2M3 = tuple(
    (-1.0) ** (c >> 5)
    * (c % 8 / 8 if c >> 3 & 3 == 0 else 2.0 ** ((c >> 3 & 3) - 1) * (1 + c % 8 / 8))
    for c in range(64)
)
TYPES = (
    Target("int8", "int", np.dtype(np.int8)),
    floats("fp8_e4m3", ml_dtypes.float8_e4m3fn),
    floats("fp8_e5m2", ml_dtypes.float8_e5m2),
    floats("fp8_e4m3fnuz", ml_dtypes.float8_e4m3fnuz),
    floats("fp8_e5m2fnuz", ml_dtypes.float8_e5m2fnuz),
    floats("fp8_e4m3b11fnuz", ml_dtypes.float8_e4m3b11fnuz),
    floats("fp4_e2m1", ml_dtypes.float4_e2m1fn),
    Target("uneven table", "table", np.dtype(np.uint8), (-1.0, -0.6, -0.1, 0.0, 0.05, 0.4, 1.0)),
    Target("fp6_e2m3", "table", np.dtype(np.uint8), E2M3),
)
EVERY_TYPE = [
    *(qtype.name for qtype in QTYPES),
    *(f"{qtype.name} asym" for qtype in QTYPES if qtype.kind == "int"),
]
every_type = pytest.mark.parametrize("target", TYPES, ids=lambda t: t.name)
every_rounding = pytest.mark.parametrize("rounding", [Stochastic(), Stochastic(3)], ids=str)


def values_of(target):
    """All values of a type, in order."""
    if target.kind == "int":
        return np.arange(-128.0, 128, dtype=np.float32)
    if target.kind == "table":
        return np.unique(np.float32(target.table))
    bits = ml_dtypes.finfo(target.dtype).bits
    found = np.arange(2**bits, dtype=np.uint8).view(target.dtype).astype(np.float32)
    return np.unique(found[np.isfinite(found)])


def between(values, seed=0):
    """A value in every gap: where, and the two neighbours."""
    lower, upper = values[:-1], values[1:]
    part = np.random.default_rng(seed).uniform(0.05, 0.95, lower.shape)
    y = np.float32(lower + part * (np.float64(upper) - lower))
    return y, lower, upper


def drawn(y, target, rounding, key=KEY):
    """`[DRAWS, y.size]`, computed in one shape for all types, so that little is compiled."""
    y = np.float32(y)
    rows = jnp.broadcast_to(np.resize(y, 256), (DRAWS, 256))
    return np.asarray(round_codes(rows, target, rounding, key))[:, : y.size]


@every_rounding
@every_type
def test_stochastic_rounding_is_right_in_the_mean(target, rounding):
    """Each value against its own probability, all together by a chi-squared sum: 3 sigma."""
    y, lower, upper = between(values_of(target))
    got = drawn(y, target, rounding)
    assert np.all((got == lower) | (got == upper))
    cells = 2 ** (rounding.bits or 23)
    p = np.rint((np.float64(y) - lower) / (np.float64(upper) - lower) * cells) / cells
    p = np.clip(p, 1e-9, 1 - 1e-9)
    deviation = (np.mean(got == upper, axis=0) - p) / np.sqrt(p * (1 - p) / DRAWS)
    assert abs(deviation.sum()) < 3 * np.sqrt(y.size)
    assert abs((deviation**2).sum() - y.size) < 3 * np.sqrt(2 * y.size) + 1


@every_type
def test_few_bits_are_off_by_half_a_cell_at_most_and_not_on_average(target):
    """The mean over all random numbers of 4 bits, counted out: no statistics."""
    values = values_of(target)
    lower, upper = values[:-1], values[1:]
    parts = (np.arange(64) + 0.5) / 64
    y = np.float32(lower[:, None] + parts * (np.float64(upper) - lower)[:, None])
    rows = np.resize(y, (256, 64))
    counted = np.stack([drawn_bits(rows, target, k) for k in range(16)])[:, : len(y)]
    mean = np.mean(counted == upper[:, None], axis=0)
    assert np.abs(mean - parts).max() <= 1 / 32 + 1e-6
    np.testing.assert_allclose(np.mean(mean - parts, axis=1), 0, atol=1e-6)


def drawn_bits(y, target, k):
    """Rounding by the random number k of 4 bits, for all elements."""
    from unittest.mock import patch

    same = lambda key, shape, dtype: jnp.full(shape, k << 4, dtype)  # noqa: E731
    with patch("jax.random.bits", same):
        return np.asarray(round_codes(jnp.asarray(y), target, Stochastic(4), KEY))


@every_rounding
@every_type
def test_values_of_the_type_stay(target, rounding):
    values = values_of(target)
    assert np.all(drawn(values, target, rounding) == values)


@every_type
def test_stochastic_rounding_repeats_with_its_key_only(target):
    y, *_ = between(values_of(target))
    first = drawn(y, target, Stochastic(8))
    assert np.array_equal(first, drawn(y, target, Stochastic(8)))
    assert not np.array_equal(first, drawn(y, target, Stochastic(8), jax.random.key(8)))


@every_rounding
@every_type
def test_nothing_becomes_nan_and_nothing_moves_past_a_bound(target, rounding):
    """Zeros, the least numbers, and far out of range; infinities stay on their side."""
    values = values_of(target)
    y = np.float32([0, -0.0, 1e-45, -1e-45, 1e-38, -1e-30, 1e20, -1e20, 3.4e38, np.inf, -np.inf])
    got = np.clip(drawn(y, target, rounding), values[0], values[-1])
    assert not np.isnan(got).any()
    assert np.all(got[:, 6:] == np.where(y[6:] > 0, values[-1], values[0]))
    assert np.all(got[:, :2] == 0)


@every_type
def test_nan_is_zero_except_in_floats(target):
    for rounding in (NEAREST, Stochastic()):
        got = round_codes(jnp.float32([np.nan, 0]), target, rounding, KEY)
        assert np.isnan(got[0]) if target.kind == "float" else got[0] == 0


@every_type
def test_a_missing_key_is_an_error_that_names_the_type(target):
    with pytest.raises(QuantizeError, match=f"{target.name}.*key=jax.random.key"):
        round_codes(jnp.ones(3), target, Stochastic())


def test_nearest_is_half_to_even_for_integers_and_left_to_the_cast_for_floats():
    y = jnp.float32([-1.5, -0.5, 0.5, 1.5, 2.5, 0.3])
    np.testing.assert_array_equal(round_codes(y, TYPES[0]), [-2, 0, 0, 2, 2, 0])
    np.testing.assert_array_equal(round_codes(y, TYPES[1]), y)


def test_the_same_bits_come_under_jit_and_vmap():
    y, *_ = between(values_of(TYPES[1]))
    rounded = lambda key: round_codes(jnp.asarray(y), TYPES[1], Stochastic(8), key)  # noqa: E731
    keys = jax.random.split(KEY, 3)
    eager = np.stack([rounded(key) for key in keys])
    assert np.array_equal(eager, jax.jit(jax.vmap(rounded))(keys))


@pytest.mark.parametrize("bits", [0, 17, -1, 8.0, True, "8"])
def test_bits_are_whole_numbers_of_1_to_16(bits):
    with pytest.raises(RuleError, match="1 to 16"):
        Stochastic(bits)


def test_roundings_print_as_their_words():
    assert [str(r) for r in (NEAREST, Stochastic(), Stochastic(8))] == ["", "sr", "sr8"]


@pytest.mark.parametrize("word", ["sr", "sr8"])
@pytest.mark.parametrize("text", EVERY_TYPE)
def test_quantized_tensors_are_right_in_the_mean(text, word):
    """Whole tensors of every type, equal rows that draw each their own: 3 sigma over elements.

    Squares are held to 4: of all these sums, one beyond 3 is likely by chance.
    """
    row = np.random.default_rng(1).standard_normal(64).astype(np.float32)
    x = jnp.broadcast_to(row, (2 * DRAWS, 64))
    q = quantize(x, as_quantizer(f"{text} {word}"), (1,), key=KEY)
    got = np.float64(q.dequantize())
    least, greatest = got.min(axis=0), got.max(axis=0)
    gap = np.where(greatest > least, greatest - least, 1)
    seen = (least <= row) & (row <= greatest) & (got.var(axis=0) > 0.02 * gap**2)
    assert seen.sum() > 30
    off = (got.mean(axis=0) - row)[seen] / (got.std(axis=0)[seen] / np.sqrt(len(got)))
    assert abs(off.sum()) < 3 * np.sqrt(off.size)
    assert abs((off**2).sum() - off.size) < 4 * np.sqrt(2 * off.size)
