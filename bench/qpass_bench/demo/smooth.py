"""What folds are worth where each activation has one static scale: perplexity of a decoder.

``python -m qpass_bench.demo.smooth`` quantizes the layers of SmolLM2 to int8 weights and int8
activations with one static range for each product and layer, as they are and after SmoothQuant, and
prints JSON: perplexity on two texts, and how much of the loss of quantization is recovered. Ranges
and the power ``alpha`` are chosen on other parts of the same texts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import qpass
from qpass_bench.demo.options import Options
from qpass_bench.demo.subjects import WINDOW, load
from qpass_bench.models.decoder import Forward
from qpass_bench.models.evaluate import Loss, make_loss, perplexity
from qpass_bench.running.measure import machine
from qpass_bench.running.progress import Stages

RULE = qpass.Rule(path="layers/**", weight="int8", act="int8 static")
ALPHAS = (0.4, 0.5, 0.6, 0.7, 0.8)


def calibrated(q: qpass.Transformed, params: Any, data: list[jax.Array]) -> Loss:
    """The quantized loss, with the ranges that these parameters give on the data."""
    stats = q.calibrate(params, data)
    return jax.jit(q.with_ranges(qpass.ranges(stats, "max")))


def run(options: Options, count: int, stages: Stages) -> dict[str, Any]:
    """Perplexity of each variant by text, and what SmoothQuant recovers of the loss."""
    model, found = load(options, count, stages)
    windows = found.pop("data")
    data = [jnp.asarray(window[None]) for window in windows]
    loss = make_loss(Forward(model.config), model.config)
    q = qpass.transform(loss, [RULE])
    folds = q.folds(model.params, data[0])
    absmax = q.calibrate(model.params, data, gather=("absmax",))
    report: dict[str, Any] = {
        "machine": machine(),
        "model": "SmolLM2-135M-Instruct, channels permuted; only layers are quantized",
        "rule": "weight int8, act int8 static",
        "tokens": {"data": count * WINDOW, "judged": options.windows * WINDOW},
        "folds": {fold.weights[0]: list(fold.absorbed_by) for fold in folds},
        "difference of all folds": folds.error,
        "on data": {},
    }
    tried = {alpha: qpass.folds.smoothquant(folds, model.params, absmax, alpha) for alpha in ALPHAS}
    with stages.stage("Choose alpha", len(ALPHAS)) as tick:
        for alpha, params in tried.items():
            found_on = perplexity(calibrated(q, params, data), params, windows[::4])
            report["on data"][str(alpha)] = found_on
            tick()
    best = min(ALPHAS, key=lambda alpha: report["on data"][str(alpha)])
    report["alpha"] = best
    variants = {
        "float32": (loss, model.params),
        "rounding": (calibrated(q, model.params, data), model.params),
        "SmoothQuant": (calibrated(q, tried[best], data), tried[best]),
    }
    with stages.stage("Judge", len(found)) as tick:
        for name, text in found.items():
            report[name] = _judged(variants, text)
            tick()
    return report


def _judged(variants: dict[str, tuple[Loss, Any]], text: np.ndarray) -> dict[str, float]:
    row = {name: perplexity(loss, params, text) for name, (loss, params) in variants.items()}
    lost = row["rounding"] - row["float32"]
    return row | {"recovered": (row["rounding"] - row["SmoothQuant"]) / lost}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=4, help="of 512 tokens, to judge on")
    parser.add_argument("--data", type=int, default=8, help="of 512 tokens, for ranges and alpha")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    given = parser.parse_args()
    options = Options(windows=given.windows)
    text = json.dumps(run(options, given.data, Stages(Console(stderr=True))), indent=2)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
