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

# Of activations, by key: the quantizer of before, and its formulas with the other least scale.
LEAST = {"eps2m23": TORCHAO, "epsdef": dataclasses.replace(TORCHAO, guard=least_normal)}
# Of weights: the dtype of scales.
KINDS = {"sf32": TORCHAO, "sT": TORCHAO_INTX}


def run(rows, quantizers):
    """Scales, zero points, codes and values for each quantizer, along the last axis."""

    @jax.jit
    def both(rows):
        found = {key: quantize(rows, q, (1,)) for key, q in quantizers.items()}
        return {key: (q, q.dequantize()) for key, q in found.items()}

    return {key: _parts(*found) for key, found in both(jnp.asarray(rows)).items()}


def _parts(q, values):
    assert q.scale.dtype == jnp.float32
    zero = jnp.zeros(q.scale.shape, jnp.int8) if q.zero is None else q.zero
    return {"scale": q.scale, "zp": zero, "q": q.codes, "dq": values}


def assert_equal(names, got, wanted):
    """Rows of several cases, one after another; a failure names the case."""
    at = 0
    for name, want in zip(names, wanted, strict=True):
        want = want.reshape(-1, got.shape[-1])
        rows = got[at : at + len(want)]
        np.testing.assert_array_equal(widen(rows), widen(want), err_msg=name)
        at += len(want)
    assert at == len(got)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [64, 512])
def test_activations(width, dtype):
    """One zero point for each row; `act_intx` has the codes of the current quantizer."""
    arrays, current = load("act_int8_per_token_asym"), load("act_intx")
    names = [
        case
        for case in cases("act_int8_per_token_asym", dtype, "x")
        if arrays[f"{case}.{dtype}.x"].shape[-1] == width
    ]
    x = joined([arrays[f"{case}.{dtype}.x"] for case in names])
    spoken = LEAST | {"intx": TORCHAO_INTX}
    found = run(x, {key: as_quantizer("int8 asym").in_dialect(d) for key, d in spoken.items()})
    for key, got in found.items():
        kind = "epsdef" if key == "intx" else key
        for part, array in got.items():
            if key == "intx" and part in ("q", "dq"):
                wanted = [current[f"{case}.{dtype}.{part}"] for case in names]
            else:
                wanted = [arrays[f"{case}.{dtype}.{kind}.{part}"] for case in names]
            assert_equal(names, array, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_int4_weights(dtype):
    arrays = load("w_int4_group_sym")
    names = cases("w_int4_group_sym", dtype, "w")
    w = joined([arrays[f"{case}.{dtype}.w"] for case in names])
    # In float32 both kinds are one, and so are the dialects.
    kinds = {"sf32": TORCHAO, "sw": TORCHAO_INTX}
    keys = {(group, kind): d for group in (32, 128) for kind, d in kinds.items()}
    found = run(w, {key: as_quantizer(f"int4 g{key[0]}").in_dialect(d) for key, d in keys.items()})
    for (group, kind), got in found.items():
        kind = "sf32" if dtype == "f32" else kind
        for part in ("scale", "q", "dq"):
            wanted = [arrays[f"{case}.{dtype}.g{group}.{kind}.{part}"] for case in names]
            assert_equal(names, got[part], wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", ["sym", "asym"])
def test_weights_of_other_widths(way, dtype):
    given, arrays = load("w_int4_group_sym"), load("w_intx_group64")
    names = cases("w_int4_group_sym", dtype, "w")
    w = joined([given[f"{case}.{dtype}.w"][:4] for case in names])
    word = " asym" if way == "asym" else ""
    keys = [(bits, kind) for bits in (2, 3, 4, 8) for kind in KINDS]
    found = run(
        w, {(b, k): as_quantizer(f"int{b} g64{word}").in_dialect(KINDS[k]) for b, k in keys}
    )
    for (bits, kind), got in found.items():
        for part in ("scale", "zp", "q", "dq") if bits == 4 else ("scale", "zp", "q"):
            path = f"int{bits}.{way}.{kind}.{part}"
            assert_equal(names, got[part], [arrays[f"{case}.{dtype}.{path}"] for case in names])
