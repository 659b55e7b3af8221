"""Single products in the shapes of real models: float32 against quantized, in the same run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qpass_bench.contestant import Contestant, enter
from qpass_bench.measure import Timing, interleaved
from qpass_bench.schemes import PRODUCT_VARIANTS, Variant


@dataclass(frozen=True)
class Case:
    """``[m, k] x [k, n]``, and the layer that it comes from."""

    layer: str
    m: int
    k: int
    n: int


SHAPES = (
    ("SmolLM2-135M mlp/up", 576, 1536),
    ("SmolLM2-135M mlp/down", 1536, 576),
    ("SmolLM2-135M head", 576, 49152),
    ("Llama-3.2-1B mlp/up", 2048, 8192),
    ("Llama-3.2-1B mlp/down", 8192, 2048),
)
CASES = tuple(Case(layer, m, k, n) for layer, k, n in SHAPES for m in (1, 128))


def product(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """``x [M, K] @ weight [K, N]``: what is timed."""
    return x @ params["weight"]


def run(
    cases: Sequence[Case] = CASES,
    rounds: int = 15,
    variants: Sequence[Variant] = PRODUCT_VARIANTS,
    tick: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Time every case under every variant; one row each, ``ratio`` against the first variant.

    ``tick`` is called after each case, for a progress bar.
    """
    rows = []
    for case in cases:
        rows.extend(_rows(case, rounds, variants))
        tick()
    return rows


def _rows(case: Case, rounds: int, variants: Sequence[Variant]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    params = {"weight": jnp.asarray(rng.standard_normal((case.k, case.n)), jnp.float32)}
    x = jnp.asarray(rng.standard_normal((case.m, case.k)), jnp.float32)
    contestants = [enter(variant, product, params, x) for variant in variants]
    calls = {c.name: partial(jax.jit(c.forward), c.params, x) for c in contestants}
    timings = interleaved(calls, rounds)
    return [_row(case, contestant, timings[contestant.name]) for contestant in contestants]


def _row(case: Case, contestant: Contestant, timing: Timing) -> dict[str, Any]:
    kernels = [] if contestant.plan is None else [row.kernel for row in contestant.plan.rows]
    return {
        "layer": case.layer,
        "m": case.m,
        "k": case.k,
        "n": case.n,
        "variant": contestant.name,
        "kernel": ", ".join(kernels) or "XLA",
        "ms": timing.median * 1e3,
        "ms_range": [seconds * 1e3 for seconds in timing.spread],
        "ratio": timing.ratio,
    }
