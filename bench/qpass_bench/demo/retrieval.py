"""The second model: a sentence encoder finds words by their definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qpass_bench.cases.schemes import ENCODER_VARIANTS
from qpass_bench.models import fetch, minilm
from qpass_bench.models.evaluate import Dictionary, mean_cosine, read_dictionary, reciprocal_rank
from qpass_bench.running.contestant import Contestant, enter, sizes
from qpass_bench.running.progress import Stages

BATCH = 50


def run(cache: Path | None, stages: Stages, count: int = 1000) -> dict[str, Any]:
    """Mean reciprocal rank and cosine to float of MiniLM under each variant.

    Raises:
        FetchError: the model or WordNet could not be had.
    """
    with stages.stage("Fetch the second model", 2) as tick:
        weights = fetch.fetch(fetch.MINILM, cache)
        tick()
        nouns = fetch.fetch_wordnet(cache)
        tick()
    model, entries = minilm.load(weights), read_dictionary(nouns, count)
    glosses, words = tokens(model, entries)
    contestants = rewrite(model, glosses)
    rounds = len(contestants) * 2 * -(-count // BATCH)
    with stages.stage("Find words by definitions", rounds) as tick:
        vectors = [embed(contestant, glosses, words, tick) for contestant in contestants]
    float_bytes = sizes(contestants[0].params, contestants[0].params).total
    return {
        "name": "all-MiniLM-L6-v2",
        "words": count,
        "variants": [
            {
                "name": c.name,
                "about": c.variant.about,
                "sizes": sizes(c.params, contestants[0].params).report(float_bytes),
                "reciprocal_rank": reciprocal_rank(queries, answers),
                "mean_cosine": mean_cosine(queries, vectors[0][0]),
            }
            for c, (queries, answers) in zip(contestants, vectors, strict=True)
        ],
    }


def tokens(model: minilm.MiniLM, entries: Dictionary) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and masks of the definitions and of the words, ``i32[2, n, T]`` each."""
    read = model.tokenizer
    return minilm.tokenize(read, entries.glosses), minilm.tokenize(read, entries.words)


def rewrite(model: minilm.MiniLM, glosses: np.ndarray) -> list[Contestant]:
    """The float encoder and its rivals."""
    params = jax.tree.map(jnp.asarray, model.params)
    example = (jnp.asarray(glosses[0, :BATCH]), jnp.asarray(glosses[1, :BATCH]))
    encode = minilm.Encode(model.config)
    return [enter(variant, encode, params, *example) for variant in ENCODER_VARIANTS]


def embed(
    contestant: Contestant, glosses: np.ndarray, words: np.ndarray, tick: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the definitions and of the words."""
    encode = jax.jit(contestant.forward)
    return (
        minilm.embed(encode, contestant.params, glosses, BATCH, tick),
        minilm.embed(encode, contestant.params, words, BATCH, tick),
    )
