"""How fast a weight is quantized, beside the time that memory alone would take.

``python -m qpass_bench.costs.quantizing --out bench/results/quantizing-cpu.json`` quantizes a
float32 matrix under every type, granularity and range method. Quantizing has to read every value
once and to write codes and scales once, into new memory. The time for that, at the bandwidth of the
fastest of a few plain programs that do nothing else, is the best that any program could do; a
figure is the share of it that was reached. Streams and quantizers take turns in the same rounds,
and the share is taken round by round. A stream in place is timed for comparison: it needs no new
memory, whose first touch costs more than a write, so no function that returns an array can keep up
with it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import batched, product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from qpass.numerics import QTYPES, as_quantizer, quantize
from qpass_bench.running.contestant import buffer_bytes
from qpass_bench.running.measure import Timing, interleaved, machine
from qpass_bench.running.progress import Stages

SIZE = 4096
GRANULARITIES = ("channel", "g128", "g32", "tensor", "b128x128")
SIMPLE = ("absmax,0.9", "minmax", "fixed,-4,4")
SEARCHES = ("rms,3", "absmean,3", "pow2", "percentile,99", "mse", "wmse", "snr")
RANGED_TYPES = ("int8", "int4")
RANGED_GRANULARITIES = ("channel", "g32")
"""What every range method is timed with; all else with the default one."""

BATCH = 6
"""How many cases share their rounds: the streams are timed anew for every batch."""


@dataclass(frozen=True)
class Case:
    """A quantizer in its words, and how the weight lies.

    ``rows``: ``[out, in]``, contracted along rows, as codes are stored. ``columns``: ``[in, out]``,
    as most JAX models have it, so that codes are transposed on the way.
    """

    qtype: str
    granularity: str = ""
    range: str = ""
    layout: str = "rows"

    @property
    def quantizer(self) -> str:
        """The quantizer as text."""
        return spelled(self.qtype, self.granularity, self.range)

    @property
    def name(self) -> str:
        """A unique name."""
        return f"{self.quantizer}, {self.layout}"

    @property
    def simple(self) -> bool:
        """Whether the bounds are at hand after one look at the values."""
        return self.range in ("", *SIMPLE)

    def function(self) -> Callable[[jax.Array], Any]:
        """What is timed, jitted."""
        contract, pack = ((1,), False) if self.layout == "rows" else ((0,), True)
        quantizer = as_quantizer(self.quantizer)
        asked = partial(quantize, quantizer=quantizer, contract=contract, pack=pack)
        if self.range != "wmse":
            return jax.jit(asked)
        # From the data, so that the compiler does not spend half a minute on sums of constants.
        return jax.jit(lambda x: asked(x, importance=jnp.abs(x[:1])))


def cases() -> Iterator[Case]:
    """Every type and granularity; every range method with some; transposed weights.

    A block format has its own blocks only.
    """
    for qtype in QTYPES:
        for granularity in ("",) if qtype.block else GRANULARITIES:
            yield Case(qtype.name, granularity)
    for qtype, granularity, method in product(
        RANGED_TYPES, RANGED_GRANULARITIES, SIMPLE + SEARCHES
    ):
        yield Case(qtype, granularity, method)
    for qtype, granularity in product(RANGED_TYPES, GRANULARITIES):
        yield Case(qtype, granularity, layout="columns")


def spelled(*words: str) -> str:
    """The text of a quantizer from its words, of which some may be empty."""
    return " ".join(filter(None, words))


def run(
    chosen: Sequence[Case] | None = None,
    size: int = SIZE,
    rounds: int = 9,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Time every case in batches that share their rounds; ``tick`` is called after each case.

    Cases that are not simple (searches for the best range) take few rounds.
    """
    chosen = tuple(cases()) if chosen is None else tuple(chosen)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((size, size)), jnp.float32)
    rows, bandwidths = [], []
    for simple in (True, False):
        for batch in batched([c for c in chosen if c.simple is simple], BATCH):
            measured, bandwidth = _batch(batch, x, rounds if simple else min(rounds, 3), tick)
            rows.extend(measured)
            bandwidths.append(bandwidth)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "shape": [size, size],
        "streams": {name: _summary([b for d in bandwidths for b in d[name]]) for name in STREAMS},
        "rows": rows,
    }


type Stream = tuple[Callable[[], Any], int]
"""A call, and how many bytes it reads and writes."""


def streams(x: jax.Array) -> dict[str, Stream]:
    """Plain programs that do nothing but move an array through memory."""
    read, narrow = jax.jit(jnp.max), jax.jit(lambda x: x.astype(jnp.int8))
    copy = jax.jit(lambda x: x + 1)
    step, held = jax.jit(lambda x: x + 1, donate_argnums=0), [x + 0]

    def in_place() -> jax.Array:
        held[0] = step(held[0])
        return held[0]

    return {
        "read": (partial(read, x), x.nbytes),
        "cast to int8": (partial(narrow, x), x.nbytes + x.size),
        "copy": (partial(copy, x), 2 * x.nbytes),
        IN_PLACE: (in_place, 2 * x.nbytes),
    }


IN_PLACE = "add in place"
STREAMS = ("read", "cast to int8", "copy", IN_PLACE)


def _batch(
    batch: Sequence[Case], x: jax.Array, rounds: int, tick: Callable[[], None]
) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    """Rows, and the bandwidth of every stream in every round."""
    plain = streams(x)
    calls = {case.name: partial(case.function(), x) for case in batch}
    timings = interleaved({**{n: call for n, (call, _) in plain.items()}, **calls}, rounds)
    bandwidth = {n: [b / s for s in timings[n].seconds] for n, (_, b) in plain.items()}
    fair = [bandwidth[name] for name in STREAMS if name != IN_PLACE]
    best = [max(each) for each in zip(*fair, strict=True)]
    rows = []
    for case in batch:
        moved = x.nbytes + buffer_bytes(calls[case.name]())
        rows.append(row(case, moved, timings[case.name], best))
        tick()
    return rows, bandwidth


def row(case: Case, moved: int, timing: Timing, bandwidth: Sequence[float]) -> dict[str, Any]:
    """The figures of a case that has to move so many bytes, at the bandwidth of each round."""
    shares = [moved / b / s for b, s in zip(bandwidth, timing.seconds, strict=True)]
    return {
        **asdict(case),
        "simple": case.simple,
        "bytes": moved,
        "ms": timing.median * 1e3,
        "ms_range": [seconds * 1e3 for seconds in timing.spread],
        "of_optimal": statistics.median(shares),
        "of_optimal_range": [min(shares), max(shares)],
        "rounds": len(shares),
    }


def _summary(bandwidths: Sequence[float]) -> dict[str, Any]:
    in_gb = [b / 1e9 for b in bandwidths]
    return {"gb_per_s": statistics.median(in_gb), "gb_per_s_range": [min(in_gb), max(in_gb)]}


def table(report: Mapping[str, Any]) -> Table:
    """The rows for a terminal; the streams in the caption."""
    caption = ", ".join(f"{n} {s['gb_per_s']:.1f} GB/s" for n, s in report["streams"].items())
    shown = Table("quantizer", "layout", "ms", "of optimal", "range", caption=caption)
    for row in report["rows"]:
        low, high = row["of_optimal_range"]
        quantizer = spelled(row["qtype"], row["granularity"], row["range"])
        figures = f"{row['ms']:.1f}", f"{row['of_optimal']:.0%}", f"{low:.0%} to {high:.0%}"
        shown.add_row(quantizer, row["layout"], *figures)
    return shown


def main() -> None:
    """Measure, print the table, and write the JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the JSON to this file")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="quantizers that contain this text")
    arguments = parser.parse_args()
    chosen = [case for case in cases() if arguments.only in case.name]
    with Stages(Console(stderr=True)).stage("Quantize", len(chosen)) as tick:
        report = run(chosen, rounds=arguments.rounds, tick=tick)
    Console().print(table(report))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
