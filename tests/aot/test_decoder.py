"""The decoder that is timed on a GPU, compiled for one that is not there: a layer and the head."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import qpass
from qpass_bench.gpu import decoder
from qpass_kernels import KERNELS
from tests.aot.devices import h200, lower

pytestmark = pytest.mark.aot
LAYER = dataclasses.replace(decoder.LLAMA, layers=1, vocab=1024)


@pytest.mark.parametrize(
    ("rules", "length"),
    [(decoder.DECODE, 1), (decoder.PREFILL, 512)],
    ids=["decode", "prefill"],
)
def test_runs_in_kernels_of_ours(rules, length):
    params = jax.eval_shape(lambda: decoder.draw(LAYER))
    cache = jax.eval_shape(lambda: decoder.empty_cache(LAYER, 1024))
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    position = jax.ShapeDtypeStruct((), jnp.int32)
    q = qpass.transform(decoder.Decoder(LAYER), rules, kernels=KERNELS)
    plan = q.plan(params, tokens, cache, position, platform="cuda")
    quantized = [row for row in plan.rows if row.kernel]
    assert len(quantized) == 8
    assert all(row.kernel.startswith("hopper") for row in quantized)
    stored = jax.eval_shape(q.quantize, params, tokens, cache, position)
    text = lower(h200(), q, stored, tokens, cache, position).compile().as_text()
    assert text.count("mosaic_gpu") >= len(quantized)
