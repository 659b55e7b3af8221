"""Range methods beside those of Qwix and AQT, on the same arrays."""

import warnings
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass.numerics import AbsMean, Snr, as_quantizer, as_range, quantize
from qpass.numerics.ranges import PowerOfTwo, Sample
from tests.numerics.range_samples import bounds, sample

SHAPE = (8, 64)
# blocks -> Qwix's channelwise axes and tiles
WAYS = {(1, 64): ((0,), {}), (8, 64): ((), {}), (1, 16): ((0,), {1: 16})}
TEXTS = (
    "absmax",
    "absmax,0.9",
    "minmax",
    "minmax,0.9",
    "rms,7",
    "rms,1.5",
    "fixed,2",
    "fixed,-1,4",
)


def array():
    """Rows of many magnitudes with heavy tails, one of zeros."""
    rng = np.random.default_rng(0)
    x = rng.standard_t(4, SHAPE) * np.exp2(rng.uniform(-6, 6, (8, 1)))
    x[3] = 0
    return jnp.asarray(x, jnp.float32)


@pytest.mark.parametrize(("blocks", "way"), WAYS.items())
def test_bounds_are_those_of_qwix(qwix, blocks, way):
    x = array()
    module = import_module("qwix._src.core.qarray")
    for text in TEXTS:
        how = module.HowToQuantize(
            qtype="int8", channelwise_axes=way[0], tiled_axes=way[1], calibration_method=text
        )
        theirs = module.calibrate(x, how)
        lo, hi = bounds(as_range(text), x, blocks)
        if "absmax" in theirs:
            ours = np.maximum(-lo, hi)
            # A sum of squares is rounded as its order has it; ours has none.
            np.testing.assert_allclose(
                ours, np.broadcast_to(theirs["absmax"], lo.shape), 3e-7 * (text[0] == "r")
            )
        else:
            np.testing.assert_array_equal(lo, np.broadcast_to(theirs["min"], lo.shape))
            np.testing.assert_array_equal(hi, np.broadcast_to(theirs["max"], hi.shape))


@pytest.mark.parametrize("text", ["absmax,0.9", "fixed,2"])
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_codes_and_scales_are_those_of_qwix(qwix, name, text):
    """Where no sum is involved, every bit."""
    x = array()
    quantizer = as_quantizer(f"{name} {text} qwix")
    theirs = jax.jit(
        lambda x: qwix.module.quantize(x, name, channelwise_axes=(0,), calibration_method=text)
    )(x)
    ours = jax.jit(lambda x: quantize(x, quantizer, (1,)))(x)
    np.testing.assert_array_equal(ours.codes.astype(jnp.int8), theirs.qvalue.astype(jnp.int8))
    np.testing.assert_array_equal(ours.scale, jnp.broadcast_to(theirs.scale, ours.scale.shape))


@pytest.fixture(scope="module")
def aqt():
    """AQT's calibrations and its symmetric integers of four bits."""
    pytest.importorskip("aqt", reason="needs the extra peers: aqtp==0.9.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        calibration = import_module("aqt.jax.v2.calibration")
        ints = import_module("aqt.jax.v2.numerics.int_numerics")
    four = ints.IntSymmetric(
        bits=4,
        preserve_zero=True,
        preserve_max_val=False,
        clip=True,
        clip_gradient=False,
        round=True,
        noise_fn=None,
        dtype=jnp.int8,
    )

    def bound(kind, x, **settings):
        """What the largest code stands for along rows; without powers of two, the bound."""
        made = getattr(calibration, kind)(**settings)
        (scale,), _, _ = made.get_scale_and_bias_and_sparsity(x, (1,), four)
        return np.asarray(scale) * four.get_quant_bound()

    return bound


def test_absmean_is_that_of_aqt(aqt):
    x = array()
    theirs = aqt("AbsMeanCalibration", x, clipping_scale=2.5, p=1)
    ours = bounds(AbsMean(2.5), x, (1, 64))[1]
    rows = np.arange(8) != 3  # AQT takes 1 for the mean of a row of zeros
    np.testing.assert_allclose(ours[rows], theirs[rows], 3e-7)


def test_powers_of_two_are_those_of_aqt(aqt):
    x = array()
    theirs = aqt("AbsMaxCalibration", x, po2_scale=True) / 7.5
    largest = jnp.max(jnp.abs(x), axis=1, keepdims=True)
    ours = PowerOfTwo().rescale(jnp.where(largest == 0, 1, largest) / 7.5)
    np.testing.assert_array_equal(ours, theirs)


def test_the_factors_of_the_best_ratio_are_those_of_aqt(aqt):
    """AQT tries with codes up to 7 of a range of 7.5 steps, which `trial` says here."""
    x = array()
    factors = (1.0, 0.9, 0.75, 0.6, 0.45, 0.3)
    theirs = aqt("SnrBasedAutoCalibration", x, auto_clip_search_config=factors)

    def trial(lo, hi):
        scale = jnp.where(hi == 0, 1, hi) / 7.5
        return jnp.clip(jnp.rint(x / scale), -7, 7) * scale

    given = sample(x, (1, 64))
    given = Sample(given.values, given.finite, given.blocks, None, trial)
    ours = np.asarray(Snr(factors).bounds(given)[1])
    rows = np.arange(8) != 3
    np.testing.assert_allclose(ours[rows], theirs[rows], 1e-6)
    assert np.ptp(ours[rows, 0] / np.max(np.abs(x[rows]), axis=1)) > 0.1  # not all alike
