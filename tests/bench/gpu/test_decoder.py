"""The decoder that is timed on a GPU: what it keeps of a prompt is what it needs later."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from qpass_bench.gpu.decoder import LLAMA, Decoder, draw, empty_cache

TINY = dataclasses.replace(
    LLAMA, layers=1, width=32, heads=4, kv_heads=2, head_dim=8, hidden=48, vocab=50
)


def test_a_token_at_a_time_is_as_good_as_the_whole_prompt():
    params, model = draw(TINY), jax.jit(Decoder(TINY))
    tokens = jnp.array([[3, 1, 4, 1, 5]])
    want, _ = model(params, tokens, empty_cache(TINY, 8), 0)
    _, cache = model(params, tokens[:, :4], empty_cache(TINY, 8), 0)
    got, cache = model(params, tokens[:, 4:], cache, 4)
    assert [x.shape for x in cache[0].values()] == [(1, 2, 8, 8), (1, 2, 8, 8)]
    np.testing.assert_allclose(got.astype("float32"), want.astype("float32"), atol=0.1)
