"""The encoder against BERT in float64, written from the checkpoint's names."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass_bench.models import fetch, minilm
from qpass_bench.models.minilm import Encode, Encoder, EncoderConfig, to_tree

SMALL = EncoderConfig(vocab=50, positions=12, layers=2, width=24, heads=3, hidden=40)


def checkpoint(c, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "embeddings.word_embeddings.weight": (c.vocab, c.width),
        "embeddings.position_embeddings.weight": (c.positions, c.width),
        "embeddings.token_type_embeddings.weight": (2, c.width),
    }
    linear = {f"attention.self.{n}": (c.width, c.width) for n in ("query", "key", "value")}
    linear |= {
        "attention.output.dense": (c.width, c.width),
        "intermediate.dense": (c.hidden, c.width),
        "output.dense": (c.width, c.hidden),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(c.layers):
        prefix = f"encoder.layer.{i}."
        norms += [f"{prefix}attention.output.LayerNorm", f"{prefix}output.LayerNorm"]
        for name, shape in linear.items():
            shapes |= {f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (c.width,), f"{name}.bias": (c.width,)}
    return {name: 0.5 * rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


def bert(w, c, ids, mask):
    """Vectors ``[B, D]`` in float64."""
    w = {name: value.astype(np.float64) for name, value in w.items()}
    erf = np.vectorize(math.erf)

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + c.eps)
        return unit * w[f"{name}.weight"] + w[f"{name}.bias"]

    linear = lambda x, name: x @ w[f"{name}.weight"].T + w[f"{name}.bias"]  # noqa: E731
    batch, steps = ids.shape
    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.position_embeddings.weight"][:steps]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for i in range(c.layers):
        p = f"encoder.layer.{i}."
        q, k, v = (
            linear(x, f"{p}attention.self.{n}").reshape(batch, steps, c.heads, -1)
            for n in ("query", "key", "value")
        )
        scores = np.einsum("bthd,bshd->bhts", q, k) / np.sqrt(c.width / c.heads)
        weights = np.exp(np.where(mask[:, None, None] > 0, scores, -np.inf))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("bhts,bshd->bthd", weights, v).reshape(x.shape)
        mixed = linear(mixed, f"{p}attention.output.dense")
        x = norm(x + mixed, f"{p}attention.output.LayerNorm")
        h = linear(x, f"{p}intermediate.dense")
        h = h * 0.5 * (1 + erf(h / np.sqrt(2)))
        x = norm(x + linear(h, f"{p}output.dense"), f"{p}output.LayerNorm")
    mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def batch():
    ids = np.random.default_rng(1).integers(0, SMALL.vocab, (3, 7)).astype(np.int32)
    mask = np.asarray([[1] * 7, [1] * 4 + [0] * 3, [1] + [0] * 6], np.int32)
    return ids, mask


def test_loaded_tree_computes_bert():
    weights, (ids, mask) = checkpoint(SMALL), batch()
    got = Encode(SMALL)(to_tree(weights, SMALL), ids, mask)
    np.testing.assert_allclose(got, bert(weights, SMALL, ids, mask), atol=2e-5)


def test_tree_is_that_of_the_module():
    ids, mask = batch()
    made = Encoder(SMALL).init(jax.random.key(0), ids, mask)["params"]
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)  # noqa: E731
    assert shapes(to_tree(checkpoint(SMALL), SMALL)) == shapes(made)


def test_padding_changes_nothing():
    params, (ids, mask) = to_tree(checkpoint(SMALL), SMALL), batch()
    short = Encode(SMALL)(params, ids[1:2, :4], mask[1:2, :4])
    np.testing.assert_allclose(Encode(SMALL)(params, ids, mask)[1:2], short, atol=1e-5)


def test_embedding_in_batches_is_embedding_at_once():
    params, tokens = to_tree(checkpoint(SMALL), SMALL), np.stack(batch())
    encode, ticks = Encode(SMALL), []
    parts = minilm.embed(encode, params, tokens, batch=2, tick=lambda: ticks.append(1))
    np.testing.assert_allclose(parts, encode(params, *tokens), atol=1e-5)
    assert len(ticks) == 2


@pytest.mark.checkpoint
def test_the_real_encoder_knows_that_a_guitar_is_an_instrument():
    model = minilm.load(fetch.fetch(fetch.MINILM))
    sentences = ["A man is playing a guitar.", "Someone plays an instrument."]
    sentences += ["The stock market fell sharply today.", "Shares dropped on Wall Street."]
    tokens = minilm.tokenize(model.tokenizer, sentences)
    vectors = minilm.embed(Encode(model.config), model.params, tokens)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] == pytest.approx(0.667, abs=1e-3)
    assert cosines[2, 3] == pytest.approx(0.561, abs=1e-3)
    assert cosines[:2, 2:].max() < 0
