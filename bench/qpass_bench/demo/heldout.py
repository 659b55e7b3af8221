"""Perplexity on texts that no rule was chosen on.

The demo's group size was chosen while looking at the demo's text, so its figure flatters it a
little. ``python -m qpass_bench.demo.heldout`` measures the same rules on Proverbs and on the help
pages of Python (``pydoc``), 4,096 tokens each, beside int8 with one scale a token, and prints JSON.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from rich.console import Console

from qpass_bench.cases.schemes import DECODER_VARIANTS, PRODUCT_W8A8
from qpass_bench.demo import demo
from qpass_bench.demo.options import Options
from qpass_bench.models import fetch, texts
from qpass_bench.models.evaluate import make_loss, perplexity, windows
from qpass_bench.running.measure import machine
from qpass_bench.running.progress import Stages

VARIANTS = (*DECODER_VARIANTS, replace(PRODUCT_W8A8, name="int8, one scale a token"))
"""The demo's, and what int8 would be without groups."""

PROVERBS = 20
"""Number of the book in verse ids."""


def pydoc_topics(count: int = 30) -> str:
    """The first topics of Python's own help, white space folded."""
    from pydoc_data.topics import topics

    return " ".join(re.sub(r"\s+", " ", text) for text in list(topics.values())[:count])


def run(options: Options = demo.DEFAULTS) -> dict[str, Any]:
    """Perplexity of every variant, and its ratio to float, by text."""
    stages = Stages(Console(stderr=True))
    model, _ = demo.load(options, stages)
    contestants = demo.rewrite(model, VARIANTS, stages)
    bible = texts.verses(fetch.fetch(fetch.KJV, options.cache))
    passages = {"Proverbs (KJV)": texts.passage(bible, PROVERBS), "pydoc topics": pydoc_topics()}
    found: dict[str, Any] = {"machine": machine()}
    with stages.stage("Perplexity", len(passages) * len(contestants) * options.windows) as tick:
        for name, text in passages.items():
            ids = model.tokenizer.encode(text).ids
            cut = windows(ids, options.window, options.windows)
            values = [
                perplexity(make_loss(c.forward, model.config), c.params, cut, tick)
                for c in contestants
            ]
            found[name] = {
                c.name: {"perplexity": value, "ratio": value / values[0]}
                for c, value in zip(contestants, values, strict=True)
            }
    return found


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
