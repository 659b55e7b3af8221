"""The dialects `torchao` and `torchao_intx` against arrays that torchao computed: every bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass.numerics import TORCHAO, TORCHAO_INTX, as_quantizer, quantize
from qpass.numerics.dialects import least_normal
from tests.numerics.oracle import widen
from tests.numerics.torchao_arrays import DTYPES, cases, joined, load

# eps2m23: the legacy quantizer; epsdef: its formulas with the least scale of the current one.
LEAST = {"eps2m23": TORCHAO, "epsdef": dataclasses.replace(TORCHAO, guard=least_normal)}
WIDTHS = (64, 512)


def run(rows, text, dialect):
    """Scales, zero points, codes and values of an array whose last axis is contracted."""
    quantizer = as_quantizer(text).in_dialect(dialect)
    q, values = jax.jit(_run, static_argnums=1)(rows, quantizer)
    assert q.scale.dtype == jnp.float32
    return {
        "scale": q.scale,
        "zp": jnp.zeros(1, jnp.int8) if q.zero is None else q.zero,
        "q": q.codes,
        "dq": values,
    }


def _run(rows, quantizer):
    q = quantize(rows, quantizer, (1,))
    return q, q.dequantize()


def assert_equal(names, got, wanted):
    """Rows of several cases, one after another; a failure names the case."""
    at = 0
    for name, want in zip(names, wanted, strict=True):
        want = want.reshape(-1, want.shape[-1])
        rows = got[at : at + len(want)]
        np.testing.assert_array_equal(widen(rows), widen(want), err_msg=name)
        at += len(want)
    assert at == len(got)


def column(array):
    return array.reshape(-1, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("least", LEAST)
@pytest.mark.parametrize("width", WIDTHS)
def test_activations_of_the_legacy_quantizer(width, least, dtype):
    arrays = load("act_int8_per_token_asym")
    names = [
        c
        for c in cases("act_int8_per_token_asym", dtype, "x")
        if arrays[f"{c}.{dtype}.x"].shape[-1] == width
    ]
    x = joined([arrays[f"{case}.{dtype}.x"] for case in names], width)
    got = run(jnp.asarray(x), "int8 asym", LEAST[least])
    for key, shaped in (("scale", column), ("zp", column), ("q", np.asarray), ("dq", np.asarray)):
        wanted = [shaped(arrays[f"{case}.{dtype}.{least}.{key}"]) for case in names]
        assert_equal(names, got[key], wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_activations_of_the_current_quantizer(width, dtype):
    arrays, ours = load("act_int8_per_token_asym"), load("act_intx")
    names = [
        c
        for c in cases("act_int8_per_token_asym", dtype, "x")
        if arrays[f"{c}.{dtype}.x"].shape[-1] == width
    ]
    x = joined([arrays[f"{case}.{dtype}.x"] for case in names], width)
    got = run(jnp.asarray(x), "int8 asym", TORCHAO_INTX)
    for key in ("scale", "zp"):
        wanted = [column(arrays[f"{case}.{dtype}.epsdef.{key}"]) for case in names]
        assert_equal(names, got[key], wanted)
    for key in ("q", "dq"):
        assert_equal(names, got[key], [ours[f"{case}.{dtype}.{key}"] for case in names])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize("kind", ["sf32", "sw"])
def test_int4_weights(kind, group, dtype):
    arrays = load("w_int4_group_sym")
    if kind == "sw" and dtype == "f32":
        kind = "sf32"  # the same numbers
        dialect = TORCHAO_INTX
    else:
        dialect = {"sf32": TORCHAO, "sw": TORCHAO_INTX}[kind]
    names = cases("w_int4_group_sym", dtype, "w")
    w = joined([arrays[f"{case}.{dtype}.w"] for case in names], 256)
    got = run(jnp.asarray(w), f"int4 g{group}", dialect)
    for key in ("scale", "q", "dq"):
        wanted = [arrays[f"{case}.{dtype}.g{group}.{kind}.{key}"] for case in names]
        assert_equal(names, got[key], wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", ["sym", "asym"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_of_other_widths(bits, way, dtype):
    given, arrays = load("w_int4_group_sym"), load("w_intx_group64")
    names = cases("w_int4_group_sym", dtype, "w")
    w = joined([given[f"{case}.{dtype}.w"][:4] for case in names], 256)
    text = f"int{bits} g64" + (" asym" if way == "asym" else "")
    for kind, dialect in (("sf32", TORCHAO), ("sT", TORCHAO_INTX)):
        got = run(jnp.asarray(w), text, dialect)
        for key in ("scale", "zp", "q", "dq"):
            keys = [f"{case}.{dtype}.int{bits}.{way}.{kind}.{key}" for case in names]
            if keys[0] in arrays and not (key == "zp" and way == "sym"):
                assert_equal(names, got[key], [arrays[k] for k in keys])
