"""Random products, each under a few of all schemes and granularities.

No list of sizes can be fitted to: K and N are hardly ever a multiple of a group or of a vector. To
run every scheme on every shape would take hours, so each shape is dealt `HAND` of them, so that all
are met equally often.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from qpass import Rule
from qpass_bench.cases.catalogue import Product
from qpass_bench.cases.schemes import Variant

MOST_ROWS, MOST_WIDE = 300, 5000
HAND = 4
"""Schemes that a shape is tried with."""

W8A8 = {
    "int8 W8A8": ("int8", "int8"),
    "int8 W8A8 tensor": ("int8 tensor", "int8"),
    "int8 W8A8, act g64": ("int8", "int8 g64"),
    "int8 W8A8 g32": ("int8 g32", "int8 g32"),
    "int8 W8A8 g64": ("int8 g64", "int8 g64"),
    "int8 W8A8 g128": ("int8 g128", "int8 g128"),
    "int8 W8A8 g1/4": ("int8 g1/4", "int8 g1/4"),
    "int8 W8A8 128x128": ("int8 b128x128", "int8 g128"),
    "int8 W8A8, act asym": ("int8", "int8 asym"),
    "int4 W4A8": ("int4", "int8"),
    "int4 W4A8 g32, act asym": ("int4 g32", "int8 asym"),
}
"""Weights and activations in codes, by name; the last is known as 8da4w."""
WEIGHTS = {
    "int8 W8": "int8",
    "int8 W8 tensor": "int8 tensor",
    "int8 W8 g32": "int8 g32",
    "int8 W8 g64": "int8 g64",
    "int8 W8 g128": "int8 g128",
    "int8 W8 g1/4": "int8 g1/4",
    "int8 W8 128x128": "int8 b128x128",
    "int4 W4": "int4",
    "int4 W4 g32": "int4 g32",
    "int4 W4 g64": "int4 g64",
    "int4 W4 g128": "int4 g128",
    "int4 W4 g100": "int4 g100",
    "int4 W4 128x128": "int4 b128x128",
    "uint4 W4 g128 asym": "uint4 g128 asym",
    "nf4 W4 g64": "nf4 g64",
}
"""Weights in codes and activations in float."""


def _both(name: str, weight: str, act: str) -> Variant:
    return Variant(name, f"{weight} by {act}", (Rule(weight=weight, act=act),), units="int8")


SCHEMES = {v.name: v for v in (_both(name, *words) for name, words in W8A8.items())} | {
    name: Variant(name, weight, (Rule(weight=weight),)) for name, weight in WEIGHTS.items()
}
"""All that shapes are tried with, by name."""


def sweep(shapes: int = 200, seed: int = 0) -> Iterator[Product]:
    """Random products: M from 1 to 300, K and N from 1 to 5000, each with its schemes."""
    rng = np.random.default_rng(seed)
    hands = deal(tuple(SCHEMES), np.random.default_rng((seed, 1)))
    for number in range(shapes):
        m, k, n = (int(rng.integers(1, d + 1)) for d in (MOST_ROWS, MOST_WIDE, MOST_WIDE))
        dealt = {"seed": number, "suite": "sweep", "schemes": next(hands)}
        yield Product("random", f"#{number}", m, k, n, **dealt)


def deal(names: Sequence[str], rng: Any, hand: int = HAND) -> Iterator[tuple[str, ...]]:
    """Different names at random, for ever, of those that came least often so far."""
    met = np.zeros(len(names), int)
    while True:
        order = rng.permutation(len(names))
        chosen = order[np.argsort(met[order], kind="stable")][:hand]
        met[chosen] += 1
        yield tuple(names[int(i)] for i in sorted(chosen))
