"""What a model is worth: perplexity on running text, and finding words by their definitions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qpass_bench.models.decoder import DecoderConfig, empty_cache

Tick = Callable[[], None]
Loss = Callable[[Any, jax.Array], jax.Array]


def make_loss(forward: Callable, config: DecoderConfig) -> Loss:
    """``loss(params, tokens i32[B, T + 1])``: negative log likelihood, summed over T tokens."""

    @jax.jit
    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        context, targets = tokens[:, :-1], tokens[:, 1:]
        cache = empty_cache(config, *context.shape)
        logits, _ = forward(params, context, cache, jnp.int32(0))
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jnp.sum(jax.nn.logsumexp(logits, axis=-1) - chosen)

    return loss


def windows(tokens: Sequence[int], length: int, count: int) -> np.ndarray:
    """``count`` windows of ``length`` predictions: ``i32[count, length + 1]``.

    The last token of one, only predicted, is the first of the next, only read.

    Raises:
        ValueError: the text is shorter than that.
    """
    if len(tokens) < count * length + 1:
        raise ValueError(
            f"{count} windows of {length} tokens need {count * length + 1} tokens; "
            f"the text has {len(tokens)}."
        )
    starts = np.arange(count)[:, None] * length
    return np.asarray(tokens, np.int32)[starts + np.arange(length + 1)]


def perplexity(loss: Loss, params: Any, texts: np.ndarray, tick: Tick = lambda: None) -> float:
    """Exp of the mean negative log likelihood over windows ``i32[n, T + 1]``, one by one."""
    total = 0.0
    for window in texts:
        total += float(loss(params, jnp.asarray(window[None])))
        tick()
    return math.exp(total / (texts.shape[0] * (texts.shape[1] - 1)))


@dataclass(frozen=True)
class Dictionary:
    """Words and their definitions, in the same order."""

    words: tuple[str, ...]
    glosses: tuple[str, ...]


def read_dictionary(path: Path, count: int = 1000, seed: int = 0) -> Dictionary:
    """``count`` nouns of WordNet's ``data.noun`` with definitions that do not give the word away.

    A definition counts up to its first semicolon, if it has six words and holds no four-letter
    beginning of the word itself. Each word occurs once.
    """
    entries = [entry for line in _lines(path) if (entry := _entry(line)) is not None]
    order = np.random.default_rng(seed).permutation(len(entries))
    chosen: dict[str, str] = {}
    for index in order:
        if len(chosen) == count:
            break
        word, gloss = entries[index]
        chosen.setdefault(word, gloss)
    return Dictionary(tuple(chosen), tuple(chosen.values()))


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="latin-1")
    return [line for line in text.splitlines() if not line.startswith("  ")]


def _entry(line: str) -> tuple[str, str] | None:
    head, gloss = line.split("|", 1)
    word = head.split()[4].replace("_", " ").lower()
    gloss = re.sub(r';\s*".*', "", gloss).split(";")[0].strip()
    plain = len(word) > 3 and re.fullmatch(r"[a-z ]+", word) and len(gloss.split()) >= 6
    hidden = not any(part[:4] in gloss.lower() for part in word.split())
    return (word, gloss) if plain and hidden else None


def reciprocal_rank(queries: np.ndarray, answers: np.ndarray) -> float:
    """Mean reciprocal rank of ``answers[i]`` for ``queries[i]``; ``f32[n, d]`` of unit length."""
    scores = queries @ answers.T
    rank = (scores > np.diagonal(scores)[:, None]).sum(axis=1)
    return float(np.mean(1.0 / (rank + 1)))


def mean_cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Mean cosine between rows of unit length, ``f32[n, d]`` each."""
    return float(np.mean(np.sum(one * other, axis=1)))
