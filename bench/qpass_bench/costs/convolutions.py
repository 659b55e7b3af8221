"""A trained convolutional network on photographs: int8 by int8 with static ranges, beside float.

``python -m qpass_bench.costs.convolutions --out bench/results/convolutions-cpu.json`` fetches
EfficientNet-Lite0 and photographs, captures ranges on some of them, and compares the classes of the
others with the float network's. It also says what the plan said beforehand of time, and times both.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import qpass
from qpass_bench.models import efficientnet, photos
from qpass_bench.models.fetch import EFFICIENTNET, fetch
from qpass_bench.running.machine import details
from qpass_bench.running.measure import interleaved

RULE = qpass.Rule(weight="int8 mse", act="int8 asym static")
RANGES = "percentile,99.99"
BATCH = 10
SURE = 0.5
"""Probability of its class from which on the float network counts as sure."""


def run(rounds: int, cache: Path | None = None) -> dict[str, Any]:
    """Everything, ready for JSON."""
    network = efficientnet.Classify()
    params = jax.tree.map(jnp.asarray, efficientnet.load(fetch(EFFICIENTNET, cache)))
    shown, seen = (
        np.concatenate([photos.crops(path) for path in paths])
        for paths in (photos.evaluation(cache), photos.calibration(cache))
    )
    q = quantized(network, params, seen)
    qparams = q.quantize(params, jnp.asarray(shown[:BATCH]))
    plain, fast = jax.jit(network), jax.jit(q)
    want, got = logits(plain, params, shown), logits(fast, qparams, shown)
    one = jnp.asarray(shown[:1])
    calls = {"float32": partial(plain, params, one), "int8": partial(fast, qparams, one)}
    timings = interleaved(calls, rounds)
    rows = q.plan(params, one).rows
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": details(),
        "model": f"{EFFICIENTNET.name} {EFFICIENTNET.version}",
        "rule": RULE.describe(),
        "ranges": RANGES,
        "calibration_images": len(seen),
        **agreement(want, got),
        "ms": {name: timing.median * 1e3 for name, timing in timings.items()},
        "ms_range": {n: [s * 1e3 for s in timing.spread] for n, timing in timings.items()},
        "speed": timings["int8"].ratio,
        "rounds": rounds,
        "quantized": sum(bool(row.scheme) for row in rows),
        "float": sum(not row.scheme for row in rows),
        "kernels": Counter(row.kernel for row in rows),
        "said_slow": sum(bool(row.slow) for row in rows),
    }


def quantized(network: Any, params: Any, seen: np.ndarray) -> qpass.Transformed:
    """The network with ranges from these images."""
    q = qpass.transform(network, RULE)
    stats: Any = None
    for start in range(0, len(seen), BATCH):
        stats = q.capture(params, jnp.asarray(seen[start : start + BATCH]), stats=stats)
    return q.with_ranges(qpass.ranges(stats, RANGES))


def logits(fn: Any, params: Any, images: np.ndarray) -> np.ndarray:
    """Of all images, in batches."""
    starts = range(0, len(images), BATCH)
    return np.concatenate([fn(params, jnp.asarray(images[k : k + BATCH])) for k in starts])


def agreement(want: np.ndarray, got: np.ndarray) -> dict[str, Any]:
    """How often the first class is that of the float network, of all images and where it is sure.

    Args:
        want: logits of the float network ``[N, classes]``.
        got: of the quantized one.
    """
    same = want.argmax(1) == got.argmax(1)
    sure = np.asarray(jax.nn.softmax(want).max(1)) >= SURE
    noise = np.sum((want - got) ** 2)
    return {
        "images": len(same),
        "top1_agreement": float(same.mean()),
        "sure_images": int(sure.sum()),
        "top1_agreement_where_sure": float(same[sure].mean()) if sure.any() else None,
        "logits_snr_db": float(10 * np.log10(np.sum(want**2) / noise)) if noise else None,
    }


def main() -> None:
    """Measure, print, and write the JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the JSON to this file")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    text = json.dumps(run(arguments.rounds), indent=2)
    Console().print_json(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
