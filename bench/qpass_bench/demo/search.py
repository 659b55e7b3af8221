"""What a search for schemes is worth: a decoder in as many bytes, uniform and searched.

``python -m qpass_bench.demo.search`` measures what each weight of SmolLM2 loses in each scheme on a
little data, chooses schemes in as many bytes as uniform rules take, and prints JSON: perplexity of
both on other text, the schemes, and what was measured.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

import qpass
from qpass_bench.demo.options import Options
from qpass_bench.demo.subjects import WINDOW, load
from qpass_bench.models.decoder import Forward
from qpass_bench.models.evaluate import make_loss, perplexity
from qpass_bench.running.measure import machine
from qpass_bench.running.progress import Stages

SCHEMES = ("int4 g192", "int4 g96", "int4 g64", "int4 g32", "int4 g16", "int8")
LAYERS, TABLE = "layers/**", "embed/**"
UNIFORM = {
    "int4 g64": (qpass.Rule(path="**", weight="int4 g64"),),
    "int4 g32 + int8": (
        qpass.Rule(path=TABLE, weight="int8"),
        qpass.Rule(path=LAYERS, weight="int4 g32"),
    ),
}
"""What a search is held against: 4.5 bits for each number, and the demo's scheme."""


def run(options: Options, count: int, schemes: Sequence[str], stages: Stages) -> dict[str, Any]:
    """Perplexity of uniform and of searched schemes in as many bytes, by text."""
    model, found = load(options, count, stages)
    batches = [jnp.asarray(window[None]) for window in found.pop("data")]
    loss = make_loss(Forward(model.config), model.config)

    def judge(params: Any) -> dict[str, float]:
        return {name: perplexity(loss, params, text) for name, text in found.items()}

    start = time.perf_counter()
    with stages.stage("Measure each weight in each scheme"):
        search = qpass.search(
            loss,
            model.params,
            batches,
            budget="4.6 bits",
            schemes=schemes,
            loss=per_token,
            errors=False,
        )
    report: dict[str, Any] = {
        "machine": machine(),
        "model": "SmolLM2-135M-Instruct, channels permuted",
        "loss": "what the mean negative log likelihood of data grows by, nats a token",
        "tokens": {"data": count * WINDOW, "judged": options.windows * options.window},
        "seconds of measuring": round(time.perf_counter() - start, 1),
        "measured": search.sensitivity.to_data(),
        "float32": {"bits": 32, "perplexity": judge(model.params)},
        "pairs": [],
    }
    with stages.stage("Judge", 2 * len(UNIFORM)) as tick:
        for name, rules in UNIFORM.items():
            uniform = qpass.transform(loss, rules).quantize(model.params, batches[0])
            nbytes = qpass.tree_nbytes(uniform)
            numbers = search.sensitivity.numbers
            pair = {"uniform": row(name, rules, uniform, numbers, judge(floats(uniform)))}
            tick()
            chosen = search.within(f"{nbytes} B")
            tree = qpass.transform(loss, chosen.rules).quantize(model.params, batches[0])
            found_row = row("searched", chosen.rules, tree, numbers, judge(floats(tree)))
            pair["searched"] = found_row | {"predicted": chosen.predicted, "loss": chosen.loss}
            report["pairs"].append(pair)
            tick()
    return report


def per_token(summed: jax.Array, tokens: jax.Array) -> jax.Array:
    """The mean negative log likelihood of ``i32[B, T + 1]``."""
    return summed / (tokens.shape[0] * (tokens.shape[1] - 1))


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
    parser.add_argument("--data", type=int, default=6, help="of 512 tokens, to search on")
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
