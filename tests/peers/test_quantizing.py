"""12, 13 and 14. Quantizing needed two models, happened twice, or made one row slower."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np

import qpass
from qpass_kernels import KERNELS, portable
from tests.peers.common import INT8, arrays, quantized_weights
from tests.programs import CASES, rules

LAYERS, WIDTH = 6, 67


def tower(p, x):
    for w in p.values():
        x = jnp.tanh(x @ w)
    return x


def alive():
    """Bytes of all arrays of a layer's shape, one byte a code."""
    shape = (WIDTH, WIDTH)
    return sum(a.nbytes for a in jax.live_arrays() if a.shape == shape and not a.is_deleted())


def test_quantizing_takes_one_leaf_more_than_the_model(monkeypatch):
    """A clone of the model needed 33.4 GB of 31.2 (tpu-inference #3439, with Qwix)."""
    params, x = arrays(2, WIDTH, **{f"w{k}": (WIDTH, WIDTH) for k in range(LAYERS)})
    q = qpass.transform(tower, INT8)
    q.quantize(params, x)  # compiled by now
    before, peaks = alive(), []
    module = importlib.import_module("qpass.quantize")
    encode = module.encode_weight

    def watched(*args, **options):
        codes = encode(*args, **options)
        peaks.append(alive())
        return codes

    monkeypatch.setattr(module, "encode_weight", watched)
    qparams = q.quantize(params, x, donate=True)
    leaf = WIDTH * WIDTH
    assert before == LAYERS * leaf * 4
    assert peaks == [before + leaf - k * 3 * leaf for k in range(LAYERS)]
    assert all(w.is_deleted() for w in params.values())
    assert alive() == sum(w.codes.nbytes for w in qparams.values()) == LAYERS * leaf


def test_overlapping_rules_quantize_once():
    """Two rules for one layer were both applied (tpu-inference #3500, with Qwix)."""
    params, x = CASES["matmul"].arguments()
    once = qpass.transform(CASES["matmul"].fn, INT8)
    both = qpass.transform(CASES["matmul"].fn, [*INT8, *INT8, *rules("int4")])
    np.testing.assert_array_equal(both(params, x), once(params, x))
    assert jax.tree.leaves(both.quantize(params, x))[0].dtype == jnp.int8


def test_quantized_leaves_are_not_quantized_again():
    params, x = CASES["chain"].arguments()
    q = qpass.transform(CASES["chain"].fn, INT8)
    once = q.quantize(params, x)
    twice = q.quantize(once, x)
    assert quantized_weights(CASES["chain"].fn, once, x) == {"up", "down"}
    assert all(
        one is other for one, other in zip(*map(jax.tree.leaves, (once, twice)), strict=True)
    )


def test_one_row_is_not_multiplied_as_one_row_on_cpu():
    """XLA's int8 product with M = 1 is 17 times as slow as with two rows."""
    params, x = CASES["one row"].arguments()
    q = jax.jit(qpass.transform(CASES["one row"].fn, INT8, kernels=portable(KERNELS)))
    text = q.trace(params, x).lower(lowering_platforms=("cpu",)).as_text()
    (product,) = [line for line in text.splitlines() if "dot_general" in line]
    assert "1x2x40xi8" in product
    assert q(params, x).shape == (1, 24)
