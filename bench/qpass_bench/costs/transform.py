"""What transforming costs: seconds from a function to its rewritten program, by its equations.

Each program is grown to about 10, 100, 1,000 and 10,000 equations, and each size is transformed
from nothing (JAX's caches cleared): trace, dataflow, sites, rules, passes, rewriting. Tracing the
float function alone is timed beside it.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import qpass
from qpass.graph._jax import Jaxpr, params_jaxprs
from qpass_bench.running.measure import machine

SIZES = (10, 100, 1_000, 10_000)
RULES = (qpass.Rule(path="**", weight="int8", act="int8"),)
WIDTH, HEADS, LENGTH = 16, 2, 8


@dataclass(frozen=True)
class Program:
    """A function over a list of layers, and the parameters of one layer by shape."""

    name: str
    fn: Callable[..., Any]
    layer: dict[str, tuple[int, ...]]

    def arguments(self, layers: int) -> tuple[Any, Any]:
        """Abstract parameters and input."""
        one = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in self.layer.items()}
        return [one] * layers, jax.ShapeDtypeStruct((LENGTH, WIDTH), jnp.float32)


def chain(params: Sequence[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    """A product and seven other equations a layer."""
    for p in params:
        x = jnp.tanh(x @ p["up"]) * 2.0 + 1.0
        x = jnp.sin(x.reshape(-1).reshape(LENGTH, WIDTH) - 1.0)
    return x


def decoder(params: Sequence[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    """Pre-norm attention and a gated feed-forward, unrolled."""
    for p in params:
        h = _norm(x, p["gain"])
        q, k, v = (jnp.einsum("td,dnh->tnh", h, p[name]) for name in ("query", "key", "value"))
        scores = jax.nn.softmax(jnp.einsum("tnh,snh->nts", q, k))
        x = x + jnp.einsum("tnh,nhd->td", jnp.einsum("nts,snh->tnh", scores, v), p["out"])
        h = _norm(x, p["gain"])
        x = x + (jax.nn.sigmoid(h @ p["gate"]) * (h @ p["up"])) @ p["down"]
    return x


def _norm(x: jax.Array, gain: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6) * gain


def training_step(params: Sequence[dict[str, jax.Array]], x: jax.Array) -> Any:
    """A gradient of the decoder, taken inside, and the update."""
    slopes = jax.grad(lambda p: (decoder(p, x) ** 2).mean())(params)
    return jax.tree.map(lambda w, g: w - 0.1 * g, params, slopes)


_HEAD = (WIDTH, HEADS, WIDTH // HEADS)
DECODER_LAYER = {
    "gain": (WIDTH,),
    **dict.fromkeys(("query", "key", "value"), _HEAD),
    "out": (HEADS, WIDTH // HEADS, WIDTH),
    **dict.fromkeys(("gate", "up"), (WIDTH, 2 * WIDTH)),
    "down": (2 * WIDTH, WIDTH),
}
PROGRAMS = (
    Program("chain", chain, {"up": (WIDTH, WIDTH)}),
    Program("decoder", decoder, DECODER_LAYER),
    Program("training step", training_step, DECODER_LAYER),
)


def run(
    programs: Sequence[Program] = PROGRAMS,
    sizes: Sequence[int] = SIZES,
    rounds: int = 3,
    tick: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """One row for each program and size; ``tick`` is called after each, for a progress bar.

    Sizes that a program cannot be made small enough for are measured once, at one layer.
    """
    rows = []
    for program in programs:
        for layers in _layers(program, sizes):
            rows.append(_row(program, layers, rounds))
            tick()
    return rows


def report(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rows with the day and the machine, ready for JSON."""
    return {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "rows": list(rows)}


def _layers(program: Program, sizes: Sequence[int]) -> list[int]:
    """How many layers give about so many equations."""
    one, two = (_equations(program, n) for n in (1, 2))
    wanted = [max(1, round((size - one) / (two - one)) + 1) for size in sizes]
    return list(dict.fromkeys(wanted))


def _equations(program: Program, layers: int) -> int:
    return count_equations(jax.make_jaxpr(program.fn)(*program.arguments(layers)))


def count_equations(jaxpr: Jaxpr) -> int:
    """Equations of a jaxpr and of every jaxpr inside."""
    return sum(1 + sum(map(count_equations, params_jaxprs(eqn))) for eqn in jaxpr.eqns)


def _row(program: Program, layers: int, rounds: int) -> dict[str, Any]:
    arguments = program.arguments(layers)
    floats, totals = [], []
    for _ in range(rounds):
        floats.append(_seconds(lambda: jax.make_jaxpr(program.fn)(*arguments)))
        totals.append(_seconds(lambda: qpass.transform(program.fn, RULES).plan(*arguments)))
    plan = qpass.transform(program.fn, RULES).plan(*arguments)
    equations = count_equations(plan.program.jaxpr)
    total = statistics.median(totals)
    return {
        "program": program.name,
        "equations": equations,
        "sites": len(plan.decisions),
        "trace_s": statistics.median(floats),
        "transform_s": total,
        "transform_s_range": [min(totals), max(totals)],
        "us_per_equation": total / equations * 1e6,
    }


def _seconds(call: Callable[[], Any]) -> float:
    jax.clear_caches()
    gc.collect()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def growth(rows: Sequence[dict[str, Any]], program: str, least: int = 500) -> float:
    """The exponent ``p`` of seconds ~ equations^p, fitted from ``least`` equations on; 1: linear.

    Below, what every transform costs once would flatten the line. NaN without two such sizes.
    """
    mine = [r for r in rows if r["program"] == program and r["equations"] >= least]
    if len(mine) < 2:
        return math.nan
    x, y = (np.log([row[key] for row in mine]) for key in ("equations", "transform_s"))
    return float(np.polyfit(x, y, 1)[0])


def plot(rows: Sequence[dict[str, Any]], file: Any) -> None:
    """Draw seconds over equations, both logarithmic, with a straight line for linear growth."""
    from matplotlib.figure import Figure  # no pyplot: no window system, no global state

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    for program in dict.fromkeys(row["program"] for row in rows):
        mine = [row for row in rows if row["program"] == program]
        label = f"{program} (~ n^{growth(rows, program):.2f})"
        axes.plot(*_xy(mine), marker="o", label=label)
    ends = [min(r["equations"] for r in rows), max(r["equations"] for r in rows)]
    last = max(rows, key=lambda row: row["equations"])
    line = [last["us_per_equation"] * 1e-6 * n for n in ends]
    axes.plot(ends, line, linestyle=":", color="0.6", label="linear")
    axes.set_xlabel("equations in the traced program")
    axes.set_ylabel("seconds to transform it")
    axes.legend(frameon=False)
    figure.savefig(file, metadata={"Date": None} if str(file).endswith(".svg") else None)


def _xy(rows: Sequence[dict[str, Any]]) -> tuple[list, list]:
    return [row["equations"] for row in rows], [row["transform_s"] for row in rows]
