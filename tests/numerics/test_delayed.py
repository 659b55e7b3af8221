"""Delayed scaling held to Flax's own fp8 operations and to arithmetic in float64."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import fp8_ops

import qpass
from qpass.errors import RuleError
from qpass.numerics import Delayed, as_quantizer, largest_magnitude, quantize, recorded
from qpass.numerics.granularity import PerTensor
from qpass.numerics.ranges import PowerOfTwo

TYPES = {
    "fp8_e4m3": jnp.float8_e4m3fn,
    "fp8_e5m2": jnp.float8_e5m2,
    "fp8_e4m3fnuz": jnp.float8_e4m3fnuz,
    "fp8_e5m2fnuz": jnp.float8_e5m2fnuz,
}
# A tensor of zeros, one that overflowed, and values of many magnitudes.
STEPS = np.float32([3.7, 0.02, 0, 900, 1.3e-5, np.inf, 0.7, 0.7, 0, 0, 0, 0, 5.5])


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("margin", [0, 3])
def test_scales_are_those_of_flax(name, margin):
    quantizer = as_quantizer(f"{name} delayed,4,{margin}")
    how, greatest = quantizer.delayed_range, quantizer.qtype.qmax
    assert greatest == float(jnp.finfo(TYPES[name]).max)
    state = how.start(greatest)
    scale, history = jnp.ones(()), jnp.zeros(4)
    for amax in STEPS:
        scale = fp8_ops.compute_scale(jnp.max(history), scale, jnp.float32(greatest), margin)
        history = fp8_ops.compute_amax_history(jnp.float32([-amax]), history)
        bound = how.bound(state)
        state = {"bound": bound, "history": recorded(state["history"], jnp.float32(amax))}
        np.testing.assert_array_max_ulp(bound / np.float32(greatest), np.asarray(scale), 3)
        np.testing.assert_array_equal(state["history"], history)


@pytest.mark.parametrize("most_recent", [False, True])
@pytest.mark.parametrize(("length", "margin"), [(1, 0), (3, 0), (3, -2), (5, 1)])
def test_bounds_in_float64(length, margin, most_recent):
    """Two layers, one of which lags a step behind the other."""
    how = Delayed(length, margin, most_recent)
    state = how.start(448, (2,))
    seen = np.stack([STEPS[1:], STEPS[:-1]], 1)
    expected = np.float64([448, 448])
    for step, amax in enumerate(seen):
        window = np.float64(seen[max(0, step - length) : step])
        if len(window):
            of_layer = window[-1] if most_recent else window.max(0)
            known = (of_layer > 0) & np.isfinite(of_layer)
            expected = np.where(known, of_layer * 2.0**margin, expected)
        bound = how.bound(state)
        np.testing.assert_array_equal(bound, np.float32(expected))
        state = {"bound": bound, "history": recorded(state["history"], jnp.asarray(amax))}


@pytest.mark.parametrize("name", TYPES)
def test_codes_are_those_of_flax(name):
    """Where the scale is a power of two, so that both round it in the same way: none at all."""
    quantizer = as_quantizer(f"{name} delayed")
    x = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32) * 50
    x[0, :4] = [0, 1e6, -1e6, 1e-9]
    bound = jnp.full((1, 1), quantizer.qtype.qmax * 2.0**-3, jnp.float32)
    whole = replace(quantizer, granularity=PerTensor())
    ours = quantize(x, whole, (1,), bounds=(-bound, bound))
    theirs = fp8_ops.quantize(x, TYPES[name], jnp.float32(2.0**-3), jnp.float32)
    np.testing.assert_array_equal(
        np.asarray(ours.codes).view(np.uint8), np.asarray(theirs).view(np.uint8)
    )


def test_powers_of_two():
    """The scale is rounded up; nothing that the bound lets in is clipped."""
    quantizer = as_quantizer("fp8_e4m3 pow2,delayed,8")
    assert quantizer.range == PowerOfTwo(Delayed(8))
    assert quantizer.delayed_range == Delayed(8)
    x = jnp.float32([[300.0, -2.0]])
    q = quantize(x, replace(quantizer, granularity=PerTensor()), (1,), bounds=(-x[:, :1], x[:, :1]))
    assert float(q.scale[0, 0]) == 1.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("fp8_e4m3 delayed", qpass.fp8_e4m3.delayed()),
        ("fp8_e5m2 delayed,16", qpass.fp8_e5m2.delayed(16)),
        ("fp8_e4m3 delayed,1024,-1", qpass.fp8_e4m3.delayed(margin=-1)),
        ("int8 most_recent", qpass.int8.delayed(most_recent=True)),
        ("fp8_e4m3fnuz most_recent,8,2 sr", qpass.fp8_e4m3fnuz.delayed(8, 2, True).stochastic()),
        ("fp8_e4m3 pow2,delayed,8", qpass.fp8_e4m3.ranged(PowerOfTwo(Delayed(8)))),
    ],
)
def test_texts(text, value):
    assert as_quantizer(text) == value
    assert str(value) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fp8_e4m3 delayed,0", "a history of 1 or more steps.*got 0"),
        ("fp8_e4m3 delayed,2.5", "a history of 1 or more steps.*got 2.5"),
        ("fp8_e4m3 delayed,4,0.5", "a margin that is a number of powers of two.*got 0.5"),
        ("int8 asym delayed", "without zero points, groups and blocks"),
        ("fp8_e4m3 g32 delayed", "without zero points, groups and blocks"),
        ("fp8_e4m3 delayd", "did you mean 'delayed'"),
    ],
)
def test_wrong_texts(text, said):
    with pytest.raises(RuleError, match=said):
        as_quantizer(text)


def test_the_largest_finite_magnitude():
    assert float(largest_magnitude(jnp.float32([1, -3, np.nan, np.inf]))) == 3
    assert float(largest_magnitude(jnp.float32([np.nan]))) == 0
    assert largest_magnitude(jnp.ones((2, 2), jnp.bfloat16)).dtype == jnp.float32
