"""Codes and scales of single arrays against Qwix itself, at every magnitude."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass.numerics import QTYPES, QWIX, encode, scales
from tests.numerics.oracle import FLOATS, widen

NAMES = {"fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}
# blocks -> Qwix's channelwise axes and tiles
WAYS = {
    (1, 64): ((0,), {}),
    (16, 64): ((), {}),
    (1, 16): ((0,), {1: 16}),
    (1, 1): ((0, 1), {}),
}


def array(dtype, low, high):
    """Rows of magnitudes from 2 ** low to 2 ** high, one of zeros."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 64)) * np.exp2(rng.uniform(low, high, (16, 1)))
    x[3] = 0
    return jnp.asarray(np.clip(x, -60000, 60000), dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("qtype", QTYPES, ids=str)
def test_an_array_has_the_codes_and_scales_of_qwix(qwix, qtype, dtype):
    def theirs(x):
        name = NAMES.get(qtype.name, qtype.name)
        arrays = [
            qwix.module.quantize(x, name, channelwise_axes=channels, tiled_axes=tiles)
            for channels, tiles in WAYS.values()
        ]
        return [(q.qvalue, q.scale) for q in arrays]

    def ours(x):
        found = [(scales(x, blocks, qtype, QWIX), blocks) for blocks in WAYS]
        return [(encode(x, scale, blocks, qtype, QWIX), scale) for scale, blocks in found]

    theirs, ours = jax.jit(theirs), jax.jit(ours)
    for low, high in ((-4, 4), (-14, -4), (6, 14)):
        x = array(dtype, low, high)
        for one, other in zip(jax.tree.leaves(theirs(x)), jax.tree.leaves(ours(x)), strict=True):
            np.testing.assert_array_equal(widen(one), widen(other))
