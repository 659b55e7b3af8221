"""Perplexity, windows, and the reverse dictionary, on answers known beforehand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpass_bench.models import evaluate, fetch, minilm, smollm, texts
from qpass_bench.models.decoder import Forward
from qpass_bench.models.evaluate import (
    make_loss,
    perplexity,
    read_dictionary,
    reciprocal_rank,
    windows,
)
from tests.bench.tiny import TINY, decoder_params


def uniform(params, tokens, cache, position, at=None):
    return jnp.full((*tokens.shape, TINY.vocab), 3.5), cache


def test_a_model_that_knows_nothing_has_the_vocabulary_as_perplexity():
    text = np.random.default_rng(0).integers(0, TINY.vocab, (3, 17)).astype(np.int32)
    assert perplexity(make_loss(uniform, TINY), {}, text) == pytest.approx(TINY.vocab, rel=1e-5)


def test_perplexity_against_numpy():
    rng = np.random.default_rng(0)
    text = rng.integers(0, TINY.vocab, (2, 9)).astype(np.int32)
    table = rng.standard_normal((TINY.vocab, TINY.vocab)).astype(np.float32)
    bigram = lambda params, tokens, cache, position: (params[tokens], cache)  # noqa: E731
    rows = table.astype(np.float64)[text[:, :-1]]
    chosen = np.take_along_axis(rows, text[:, 1:, None], axis=-1)[..., 0]
    want = np.exp(np.mean(np.log(np.exp(rows).sum(-1)) - chosen))
    got = perplexity(make_loss(bigram, TINY), table, text)
    assert got == pytest.approx(want, rel=1e-5)


def test_progress_ticks_once_a_window():
    ticks = []
    text = np.zeros((4, 5), np.int32)
    perplexity(make_loss(Forward(TINY), TINY), decoder_params(), text, lambda: ticks.append(1))
    assert len(ticks) == 4


@given(length=st.integers(1, 9), count=st.integers(1, 5), extra=st.integers(0, 3))
def test_windows_predict_every_token_once(length, count, extra):
    text = list(range(count * length + 1 + extra))
    got = windows(text, length, count)
    assert got.shape == (count, length + 1)
    assert got[:, 1:].ravel().tolist() == text[1 : count * length + 1]


def test_windows_refuse_a_short_text():
    with pytest.raises(ValueError, match="2 windows of 8 tokens need 17 tokens; the text has 16"):
        windows(range(16), 8, 2)


def test_reciprocal_rank_by_hand():
    queries = np.eye(3, dtype=np.float32)
    answers = np.array([[1, 0, 0], [0.1, 0.9, 0.95], [0, 0.9, 0.5]], np.float32)
    # Rows of scores: [1, .1, 0] first; [0, .9, .9] first, ties count for it; [0, .95, .5] second.
    assert reciprocal_rank(queries, answers) == pytest.approx((1 + 1 + 1 / 2) / 3)


LINES = """  1 This software and database is being provided to you
001 03 n 02 guitar 0 stringed_thing 0 000 | an instrument with strings that you pluck; "she plays"
002 03 n 01 Guitar 1 000 | a second entry of the same old word here
003 03 n 01 painter 0 000 | somebody who paints things for a living
004 03 n 01 short 0 000 | too few words
005 03 n 01 ice_cream 0 000 | a frozen dessert made of milk and sugar; eaten cold
006 03 n 01 1984 0 000 | a year that was used as a title
"""


def test_dictionary_drops_what_gives_itself_away(tmp_path):
    path = tmp_path / "data.noun"
    path.write_text(LINES, encoding="latin-1")
    found = read_dictionary(path, count=10)
    assert set(found.words) == {"guitar", "ice cream"}
    gloss = dict(zip(found.words, found.glosses, strict=True))
    assert gloss["ice cream"] == "a frozen dessert made of milk and sugar"


@pytest.mark.checkpoint
def test_the_real_model_reads_ruth_and_its_permutation_reads_the_same():
    model = smollm.load(fetch.fetch(fetch.SMOLLM2))
    bible = texts.verses(fetch.fetch(fetch.KJV))
    ids = model.tokenizer.encode(texts.passage(bible)).ids
    loss = make_loss(Forward(model.config), model.config)
    text = windows(ids, 512, 6)
    as_published = perplexity(loss, smollm.on_device(model.params), text)
    assert as_published == pytest.approx(20.8, abs=0.1)
    permuted = smollm.permute(model.params, model.config)
    assert perplexity(loss, smollm.on_device(permuted), text) == pytest.approx(
        as_published, rel=1e-4
    )


@pytest.mark.checkpoint
def test_the_real_encoder_finds_words_by_definitions():
    model = minilm.load(fetch.fetch(fetch.MINILM))
    entries = read_dictionary(fetch.fetch_wordnet())
    encode = jax.jit(minilm.Encode(model.config))
    vectors = [
        minilm.embed(encode, model.params, minilm.tokenize(model.tokenizer, list_))
        for list_ in (entries.glosses, entries.words)
    ]
    assert evaluate.reciprocal_rank(*vectors) == pytest.approx(0.2755, abs=5e-4)
