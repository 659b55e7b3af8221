"""Perplexity of SmolLM2 with its KV cache in fewer bits, over windows of 1,024 tokens.

``python -m qpass_bench.demo.caches --out bench/results/caches-cpu.json`` reads real text in pieces
of 128 tokens, each with all that stands before it in the cache: what attention sees of the past,
and of the piece itself, is what the cache holds. Weights and activations stay float32.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import qpass
from qpass_bench.demo import demo
from qpass_bench.demo.options import Options
from qpass_bench.models import fetch, smollm, texts
from qpass_bench.models.decoder import DecoderConfig, Forward, empty_cache
from qpass_bench.models.evaluate import Tick, windows
from qpass_bench.running.measure import machine
from qpass_bench.running.progress import Stages

type Stores = tuple[str, str]

WINDOW, PIECE, WINDOWS = 1024, 128, 4
STORES = (
    ("int8", "int8"),
    ("fp8_e4m3", "fp8_e4m3"),
    ("int8", "int4 g32"),
    ("int4 g8", "int4 g32"),
    ("int4 g32", "int4 g32"),
)
"""Of keys and of values."""


def read_piece(config: DecoderConfig, forward: Callable) -> Callable:
    """``(params, tokens i32[1, T + 1], cache, position)`` -> summed loss of T tokens, the cache."""

    def piece(params: Any, tokens: jax.Array, cache: Any, position: jax.Array) -> tuple:
        logits, cache = forward(params, tokens[:, :-1], cache, position)
        chosen = jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0]
        return jnp.sum(jax.nn.logsumexp(logits, axis=-1) - chosen), cache

    return jax.jit(piece, donate_argnums=2)


def perplexity(piece: Callable, params: Any, empty: Callable, cut: np.ndarray, tick: Tick) -> float:
    """Exp of the mean loss over windows ``i32[n, WINDOW + 1]``, each from an empty cache."""
    total = 0.0
    for window in cut:
        cache = empty()
        for start in range(0, cut.shape[1] - 1, PIECE):
            tokens = jnp.asarray(window[None, start : start + PIECE + 1])
            loss, cache = piece(params, tokens, cache, jnp.int32(start))
            total += float(loss)
        tick()
    return math.exp(total / (cut.shape[0] * (cut.shape[1] - 1)))


def measure(
    model: smollm.SmolLM, stores: Stores | None, cut: np.ndarray, tick: Tick
) -> dict[str, Any]:
    """Perplexity and bytes of one way to store the cache; None for float32."""
    config, forward = model.config, Forward(model.config)
    float_cache = lambda: empty_cache(config, 1, WINDOW)  # noqa: E731
    empty, bytes_before = float_cache, qpass.tree_nbytes(float_cache())
    if stores is not None:
        rules = [
            qpass.Rule(cache=f"cache/{name}", store=store)
            for name, store in zip("kv", stores, strict=True)
        ]
        forward = qpass.transform(forward, rules)
        example = jnp.zeros((1, PIECE), jnp.int32)
        empty = lambda: forward.quantize_cache(  # noqa: E731
            model.params, example, float_cache(), jnp.int32(0)
        )
    found = perplexity(read_piece(config, forward), model.params, empty, cut, tick)
    return {"perplexity": found, "bytes": qpass.tree_nbytes(empty()), "of": bytes_before}


def run(
    count: int = WINDOWS, stores: Sequence[Stores] = STORES, options: Options = demo.DEFAULTS
) -> dict[str, Any]:
    """Perplexity and bytes of every way to store the cache, and their ratios to float32."""
    stages = Stages(Console(stderr=True))
    model, _ = demo.load(options, stages)
    bible = texts.verses(fetch.fetch(fetch.KJV, options.cache))
    ids = model.tokenizer.encode(texts.passage(bible, count=count * 60 + 100)).ids
    cut = windows(ids, WINDOW, count)
    with stages.stage("Perplexity", (1 + len(stores)) * count) as tick:
        rows = {"float32": measure(model, None, cut, tick)}
        for keys, values in stores:
            rows[f"{keys} keys, {values} values"] = measure(model, (keys, values), cut, tick)
    exact = rows["float32"]
    for row in rows.values():
        row["perplexity ratio"] = row["perplexity"] / exact["perplexity"]
        row["bytes ratio"] = row["bytes"] / row.pop("of")
    what = {"model": "SmolLM2-135M-Instruct", "text": "Ruth and on (KJV)", "window": WINDOW}
    return {"machine": machine(), **what, "windows": count, "piece": PIECE, "stores": rows}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=WINDOWS)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    text = json.dumps(run(asked.windows), indent=2)
    if asked.out:
        asked.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
