"""Codes and scales of Qwix's other types: narrow integers, tables, AMD's floats, block formats.

In the dialect `qwix` they are equal, bit for bit. By itself qpass differs in three ways that the
last tests show: powers of two are exact where Qwix takes a logarithm, nvfp4 has a global scale, and
no scale is zero.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass.numerics import as_quantizer, quantize
from qpass.numerics.tables import NF4
from tests.numerics.oracle import FLOATS, widen

# what rules of qpass name -> what Qwix names, and its group
TYPES = {
    **{f"int{bits}": (f"int{bits}", None) for bits in (2, 3, 5, 6, 7)},
    "fp8_e4m3fnuz": (jnp.float8_e4m3fnuz, None),
    "fp8_e5m2fnuz": (jnp.float8_e5m2fnuz, None),
    "fp8_e4m3b11fnuz": (jnp.float8_e4m3b11fnuz, None),
    "fp4_e2m1": (jnp.float4_e2m1fn, None),
    "nf4": ("nf4", None),
    "nf4 g64": ("nf4", 64),
    "mxfp8": ("mxfp8", 32),
    "mxfp4": ("mxfp4", 32),
    "nvfp4": ("nvfp4", 16),
}


def array(dtype):
    """Rows of several magnitudes, one of zeros; powers of two and their neighbours among them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 128)) * np.exp2(rng.uniform(-3, 5, (16, 1)))
    x[3] = 0
    x[5] = 0.5
    x[6:] = rng.choice([-1.0, 0.25, 0.75, 1], (10, 128)) * np.exp2(np.arange(-5, 5.0))[:, None] * 6
    return jnp.asarray(x, dtype)


def theirs(qwix, x, name, group):
    return qwix.module.quantize(
        x, name, channelwise_axes=(0,), tiled_axes={1: group} if group else {}
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_codes_and_scales_in_the_dialect_are_those_of_qwix(qwix, dtype):
    def both(x):
        arrays = {text: theirs(qwix, x, *how) for text, how in TYPES.items()}
        tensors = {text: quantize(x, as_quantizer(f"{text} qwix"), (1,)).plain() for text in TYPES}
        return (
            {text: (q.qvalue, q.scale) for text, q in arrays.items()},
            {text: (q.codes, q.scale) for text, q in tensors.items()},
        )

    wanted, got = jax.jit(both)(array(dtype))
    for text in TYPES:
        for one, other in zip(wanted[text], got[text], strict=True):
            np.testing.assert_array_equal(widen(one), widen(other), err_msg=text)


def test_tables_are_equal(qwix):
    codes = jnp.arange(16).astype(jnp.uint4)[None]
    array = qwix.module.QArray(codes, jnp.ones((1, 1)), qtype="nf4")
    np.testing.assert_array_equal(qwix.module.dequantize(array)[0], np.float32(NF4))


def test_powers_of_two_by_a_logarithm_are_now_and_then_twice_the_exact_ones(qwix):
    exact = np.exp2(np.arange(-60.0, 60.0)).astype(np.float32)[:, None]
    x = jnp.asarray(6 * exact * np.ones((1, 32), np.float32))
    np.testing.assert_array_equal(quantize(x, as_quantizer("mxfp4"), (1,)).plain().scale, exact)
    ratio = np.asarray(theirs(qwix, x, "mxfp4", 32).scale) / exact
    assert set(np.unique(ratio)) == {1, 2}
    in_dialect = quantize(x, as_quantizer("mxfp4 qwix"), (1,)).plain().scale
    np.testing.assert_array_equal(in_dialect / exact, ratio)


def test_small_blocks_keep_a_scale_of_nvfp4(qwix):
    x = jnp.asarray(np.float32([[1e-3] * 16 + [1e-5] * 16]))
    lost = qwix.module.dequantize(theirs(qwix, x, "nvfp4", 16))
    assert (np.asarray(lost) == 0).all()
    ours = quantize(x, as_quantizer("nvfp4"), (1,)).dequantize()
    np.testing.assert_allclose(ours, x, rtol=0.07)
