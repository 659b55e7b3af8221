"""The demo: a real language model, rewritten by rules, and what that cost and bought.

SmolLM2-135M-Instruct runs as it is, with int8 weights and activations, and with int4 weights; the
same text, the same prompt and the same clocks for all three.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from qpass_bench.cases.schemes import DECODER_VARIANTS, Variant
from qpass_bench.demo import report, retrieval
from qpass_bench.demo.judge import judge, plan_file
from qpass_bench.demo.options import Options
from qpass_bench.demo.show import show, show_plans
from qpass_bench.models import fetch, smollm, texts
from qpass_bench.models.decoder import Forward, empty_cache
from qpass_bench.models.evaluate import windows
from qpass_bench.running.contestant import Contestant, enter
from qpass_bench.running.measure import machine
from qpass_bench.running.progress import Stages

NOTES = (
    "All variants run the same model: SmolLM2 with its channels permuted, which changes no output.",
    "Its published weights were already rounded to 4 bits in groups of 32; without the permutation "
    "a second rounding in the same groups would be almost free and would show nothing.",
    "For the same reason the ratios are against these weights in float32, not against results "
    "published for SmolLM2.",
    "Speeds are medians of interleaved rounds, with the slowest and the fastest; ratios are "
    "medians over rounds.",
)


DEFAULTS = Options()


def run(
    options: Options = DEFAULTS,
    console: Console | None = None,
    variants: Sequence[Variant] = DECODER_VARIANTS,
) -> dict[str, Any]:
    """Run the demo, print it, write JSON and HTML into ``options.out``, and return the report.

    Results go to ``console``, progress to stderr.

    Raises:
        FetchError: the model or the text could not be had.
    """
    console = console or Console()
    stages, start = Stages(Console(stderr=True)), time.perf_counter()
    model, text = load(options, stages)
    contestants = rewrite(model, variants, stages)
    show_plans(contestants, console)
    results = judge(model, text, contestants, options, stages)
    encoder = retrieval.run(options.cache, stages) if options.encoder else None
    result = {
        **describe(model, text, options),
        "variants": results,
        "encoder": encoder,
        "stages": stages.seconds,
        "seconds": round(time.perf_counter() - start, 1),
    }
    write(result, contestants, options.out)
    show(result, options.out, console)
    return result


def load(options: Options, stages: Stages) -> tuple[smollm.SmolLM, np.ndarray]:
    """The model (permuted, on the device) and the windows of text ``i32[n, T + 1]``."""
    with stages.stage("Fetch the model and text", 2) as tick:
        weights = fetch.fetch(fetch.SMOLLM2, options.cache)
        tick()
        bible = fetch.fetch(fetch.KJV, options.cache)
        tick()
    with stages.stage("Load"):
        model = smollm.load(weights)
        params = smollm.on_device(smollm.permute(model.params, model.config, options.seed))
        ids = model.tokenizer.encode(texts.passage(texts.verses(bible))).ids
    return replace(model, params=params), windows(ids, options.window, options.windows)


def rewrite(
    model: smollm.SmolLM, variants: Sequence[Variant], stages: Stages
) -> tuple[Contestant, ...]:
    """Every variant's function and stored parameters."""
    example = (jnp.zeros((1, 8), jnp.int32), empty_cache(model.config, 1, 8), jnp.int32(0))
    contestants = []
    with stages.stage("Rewrite and quantize", len(variants)) as tick:
        for variant in variants:
            contestants.append(enter(variant, Forward(model.config), model.params, *example))
            tick()
    return tuple(contestants)


def describe(model: smollm.SmolLM, text: np.ndarray, options: Options) -> dict[str, Any]:
    """What was run, on what and when."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "model": {
            "name": "SmolLM2-135M-Instruct",
            "package": f"{fetch.SMOLLM2.name} {fetch.SMOLLM2.version}",
            "licence": fetch.SMOLLM2.licence,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.params)),
        },
        "text": {
            "name": "the King James Bible, from Ruth on",
            "tokens": int(text.shape[0] * (text.shape[1] - 1)),
        },
        "machine": machine(),
        "options": {**asdict(options), "out": str(options.out), "cache": str(options.cache or "")},
        "notes": list(NOTES),
    }


def write(result: dict[str, Any], contestants: Sequence[Contestant], folder: Path) -> None:
    """``report.json``, ``report.html`` and a page for every plan."""
    folder.mkdir(parents=True, exist_ok=True)
    for c in contestants:
        if c.plan is not None:
            (folder / plan_file(c)).write_text(c.plan.to_html(), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(report.to_html(result), encoding="utf-8")
