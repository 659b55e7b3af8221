"""What quantized products of attention cost SmolLM2: perplexity by their rules, all else in float.

``python -m qpass_bench.demo.attention [windows]``; each window is of 512 tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from rich.console import Console

import qpass
from qpass_bench.demo.demo import load
from qpass_bench.demo.options import Options
from qpass_bench.models.decoder import Forward
from qpass_bench.models.evaluate import make_loss, perplexity
from qpass_bench.models.smollm import SmolLM
from qpass_bench.running.progress import Stages

type Rules = Sequence[qpass.Rule]


def _keys(act: str | None, kv: str, smooth: bool = False) -> qpass.Rule:
    return qpass.Rule(role="qk", act=act, kv=kv, smooth=smooth)


def _values(act: str | None, kv: str) -> qpass.Rule:
    return qpass.Rule(role="pv", act=act, kv=kv)


WAYS: Mapping[str, Rules] = MappingProxyType(
    {
        "qk int8": [_keys("int8", "int8")],
        "qk int8, smooth": [_keys("int8", "int8", True)],
        "k int4": [_keys(None, "int4")],
        "k int4, smooth": [_keys(None, "int4", True)],
        "k int4 g32": [_keys(None, "int4 g32")],
        "k int4 g32, smooth": [_keys(None, "int4 g32", True)],
        "pv int8": [_values("int8", "int8")],
        "v int4 g32": [_values(None, "int4 g32")],
        "qk and pv int8, smooth": [_keys("int8", "int8", True), _values("int8", "int8")],
    }
)


def run(model: SmolLM, text: np.ndarray, ways: Mapping[str, Rules] = WAYS) -> dict[str, float]:
    """Perplexity over windows ``i32[n, T + 1]`` by the name of the rules, ``"float"`` first."""
    forward = Forward(model.config)
    functions = {"float": forward} | {w: qpass.transform(forward, r) for w, r in ways.items()}
    return {
        name: perplexity(make_loss(fn, model.config), model.params, text)
        for name, fn in functions.items()
    }


def main(count: int = 4) -> None:
    """Print a table."""
    model, text = load(Options(windows=count), Stages(Console(stderr=True)))
    found = run(model, text)
    for name, value in found.items():
        print(f"| {name} | {value:.3f} | {value / found['float'] - 1:+.3%} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
