"""Every numeric type: what it is, and that codes and values are those of an independent cast.

A new type is one value in `qpass.numerics.qtypes` and one line of `ROWS`.
"""

import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import qpass
from qpass.errors import RuleError, UnknownTypeError
from qpass.numerics import QTYPES, as_quantizer, find_qtype, quantize
from qpass.numerics.scale_formats import E4M3_GLOBAL, E8M0_RCEIL, FLOAT32
from qpass.numerics.tables import NF4
from tests.numerics.oracle import middle, widen

INTS = {f"int{bits}": range(-(1 << bits - 1), 1 << bits - 1) for bits in range(2, 9)}
UINTS = {f"uint{bits}": range(1 << bits) for bits in (4, 8)}


def finite(dtype, bits=8):
    """All finite values of a float dtype."""
    values = np.arange(1 << bits, dtype=np.uint8).view(dtype).astype(np.float64)
    return sorted(set(values[np.isfinite(values)].tolist()))


# name -> every value of a code, bits that a code takes when stored, block, format of the scales
ROWS = {
    **{name: (list(INTS[name]), bits, 0, FLOAT32) for name, bits in
       (("int8", 8), ("int7", 8), ("int6", 8), ("int5", 8), ("int4", 4), ("int3", 3), ("int2", 2))},
    "uint8": (list(UINTS["uint8"]), 8, 0, FLOAT32),
    "uint4": (list(UINTS["uint4"]), 4, 0, FLOAT32),
    "fp8_e4m3": (finite(ml_dtypes.float8_e4m3fn), 8, 0, FLOAT32),
    "fp8_e5m2": (finite(ml_dtypes.float8_e5m2), 8, 0, FLOAT32),
    "fp8_e4m3fnuz": (finite(ml_dtypes.float8_e4m3fnuz), 8, 0, FLOAT32),
    "fp8_e5m2fnuz": (finite(ml_dtypes.float8_e5m2fnuz), 8, 0, FLOAT32),
    "fp8_e4m3b11fnuz": (finite(ml_dtypes.float8_e4m3b11fnuz), 8, 0, FLOAT32),
    "fp4_e2m1": (finite(ml_dtypes.float4_e2m1fn, 4), 4, 0, FLOAT32),
    "nf4": (list(NF4), 4, 0, FLOAT32),
    "mxfp8": (finite(ml_dtypes.float8_e4m3fn), 8, 32, E8M0_RCEIL),
    "mxfp6": (finite(ml_dtypes.float6_e2m3fn, 6), 6, 32, E8M0_RCEIL),
    "mxfp4": (finite(ml_dtypes.float4_e2m1fn, 4), 4, 32, E8M0_RCEIL),
    "nvfp4": (finite(ml_dtypes.float4_e2m1fn, 4), 4, 16, E4M3_GLOBAL),
}  # fmt: skip

SAMPLE = np.asarray(jax.random.normal(jax.random.key(0), (16, 96)))


def by_name(*names):
    return pytest.mark.parametrize("name", names or ROWS)


def values_of(qtype, codes):
    """What unpacked codes stand for, in float64."""
    codes = np.asarray(codes)
    if qtype.kind == "table":
        return np.asarray(qtype.table, np.float32).astype(np.float64)[codes.astype(int)]
    return codes.astype(np.float64)


def spread(scale, n):
    """Scales `[rows, groups]` for every element of the rows."""
    scale = np.asarray(scale, np.float64)
    return np.repeat(scale, -(-n // scale.shape[1]), axis=1)[:, :n]


def fields(q):
    """Values of codes, scales and zero points for every element, in float64."""
    plain, n = q.plain(), q.shape[1]
    zero = middle(plain) if plain.zero is None else spread(plain.zero, n)
    return values_of(q.qtype, plain.codes), spread(plain.scale, n), zero


def relative(x, q):
    return np.abs(x - np.asarray(q.dequantize())).mean() / np.abs(x).mean()


def test_every_type_has_a_row_and_a_value():
    assert [t.name for t in QTYPES] == list(ROWS)
    assert all(getattr(qpass, t.name) is t for t in QTYPES)
    assert len({hash(t) for t in QTYPES}) == len(QTYPES)


@by_name()
def test_facts(name):
    values, bits, block, scale_format = ROWS[name]
    qtype = find_qtype(name)
    assert (qtype.qmin, qtype.qmax) == (min(values), max(values))
    assert (qtype.bits, qtype.block, qtype.scale_format) == (bits, block, scale_format)
    assert as_quantizer(name) == (qtype.grouped(block) if block else qtype.per_channel())
    assert str(as_quantizer(name)) == name


@by_name()
def test_codes_are_the_nearest_and_values_are_theirs(name):
    values = np.asarray(ROWS[name][0], np.float32).astype(np.float64)
    q = jax.jit(lambda x: quantize(x, as_quantizer(name), (1,)))(SAMPLE)
    codes, scale, zero = fields(q)
    assert np.isin(codes, values).all()
    got = (codes - zero) * scale
    np.testing.assert_allclose(np.asarray(q.dequantize()), got, rtol=3e-7, atol=0)
    errors = np.abs((values[:, None, None] - zero) * scale - SAMPLE)
    assert (np.abs(got - SAMPLE) <= errors.min(axis=0) + 2e-6 * np.abs(scale)).all()


@by_name()
def test_stored_codes_are_dense(name):
    q = quantize(jnp.asarray(SAMPLE), as_quantizer(name), (1,), pack=True)
    bits = ROWS[name][1]
    if q.qtype.packed:
        assert q.codes.words.shape == (16, 96 * bits // 8)
    else:
        assert jnp.dtype(q.codes.dtype) == q.qtype.dtype
        assert (jnp.finfo if q.qtype.kind == "float" else jnp.iinfo)(q.codes.dtype).bits == bits
    assert q.nbytes - math.prod(q.codes.shape) * bits // 8 == stored_scales(q)
    plain = quantize(jnp.asarray(SAMPLE), as_quantizer(name), (1,))
    np.testing.assert_array_equal(q.dequantize(), plain.dequantize())


def stored_scales(q):
    arrays = (q.scale, q.zero, q.outer)
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays if a is not None)


@by_name()
def test_zeros_and_nan_and_infinities(name):
    x = np.zeros((4, 64), np.float32)
    x[1, :5] = [np.nan, np.inf, -np.inf, 3, -2]
    x[2, :3] = [-1e-20, 1, 0]
    q = quantize(jnp.asarray(x), as_quantizer(name), (1,))
    back = widen(q.dequantize())
    assert np.isfinite(np.delete(back, 64)).all()
    assert (back[[0, 3]] == 0).all()
    assert back[1, 1] > 0 > back[1, 2]
    assert np.isnan(back[1, 0]) == (name.startswith("fp8") or name == "mxfp8")


@by_name("fp8_e4m3fnuz", "fp8_e5m2fnuz", "fp8_e4m3b11fnuz")
def test_no_negative_zero_that_would_be_nan(name):
    x = np.concatenate([-np.exp2(-np.arange(64.0)), [1.0, -0.0]]).astype(np.float32)
    q = quantize(jnp.asarray(x)[None], as_quantizer(name), (1,))
    bits = np.asarray(q.codes).view(np.uint8)
    assert not (bits == 0x80).any()
    assert (bits == 0).any()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("int1", "'int8'"),
        ("nf3", "'nf4'"),
        ("fp8", "'fp8_e4m3'"),
        ("mxfp5", "'mxfp4'"),
        ("e4m3", "'fp8_e4m3'"),
        ("float8_e4m3fn", "'fp8_e4m3'"),
        ("fp4", "'fp4_e2m1'"),
        ("uint16", "'uint8'"),
        ("INT8", "'int8'"),
    ],
)
def test_unknown_names_get_suggestions(name, nearest):
    with pytest.raises(UnknownTypeError, match=rf"{name!r} is none: did you mean .*{nearest}"):
        as_quantizer(name)


SCALE_ROUNDINGS = {"floor": 0.10776, "ceil": 0.15048, "even": 0.10833, "rceil": 0.11268}


@pytest.mark.parametrize("how", SCALE_ROUNDINGS)
def test_powers_of_two_are_rounded_as_asked(how):
    quantizer = qpass.mxfp4.scaled(how)
    assert as_quantizer(f"mxfp4 {how}") == quantizer
    assert as_quantizer(str(quantizer.grouped(16))) == quantizer.grouped(16)
    x = np.asarray(jax.random.normal(jax.random.key(0), (256, 1024)))
    error = relative(x, quantize(jnp.asarray(x), quantizer, (1,)))
    assert abs(error / SCALE_ROUNDINGS[how] - 1) < 0.001


@pytest.mark.parametrize("text", ["int8 floor", "nvfp4 even", "nf4 rceil"])
def test_other_scales_are_not_rounded_to_powers_of_two(text):
    with pytest.raises(RuleError, match="Name mxfp8, mxfp6 or mxfp4"):
        as_quantizer(text)
    with pytest.raises(RuleError, match="'up' is none: 'floor', 'ceil', 'even', 'rceil'"):
        qpass.mxfp4.scaled("up")


# Mean error over mean magnitude on the sample below, as Qwix 0.1.8 computes it.
PUBLISHED = {
    "int8": 0.00847, "int4": 0.14425, "int4 g128": 0.11914, "int4 g32": 0.10143,
    "nf4 g64": 0.09132, "fp8_e4m3": 0.02248, "fp8_e5m2": 0.04474, "mxfp8": 0.02246,
    "mxfp4": 0.11268, "nvfp4": 0.08934,
}  # fmt: skip


@pytest.mark.parametrize("text", PUBLISHED)
def test_round_trip_errors(text):
    x = np.asarray(jax.random.normal(jax.random.key(0), (256, 1024)))
    qwix = relative(x, quantize(jnp.asarray(x), as_quantizer(f"{text} qwix"), (1,)))
    assert abs(qwix / PUBLISHED[text] - 1) < 0.001
    ours = relative(x, quantize(jnp.asarray(x), as_quantizer(text), (1,)))
    assert ours <= qwix * 1.0001
