"""Models that ways to quantize are tried on, each with data for them and with what it is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qpass_bench.demo import demo, retrieval
from qpass_bench.demo.heldout import pydoc_topics
from qpass_bench.demo.options import Options
from qpass_bench.models import fetch, minilm, smollm, texts
from qpass_bench.models.decoder import Forward
from qpass_bench.models.evaluate import (
    Dictionary,
    make_loss,
    mean_cosine,
    perplexity,
    read_dictionary,
    reciprocal_rank,
    windows,
)
from qpass_bench.running.progress import Stages

GENESIS, RUTH = 1, 8
WINDOW = 512
WORDS = 1000
ROWS = 32
"""Definitions in a batch of data for the encoder."""


@dataclass(frozen=True)
class Subject:
    """A pretrained model.

    Attributes:
        name: for tables.
        about: what is quantized, found on what, and judged on what.
        fn: a function of the parameters and a batch.
        params: float.
        path: the weights that are quantized.
        data: batches, each a tuple of arguments.
        judge: of float parameters, figures by name.
    """

    name: str
    about: Mapping[str, Any]
    fn: Callable[..., Any]
    params: Any
    path: str
    data: list[tuple[jax.Array, ...]]
    judge: Callable[[Any], dict[str, float]]


def load(options: Options, count: int, stages: Stages) -> tuple[smollm.SmolLM, dict[str, Any]]:
    """The decoder, and windows ``i32[n, T + 1]``: ``"data"``, and by text those to judge on."""
    model, _ = demo.load(options, stages)
    bible = texts.verses(fetch.fetch(fetch.KJV, options.cache))

    def cut(text: str, n: int) -> np.ndarray:
        return windows(model.tokenizer.encode(text).ids, WINDOW, n)

    half = count // 2
    topics = pydoc_topics(60)
    first = pydoc_topics(30)
    data = [cut(texts.passage(bible, GENESIS, 1000), half), cut(topics[len(first) :], count - half)]
    judged = {
        "Ruth (KJV)": cut(texts.passage(bible, RUTH), options.windows),
        "pydoc topics": cut(first, options.windows),
    }
    return model, {"data": np.concatenate(data), **judged}


def decoder(options: Options, count: int, stages: Stages) -> Subject:
    """SmolLM2, by its perplexity; ``count`` windows of data."""
    model, found = load(options, count, stages)
    data = [(jnp.asarray(pair),) for pair in np.split(found.pop("data"), count // 2)]
    loss = make_loss(Forward(model.config), model.config)

    def judge(params: Any) -> dict[str, float]:
        return {name: perplexity(loss, params, text) for name, text in found.items()}

    about = {
        "quantized": "layers; channels permuted",
        "tokens": {"data": count * WINDOW, "judged": options.windows * WINDOW},
        "figures": "perplexity",
    }
    return Subject("SmolLM2-135M-Instruct", about, loss, model.params, "layers/**", data, judge)


def encoder(options: Options, count: int, stages: Stages) -> Subject:
    """MiniLM, by words found by their definitions; ``count`` batches of other definitions."""
    with stages.stage("Fetch the encoder"):
        model = minilm.load(fetch.fetch(fetch.MINILM, options.cache))
        entries = read_dictionary(fetch.fetch_wordnet(options.cache), WORDS + count * ROWS)
    judged = Dictionary(entries.words[:WORDS], entries.glosses[:WORDS])
    glosses, words = retrieval.tokens(model, judged)
    rest = minilm.tokenize(model.tokenizer, entries.glosses[WORDS:])
    params = jax.tree.map(jnp.asarray, model.params)
    encode = minilm.Encode(model.config)
    run = jax.jit(encode)
    wanted = minilm.embed(run, params, glosses)

    def judge(params: Any) -> dict[str, float]:
        queries, answers = (minilm.embed(run, params, tokens) for tokens in (glosses, words))
        rank = reciprocal_rank(queries, answers)
        return {"reciprocal rank": rank, "1 - cosine to float": 1 - mean_cosine(queries, wanted)}

    data = [(jnp.asarray(i), jnp.asarray(m)) for i, m in np.split(rest, count, axis=1)]
    about = {
        "quantized": "layers",
        "tokens": {"data": int(rest[1].sum()), "judged": int(glosses[1].sum())},
        "figures": f"mean reciprocal rank of {WORDS} words, distance of their definitions",
    }
    return Subject("all-MiniLM-L6-v2", about, encode, params, "layer_*/**", data, judge)


SUBJECTS = {"decoder": decoder, "encoder": encoder}
