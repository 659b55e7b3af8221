"""Stored scales against the formulas in float64, and what every format owes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass.numerics.qtypes import fp8_e4m3, fp8_e5m2, int8, mxfp4, mxfp6, mxfp8, nvfp4
from qpass.numerics.scale_formats import (
    E4M3_ALONE,
    E4M3_GLOBAL,
    E8M0_CEIL,
    E8M0_EVEN,
    E8M0_FLOOR,
    E8M0_RCEIL,
    FLOAT32,
    E8M0Logarithm,
)

TINY = np.finfo(np.float32).tiny
E8M0S = [E8M0_FLOOR, E8M0_CEIL, E8M0_EVEN, E8M0_RCEIL]
FORMATS = [FLOAT32, *E8M0S, E8M0Logarithm(jnp.dtype(jnp.float32)), E4M3_ALONE, E4M3_GLOBAL]
# Exponent and mantissa bits of the greatest value, as the OCP MX specification lists them.
ELEMENTS = [(mxfp8, 8, 3), (fp8_e5m2, 15, 2), (mxfp6, 2, 3), (mxfp4, 2, 1), (int8, 6, 6)]


def magnitudes():
    """Powers of two, their neighbours, ties of the mantissa, and numbers between."""
    powers = np.float32(2) ** np.arange(-126, 128, dtype=np.float32)
    parts = np.random.default_rng(0).uniform(1, 2, len(powers)).astype(np.float32)
    ties = [np.float32(1 + (2 * k + 1) / 16) * powers for k in range(8)]
    beside = [np.nextafter(powers, np.float32(to)) for to in (0, np.inf)]
    every = np.concatenate([powers, parts * powers, *ties, *beside, [0, 6, 448, 7.75, 3.4e38]])
    return every[(every == 0) | (every >= TINY)].astype(np.float32)


def scales(amax, qtype):
    scale = np.maximum(amax * np.float32(1 / qtype.qmax), TINY)
    return np.where(amax == 0, np.float32(1), scale)


def exponent(amax, scale, form, emax, mantissa):
    """The exponent by the definition of each mode; float64 has room for all steps."""
    fraction, up = math.frexp(amax)
    if form is E8M0_FLOOR:
        return up - 1 - emax
    if form is E8M0_CEIL:
        return up - (fraction == 0.5) - emax
    if form is E8M0_EVEN:
        return (
            math.frexp(math.floor(amax / 2.0 ** (up - 1 - mantissa) + 0.5))[1]
            + up
            - 2
            - emax
            - mantissa
        )
    fraction, up = math.frexp(scale)
    return up - (fraction == 0.5)


@pytest.mark.parametrize(("qtype", "emax", "mantissa"), ELEMENTS, ids=lambda v: str(v))
@pytest.mark.parametrize("form", E8M0S, ids=str)
def test_powers_of_two(form, qtype, emax, mantissa):
    amax = magnitudes()
    scale = scales(amax, qtype)
    stored, outer = jax.jit(lambda s, a: form.make(s, a, qtype))(scale, amax)
    assert outer is None
    assert stored.dtype == form.dtype == jnp.float8_e8m0fnu
    got = np.asarray(form.read(stored, None))
    assert got.dtype == np.float32
    for a, s, g in zip(amax.tolist(), scale.tolist(), got.tolist(), strict=True):
        wanted = exponent(a, s, form, emax, mantissa) if a else 0
        assert g == 2.0 ** min(max(wanted, -126), 127), (form, a)


@pytest.mark.parametrize("form", [E8M0_CEIL, E8M0_RCEIL], ids=str)
def test_nothing_saturates_when_rounded_up(form):
    amax = magnitudes()[:-5]
    stored, _ = form.make(scales(amax, mxfp4), amax, mxfp4)
    inside = amax.astype(float) / np.asarray(form.read(stored, None))
    assert inside.max() <= (6 if form is E8M0_RCEIL else 8)


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("top", [0.0, TINY, 1e-30, 1.0, 3e38])
def test_scales_are_positive_and_can_be_inverted(form, top):
    amax = np.float32([0, TINY, top, top / 2, top / 1e3]).astype(np.float32).reshape(1, 5)
    amax = np.where(amax < TINY, 0, amax)
    stored, outer = form.make(scales(amax, nvfp4), amax, nvfp4)
    assert stored.dtype == form.dtype
    scale = np.asarray(form.read(stored, outer))
    assert np.isfinite(scale).all()
    assert (scale >= TINY).all()
    assert np.isfinite(np.asarray(1 / jnp.asarray(scale))).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_logarithms_are_those_of_the_array_dtype(dtype):
    powers = np.exp2(np.arange(-14, 15, dtype=np.float32)).astype(dtype)
    scale = jnp.concatenate([jnp.nextafter(powers, jnp.asarray(to, dtype)) for to in (0, 1, 6e4)])
    form = E8M0Logarithm(jnp.dtype(dtype))
    stored, outer = jax.jit(lambda s: form.make(s, s, mxfp4))(scale.astype(jnp.float32))
    assert outer is None
    wanted = (2 ** jnp.ceil(jnp.log2(scale))).astype(dtype)
    np.testing.assert_array_equal(form.read(stored, None), wanted.astype(jnp.float32))


def test_float32_is_the_scale_itself():
    scale = scales(magnitudes(), int8)
    stored, outer = FLOAT32.make(scale, magnitudes(), int8)
    assert outer is None
    np.testing.assert_array_equal(FLOAT32.read(stored, outer), scale)


@pytest.mark.parametrize("separate", [(), (0,), (0, 1)])
def test_global_scale(separate):
    amax = np.abs(np.random.default_rng(1).standard_normal((3, 4, 5))).astype(np.float32)
    scale = scales(amax, nvfp4)
    stored, outer = jax.jit(lambda s, a: E4M3_GLOBAL.make(s, a, nvfp4, separate))(scale, amax)
    shared = tuple(axis for axis in range(3) if axis not in separate)
    top = amax.astype(float).max(axis=shared, keepdims=True)
    assert outer.shape == top.shape
    np.testing.assert_allclose(outer, top / (448 * 6), rtol=1e-6)
    assert float(stored.astype(jnp.float32).max()) == 448
    ratio = np.asarray(E4M3_GLOBAL.read(stored, outer)) / scale
    assert 1.03 / (1 + 2**-3) < ratio.min() < 0.95
    assert 1.01 < ratio.max() < 1.031


def test_e4m3_saturates_and_never_is_zero():
    stored, outer = E4M3_ALONE.make(jnp.array([1e-9, 0.1, 1e9]), jnp.ones(3), fp8_e4m3)
    assert outer is None
    np.testing.assert_array_equal(
        E4M3_ALONE.read(stored, None), np.float32([2**-9, 0.1015625, 448])
    )
