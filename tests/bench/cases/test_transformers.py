"""Blocks and models: the demo's decoder spelled out, in both layouts, alone and in loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass_bench.cases import transformers
from qpass_bench.cases.catalogue import Sizes, Transformer
from qpass_bench.cases.schemes import Variant
from qpass_bench.models import decoder
from tests.bench.tiny import TINY, decoder_params

BLOCK = Sizes("tiny", 64, 96, 4, 2, 16, layers=2)
ENCODER = Sizes("tiny", 64, 96, 4, 4, 16, layers=2, decoder=False)
WHOLE = Sizes("tiny", 64, 96, 4, 2, 16, layers=TINY.layers, vocab=TINY.vocab)
PLAIN, TURNED = Variant("plain", ""), Variant("turned", "", turned=True)


def test_the_model_is_the_demos():
    params = decoder_params()
    config = transformers.decoder_config(WHOLE)
    tokens = jnp.arange(6, dtype=jnp.int32)[None]
    example = tokens, decoder.empty_cache(config, 1, 8), jnp.int32(0)
    ours, cache = transformers.Decoder(config)(params, *example)
    theirs, their_cache = decoder.Forward(config)(params, *example)
    # Flax's norm takes the mean of squares in another way
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), cache, their_cache)


@pytest.mark.parametrize(
    "case",
    [
        Transformer(BLOCK, "decode", 2, context=3),
        Transformer(BLOCK, "prefill", 1, length=5),
        Transformer(ENCODER, "encode", 2, length=5),
    ],
    ids=lambda case: case.kind,
)
def test_turned_weights_give_the_same(case):
    drawn = transformers.draw(case)
    results = []
    for variant in (PLAIN, TURNED):
        made = transformers.setup(case, variant, drawn)
        results.append(jax.tree.leaves(made.forward(made.params, *made.example))[0])
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-4)


def test_turned_weights_are_contracted_along_their_last_axes():
    layers = transformers.draw(Transformer(BLOCK, "decode", 1))["layers"]
    turned = jax.vmap(transformers.turn)(layers)
    assert layers["attention"]["q"]["kernel"].shape == (2, 64, 4, 16)
    assert turned["attention"]["q"]["kernel"].shape == (2, 4, 16, 64)
    assert layers["attention"]["o"]["kernel"].shape == (2, 4, 16, 64)
    assert turned["attention"]["o"]["kernel"].shape == (2, 64, 4, 16)
    assert turned["mlp_norm"]["scale"].shape == (2, 64)


def test_decoding_and_prefill_run_in_loops():
    drawn = decoder_params()
    decode = Transformer(WHOLE, "decode", 2, context=3, steps=4)
    made = transformers.setup(decode, PLAIN, drawn)
    said, steps, _ = made.program(made.forward)(made.params, *made.args)
    assert (said.shape, int(steps)) == ((2, 7), 4)
    prefill = Transformer(WHOLE, "prefill", 1, length=5)
    made = transformers.setup(prefill, PLAIN, drawn)
    first, cache = made.program(made.forward)(made.params, *made.args)
    assert first.shape == (1,)
    assert cache["v"].shape[3] == 5
