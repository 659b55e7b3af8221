"""Codes, scales and zero points of single arrays against Qwix and AQT themselves, bit for bit."""

import importlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass.numerics import as_quantizer, quantize
from tests.numerics.oracle import FLOATS, widen

# What Qwix calls the types that it takes as dtypes.
QWIX_NAMES = {
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "fp8_e4m3fnuz": "float8_e4m3fnuz",
    "fp8_e5m2fnuz": "float8_e5m2fnuz",
    "fp8_e4m3b11fnuz": "float8_e4m3b11fnuz",
    "fp4_e2m1": "float4_e2m1fn",
}
AQT_NAMES = {"fp8_e4m3": "e4m3", "fp8_e5m2": "e5m2"}
# granularity -> Qwix's channelwise axes and tiles
CHANNELS = {"": ((0,), {}), "tensor": ((), {}), "g16": ((0,), {1: 16}), "axis0,1": ((0, 1), {})}
AQT_AXES = {"": (1,), "tensor": (0, 1), "g16": (2,)}
# Each kind of code, and of range; the other types are their neighbours.
USUAL = ("int8", "int4", "fp8_e4m3", "nf4", "int8 asym", "int4 asym")
OTHERS = (
    *("int7", "int6", "int5", "int3", "int2"),
    *("fp8_e5m2", "fp8_e4m3fnuz", "fp8_e5m2fnuz", "fp8_e4m3b11fnuz", "fp4_e2m1"),
)
AQT_USUAL, AQT_OTHERS = ("int8", "int4", "fp8_e4m3"), ("int7", "int6", "int5", "int3", "int2")
RANGED = ("int8 absmax,0.9", "int4 absmax,0.77", "int8 asym absmax,0.9")


def arrays(dtype, least=-14):
    """Rows off the middle, of magnitudes from 2**-14 to 2**14, one of zeros."""
    for low, high in ((-4, 4), (least, least + 10), (6, 14)):
        rng = np.random.default_rng(0)
        size = np.exp2(rng.uniform(low, high, (2, 16, 1)))
        x = rng.standard_normal((16, 64)) * size[0] + rng.standard_normal((16, 1)) * size[1]
        x[3] = 0
        yield jnp.asarray(np.clip(x, -30000, 30000), dtype)


def parts(q):
    return {"codes": q.codes, "scale": q.scale} | ({} if q.zero is None else {"zero": q.zero})


def with_qwix(module, x, text, cut):
    name, *rest = text.split()
    method = next((word for word in rest if "," in word), "absmax")
    channels, tiles = CHANNELS[cut]
    q = module.quantize(
        x,
        QWIX_NAMES.get(name, name),
        channelwise_axes=channels,
        tiled_axes=tiles,
        calibration_method=method.replace("absmax", "minmax") if "asym" in rest else method,
    )
    zero = {} if q.zero_point is None else {"zero": q.zero_point}
    return {"codes": q.qvalue, "scale": q.scale} | zero


def with_aqt(module, x, text, cut):
    bits = AQT_NAMES.get(text) or int(text.removeprefix("int"))
    tiled = x.reshape(x.shape[0], -1, 16) if cut == "g16" else x
    q, _ = module.quantizer_make(bits).quant(tiled, calibration_axes=AQT_AXES[cut])
    (scale,) = q.scale
    if cut == "g16":
        scale = scale.squeeze(2)
    return {"codes": q.qvalue.reshape(x.shape), "scale": scale}


def with_qpass(x, text, cut, dialect):
    name, *rest = text.split()
    quantizer = as_quantizer(" ".join(filter(None, (name, cut, *rest, dialect))))
    return parts(quantize(x, quantizer, (1,)))


def assert_agree(run, dialect, dtype, cases, least=-14):
    """Two programs for all cases, compiled once for each dtype."""
    theirs = jax.jit(lambda x: {case: run(x, *case) for case in cases})
    ours = jax.jit(lambda x: {case: with_qpass(x, *case, dialect) for case in cases})
    for x in arrays(dtype, least):
        found, wanted = ours(x), theirs(x)
        for case in cases:
            assert found[case].keys() == wanted[case].keys()
            for part, got in found[case].items():
                np.testing.assert_array_equal(
                    widen(got), widen(wanted[case][part]), err_msg=f"{part} of {case}"
                )


def crossed(texts, cuts):
    return [(text, cut) for text in texts for cut in cuts]


@pytest.mark.parametrize("dtype", FLOATS)
def test_an_array_has_the_codes_and_scales_of_qwix(qwix, dtype):
    assert_agree(partial(with_qwix, qwix.module), "qwix", dtype, crossed(USUAL, CHANNELS))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FLOATS)
def test_arrays_of_all_other_types_have_those_of_qwix(qwix, dtype):
    assert_agree(partial(with_qwix, qwix.module), "qwix", dtype, crossed(OTHERS, CHANNELS))


@pytest.mark.parametrize("dtype", FLOATS)
def test_clipped_ranges_have_those_of_qwix(qwix, dtype):
    """In float32 XLA scales both ends of an asymmetric range and subtracts in one operation."""
    texts = RANGED[:2] if dtype == jnp.float32 else RANGED
    fixed = [("int8 fixed,-4,4", "tensor"), ("int8 asym fixed,-1,4", "tensor")]
    cases = crossed(texts, ("", "g16")) + fixed
    assert_agree(partial(with_qwix, qwix.module), "qwix", dtype, cases)


@pytest.fixture
def aqt():
    """The quantizers of AQT v2."""
    pytest.importorskip("aqt", reason="needs the extra peers: aqtp==0.9.0")
    return importlib.import_module("aqt.jax.v2.aqt_quantizer")


@pytest.mark.parametrize("dtype", FLOATS)
def test_an_array_has_the_codes_and_scales_of_aqt(aqt, dtype):
    assert_agree(partial(with_aqt, aqt), "aqt", dtype, crossed(AQT_USUAL, AQT_AXES), least=-30)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FLOATS)
def test_arrays_of_all_other_types_have_those_of_aqt(aqt, dtype):
    assert_agree(
        partial(with_aqt, aqt),
        "aqt",
        dtype,
        crossed((*AQT_OTHERS, "fp8_e5m2"), AQT_AXES),
        least=-30,
    )
