"""What a search for schemes is worth: a decoder in as many bytes, uniform and searched.

``python -m qpass_bench.demo.search`` measures what each weight of SmolLM2 loses in each scheme on a
little data, chooses schemes in as many bytes as uniform rules take, and prints JSON: perplexity of
both on other text, the schemes, and what was measured.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

import qpass
from qpass_bench.demo.options import Options
from qpass_bench.demo.subjects import load
from qpass_bench.models.decoder import Forward, empty_cache
from qpass_bench.models.evaluate import make_loss, perplexity
from qpass_bench.running.measure import machine
from qpass_bench.running.progress import Stages

SCHEMES = ("int3 g32", "int4 g192", "int4 g96", "int4 g64", "int4 g32", "int4 g16", "int8")
LENGTH = 256
"""Tokens in a batch of data: their logits are held."""
LAYERS, TABLE = "layers/**", "embed/**"
UNIFORM = {
    "int4 g64": (qpass.Rule(path="**", weight="int4 g64"),),
    "int4 g32 + int8": (
        qpass.Rule(path=TABLE, weight="int8"),
        qpass.Rule(path=LAYERS, weight="int4 g32"),
    ),
}
"""What a search is held against: 4.5 bits for each number, and the demo's scheme."""


def make_logits(forward: Callable, config: Any) -> Callable:
    """``logits(params, tokens i32[B, T])``: ``f32[B, T, vocab]``."""

    def logits(params: Any, tokens: jax.Array) -> jax.Array:
        return forward(params, tokens, empty_cache(config, *tokens.shape), jnp.int32(0))[0]

    return logits


def run(options: Options, count: int, schemes: Sequence[str], stages: Stages) -> dict[str, Any]:
    """Perplexity of uniform and of searched schemes in as many bytes, by text."""
    model, found = load(options, count, stages)
    batches = [jnp.asarray(window[None, :LENGTH]) for window in found.pop("data")]
    logits = make_logits(Forward(model.config), model.config)
    loss = make_loss(Forward(model.config), model.config)

    def judge(params: Any) -> dict[str, float]:
        return {name: perplexity(loss, params, text) for name, text in found.items()}

    start = time.perf_counter()
    with stages.stage("Measure each weight in each scheme"):
        search = qpass.search(
            logits,
            model.params,
            batches,
            budget="4.5 bits",
            schemes=schemes,
            loss="kl",
            errors=False,
        )
    numbers = search.sensitivity.numbers
    report: dict[str, Any] = {
        "machine": machine(),
        "model": "SmolLM2-135M-Instruct, channels permuted",
        "loss": "mean KL divergence from float on the data, nats a token",
        "tokens": {"data": count * LENGTH, "judged": options.windows * options.window},
        "seconds of measuring": round(time.perf_counter() - start, 1),
        "measured": search.sensitivity.to_data(),
        "float32": {"bits": 32, "perplexity": judge(model.params)},
        "pairs": [],
    }
    with stages.stage("Judge", 2 * len(UNIFORM)) as tick:
        for name, rules in UNIFORM.items():
            uniform = stored(logits, model.params, batches[0], rules)
            nbytes = qpass.tree_nbytes(uniform)
            pair = {"uniform": row(name, rules, uniform, numbers, judge(floats(uniform)))}
            tick()
            chosen = search.within(f"{nbytes} B")
            searched = stored(logits, model.params, batches[0], chosen.rules)
            title = f"searched, {nbytes:,} bytes"
            figures = judge(floats(searched))
            pair["searched"] = row(title, chosen.rules, searched, numbers, figures)
            pair["searched"] |= {"predicted": chosen.predicted, "measured": chosen.loss}
            report["pairs"].append(pair)
            tick()
    return report


def stored(fn: Callable, params: Any, batch: Any, rules: Sequence[qpass.Rule]) -> Any:
    """The parameters, quantized."""
    return qpass.transform(fn, rules).quantize(params, batch)


def row(
    name: str, rules: Sequence[qpass.Rule], tree: Any, numbers: int, figures: Mapping[str, float]
) -> dict[str, Any]:
    """What is told of one tree."""
    nbytes = qpass.tree_nbytes(tree)
    return {
        "name": name,
        "rules": qpass.rules_to_data(list(rules)),
        "bytes": nbytes,
        "bits": 8 * nbytes / numbers,
        "perplexity": dict(figures),
    }


def floats(tree: Any) -> Any:
    """The values that codes stand for: all are judged with one compiled float program."""

    def is_stored(leaf: Any) -> bool:
        return isinstance(leaf, qpass.QTensor)

    return jax.tree.map(lambda x: x.dequantize() if is_stored(x) else x, tree, is_leaf=is_stored)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=8, help="of 512 tokens, to judge on")
    parser.add_argument("--data", type=int, default=8, help=f"batches of {LENGTH} tokens to search")
    parser.add_argument("--schemes", nargs="+", default=SCHEMES, help="words of a weight's rule")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    given = parser.parse_args()
    options, stages = Options(windows=given.windows), Stages(Console(stderr=True))
    text = json.dumps(run(options, given.data, given.schemes, stages), indent=2)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
