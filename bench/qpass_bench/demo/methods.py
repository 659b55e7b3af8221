"""What better ways than rounding are worth: perplexity of a decoder whose layers have few bits.

``python -m qpass_bench.demo.methods`` quantizes the layers of SmolLM2 to int4 in groups of 64 and
to int3 in groups of 32 by every method, and prints JSON: perplexity on two texts, time, and how
much of what rounding loses is left, ``(method - float) / (rounding - float)``. Data for the methods
are other parts of the same two texts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import qpass
from qpass_bench.demo import demo
from qpass_bench.demo.heldout import pydoc_topics
from qpass_bench.demo.options import Options
from qpass_bench.models import fetch, smollm, texts
from qpass_bench.models.decoder import Forward
from qpass_bench.models.evaluate import Loss, make_loss, perplexity, windows
from qpass_bench.running.measure import machine
from qpass_bench.running.progress import Stages

SCHEMES = ("int4 g64", "int3 g32")
GENESIS, RUTH = 1, 8
WINDOW = 512


@dataclass(frozen=True)
class Method:
    """A way to quantize: what a plan says, and the call that does it.

    Attributes:
        name: for tables.
        range: words of the quantizer after type and groups.
        run: of the transformed loss, the parameters and the windows of data.
    """

    name: str
    range: str
    run: Callable[[Any, Any, list[jax.Array]], Any]


def _searched(q: Any, params: Any, data: list[jax.Array]) -> Any:
    stats = q.calibrate(params, data, gather=("square",))
    return q.quantize(params, data[0], stats=stats)


def _gptq(q: Any, params: Any, data: list[jax.Array]) -> Any:
    return q.quantize(params, method=qpass.GPTQ(), batches=data)


def _rounded(q: Any, params: Any, data: list[jax.Array]) -> Any:
    return q.quantize(params, data[0])


METHODS = (
    Method("rounding", "", _rounded),
    Method("by importance", "", _searched),
    Method("GPTQ", "", _gptq),
    Method("HQQ", "hqq", _rounded),
)


def load(options: Options, count: int, stages: Stages) -> tuple[smollm.SmolLM, dict[str, Any]]:
    """The model, and windows ``i32[n, T + 1]``: ``"data"``, and by text those to judge on."""
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


def run(options: Options, count: int, stages: Stages) -> Iterator[dict[str, Any]]:
    """The report so far, after each scheme and method."""
    model, found = load(options, count, stages)
    data = [jnp.asarray(pair) for pair in np.split(found.pop("data"), count // 2)]
    loss = make_loss(Forward(model.config), model.config)
    floats = {name: perplexity(loss, model.params, text) for name, text in found.items()}
    report: dict[str, Any] = {
        "machine": machine(),
        "model": "SmolLM2-135M-Instruct, channels permuted; only layers are quantized",
        "tokens": {"data": count * WINDOW, "judged": options.windows * WINDOW},
        "float32": floats,
    }
    with stages.stage("Quantize and judge", len(SCHEMES) * len(METHODS)) as tick:
        for method, scheme in product(METHODS, SCHEMES):
            row = _row(method, scheme, model.params, loss, data, found)
            plain = report.setdefault(scheme, {}).setdefault(METHODS[0].name, row)
            report[scheme][method.name] = row | {"left": _left(row, plain, floats)}
            tick()
            yield report


def _row(
    method: Method, scheme: str, params: Any, loss: Loss, data: list[jax.Array], judged: dict
) -> dict[str, Any]:
    rule = qpass.Rule(path="layers/**", weight=f"{scheme} {method.range}".strip())
    q = qpass.transform(loss, [rule])
    start = time.perf_counter()
    stored = jax.block_until_ready(method.run(q, params, data))
    seconds = time.perf_counter() - start
    again = _floats(stored)
    found = {name: perplexity(loss, again, text) for name, text in judged.items()}
    return {"seconds": seconds, "perplexity": found}


def _floats(tree: Any) -> Any:
    """The values that codes stand for: all methods are judged with one compiled float program."""

    def is_stored(leaf: Any) -> bool:
        return isinstance(leaf, qpass.QTensor)

    return jax.tree.map(
        lambda leaf: leaf.dequantize() if is_stored(leaf) else leaf, tree, is_leaf=is_stored
    )


def _left(row: dict, plain: dict, floats: dict[str, float]) -> dict[str, float]:
    """What is left of rounding's loss, by text."""
    lost, whole = (
        {name: value - floats[name] for name, value in one["perplexity"].items()}
        for one in (row, plain)
    )
    return {name: lost[name] / whole[name] for name in floats}


def main() -> None:
    """Measure, write after each row, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=8, help="of 512 tokens, to judge on")
    parser.add_argument("--data", type=int, default=16, help="of 512 tokens, for the methods")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    given = parser.parse_args()
    options, text = Options(windows=given.windows), ""
    for report in run(options, given.data, Stages(Console(stderr=True))):
        text = json.dumps(report, indent=2)
        if given.out:
            given.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
