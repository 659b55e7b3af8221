"""Edge values for every type, granularity and range: what must never happen does not."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass.numerics import as_quantizer
from qpass.numerics.qtypes import QTYPES
from qpass.numerics.quantize import quantize
from tests.numerics import edges

GRANULARITIES = (
    lambda t: t.per_tensor(),
    lambda t: t.per_channel(),
    lambda t: t.per_channel(1),
    lambda t: t.grouped(8),
    lambda t: t.grouped(Fraction(1, 5)),
    lambda t: t.per_block(2, 5),
)
RANGES = (
    *("absmax", "absmax,0.9", "absmax,40", "rms,3", "absmean,2", "percentile,90", "fixed,-1,4"),
    *("mse,8", "wmse,8", "snr", "pow2"),
)
HALVES = (jnp.bfloat16, jnp.float16)
BY_NAME = {qtype.name: qtype for qtype in QTYPES}
SYMMETRIES = {"symmetric": True, "asymmetric": False}


def check_all(quantizers, dtype):
    """Every edge value, quantized in each of these ways."""
    x, names = edges.tensors(dtype), edges.patterns(dtype)
    found = edges.round_trips(quantizers, x)
    for quantizer, (scale, back) in zip(quantizers, found, strict=True):
        edges.check(quantizer, names, x, scale, back)


def every(qtype, symmetric=True):
    """Of a type: every granularity, then every range in groups."""
    cut = [of(qtype) for of in GRANULARITIES]
    ranged = [qtype.grouped(8).ranged(text) for text in RANGES[1:]]
    return [q if symmetric else q.asymmetric() for q in (*cut, *ranged)]


def turn(name, values, count):
    """Some of the values, others for each type, so that all types together have all of them."""
    first = list(BY_NAME).index(name) * count
    return [values[k % len(values)] for k in range(first, first + count)]


def some(name):
    """Every granularity, and ranges and zero points in turn."""
    qtype = BY_NAME[name]
    cut = every(qtype)[: len(GRANULARITIES)]
    ranged = turn(name, every(qtype)[len(GRANULARITIES) :], 3)
    zeros = turn(name, every(qtype, False), 4) if qtype.kind == "int" else []
    return [*cut, *ranged, *zeros]


@pytest.mark.parametrize("name", BY_NAME)
def test_float32(name):
    check_all(some(name), jnp.float32)


@pytest.mark.parametrize("name", BY_NAME)
def test_half_precision(name):
    (dtype,) = turn(name, HALVES, 1)
    kinds = turn(name, some(name), 3)
    check_all([*kinds, BY_NAME[name].per_channel()], dtype)


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("int8 absmax,40", "bfloat16"),
        ("uint8 absmax,40", "bfloat16"),
        ("nvfp4 tensor absmax,40", "bfloat16"),
        ("nvfp4 axis1 rms,3", "float16"),
    ],
)
def test_bounds_beyond_the_dtype(text, dtype):
    """They come from a factor; a scale that is rounded up must not bring infinities back."""
    check_all([as_quantizer(text)], jnp.dtype(dtype))


def test_the_types_together_have_all_granularities_and_ranges():
    texts = {str(q).partition(" ")[2] for name in BY_NAME for q in some(name)}
    assert {str(of(qpass.int8)).partition(" ")[2] for of in GRANULARITIES} <= texts
    assert {f"g8 {text}" for text in RANGES[1:]} <= texts
    assert {text for text in texts if "asym" in text and "axis1" in text}


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", SYMMETRIES.values(), ids=SYMMETRIES)
@pytest.mark.parametrize("dtype", [jnp.float32, *HALVES], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("name", BY_NAME)
def test_every_range_in_every_granularity(name, dtype, symmetric):
    qtype = BY_NAME[name]
    if not symmetric and qtype.kind != "int":
        pytest.skip("only integer types have zero points")
    kinds = [of(qtype).ranged(text) for of in GRANULARITIES for text in RANGES]
    check_all([q if symmetric else q.asymmetric() for q in kinds], dtype)


SHAPES = ((0, 4), (3, 0), (0,), (1, 1), (2, 1), (1, 5))


@pytest.mark.parametrize("name", BY_NAME)
def test_empty_and_tiny_arrays(name):
    """With K = 1 every element has its own scale and comes back almost as it was."""
    (of,) = turn(name, GRANULARITIES[:2] + GRANULARITIES[3:], 1)
    quantizer = of(BY_NAME[name])
    xs = [jnp.full(shape, -2.5) for shape in SHAPES]

    @jax.jit
    def run(xs):
        found = [quantize(x, quantizer, (x.ndim - 1,)) for x in xs]
        return found, [q.dequantize() for q in found]

    for x, q, back in zip(xs, *run(xs), strict=True):
        assert q.shape == back.shape == x.shape
        scale = np.asarray(q.scale, np.float32)
        assert (np.isfinite(scale) & (scale != 0)).all()
        np.testing.assert_allclose(back, x, rtol=0.25)


@pytest.mark.parametrize("name", ["int4", "uint8", "nvfp4"])
def test_scalars(name):
    q = quantize(jnp.float32(-2.5), BY_NAME[name].per_tensor(), ())
    assert q.shape == ()
    np.testing.assert_allclose(q.dequantize(), -2.5, rtol=0.05)
