"""Edge values by the whole way of quantizing: every range with types of every kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass.numerics import as_quantizer, quantize
from tests.numerics.test_range_edges import ROWS, TINY

RANGES = ("absmax", "absmax,0.9", "rms,30", "absmean,2", "percentile,50", "mse,4", "pow2")
TYPES = ("int8", "int2", "int2 asym", "uint4 asym", "nf4", "mxfp4")


@pytest.mark.parametrize("text", TYPES)
def test_no_block_is_lost_and_none_becomes_nan(text):
    x = np.zeros((len(ROWS), 32), np.float32)
    x[:, :6] = list(ROWS.values())
    quantizers = [as_quantizer(text).ranged(how) for how in RANGES]
    back = jax.jit(lambda x: [quantize(x, how, (1,)).dequantize() for how in quantizers])(x)
    finite = np.isfinite(x)
    present = np.any(finite & (np.abs(x) >= TINY), axis=1)
    for how, values in zip(RANGES, back, strict=True):
        values = np.where(finite, values, 0)
        assert not np.isnan(values).any(), how
        lost = present & ~np.any(values != 0, axis=1)
        assert [list(ROWS)[row] for row in np.flatnonzero(lost)] == [], how


def test_scales_of_powers_of_two_are_powers_of_two():
    x = np.random.default_rng(0).standard_normal((6, 40)).astype(np.float32)
    for text in ("int8 g16 pow2", "int4 asym pow2,rms,2", "fp8_e4m3 pow2", "int4 pow2,mse,4 qwix"):
        scale = np.asarray(quantize(jnp.asarray(x), as_quantizer(text), (1,)).scale)
        assert (np.abs(np.frexp(scale)[0]) == 0.5).all(), text
