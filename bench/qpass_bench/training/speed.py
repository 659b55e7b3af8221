"""`qpass bench train`: time and memory of a training step, beside float and Qwix.

Everybody's step (loss, gradients, optimizer) is compiled first; then they take turns. XLA says how
much memory a step needs beside its arguments; what the process held at most is measured by running
each step in a process of its own: ``python -m qpass_bench.training.speed``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from qpass_bench.cases.catalogue import occurs
from qpass_bench.running import memory
from qpass_bench.running.machine import details
from qpass_bench.running.measure import interleaved
from qpass_bench.running.runner import one_line
from qpass_bench.training.contenders import Case, cases, compiled, enter, names

SCHEMA = "qpass-bench-train/1"
MEASURED = 3
"""Steps of a process whose memory is measured."""


def chosen(pattern: str = "") -> tuple[tuple[Case, bool], ...]:
    """Cases in whose name the pattern occurs, each without and with remat."""
    every = [(case, remat) for case in cases() for remat in (False, True)]
    return tuple(pair for pair in every if occurs(pattern, title(*pair)))


def title(case: Case, remat: bool) -> str:
    """The name of a case."""
    return f"{case.name}, remat" if remat else case.name


def run(
    pairs: Sequence[tuple[Case, bool]],
    rounds: int = 20,
    tick: Callable[[], None] = lambda: None,
    peak: Callable[[str, str], int | None] | None = None,
) -> dict[str, Any]:
    """Time all cases; a report ready for JSON. ``tick`` is called after each.

    Args:
        pairs: cases, and whether layers are computed again.
        rounds: turns of everybody.
        tick: called after each case.
        peak: title and name to the most bytes that a process held; None: in processes of their own,
            where the system tells.
    """
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "date": time.strftime("%Y-%m-%d"),
        "machine": details(),
        "rounds": rounds,
        "rows": [],
        "missing": [],
    }
    for case, remat in pairs:
        rows, missing = _case(case, remat, rounds)
        for row in rows:
            row["peak_bytes"] = (peak or measured)(row["case"], row["variant"])
        report["rows"] += rows
        report["missing"] += missing
        tick()
    return report


def _case(case: Case, remat: bool, rounds: int) -> tuple[list[dict], list[dict]]:
    turns, rows, missing = {}, {}, []
    for name in names():
        about = {"case": title(case, remat), "variant": name}
        try:
            turns[name], figures = _entered(case, remat, name)
            rows[name] = {**about, **figures}
        except Exception as error:  # of whatever library: the others run without it
            missing.append({**about, "why": one_line(error)})
    for name, timing in interleaved(turns, rounds).items():
        low, high = timing.spread
        rows[name] |= {
            "ms": 1e3 * timing.median,
            "ms_range": [1e3 * low, 1e3 * high],
            "over_float": timing.ratio,
        }
    return list(rows.values()), missing


def _entered(case: Case, remat: bool, name: str) -> tuple[Callable[[], Any], dict[str, Any]]:
    """What takes a step, and what XLA says of it."""
    trainer = enter(case, remat, name)
    given = trainer.start(0)
    batch = trainer.task.split.held_out
    start = time.perf_counter()
    program = compiled(trainer, (*given, *batch))
    seconds = time.perf_counter() - start
    kept = [given]

    def step() -> Any:
        *after, loss = program(*kept[0], *batch)
        kept[0] = tuple(after)
        return loss

    return step, {
        "compile_s": seconds,
        "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
    }


def measured(case: str, name: str) -> int | None:
    """Bytes that a process held at most during some steps, more than before; None: nobody tells."""
    if not memory.supported():
        return None
    return memory.alone("qpass_bench.training.speed", case, name)


def most(case: str, name: str) -> int:
    """What this process holds at most during steps, more than before, its arguments not counted."""
    found, remat = next(pair for pair in chosen() if title(*pair) == case)
    step, _ = _entered(found, remat, name)
    before = memory.held("VmRSS")
    memory.forget()
    for _ in range(MEASURED):
        jax.block_until_ready(step())
    return memory.held("VmHWM") - before


def main() -> None:
    """Print the bytes that a step takes at most."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", help="its title")
    parser.add_argument("name", help="who takes the step")
    given = parser.parse_args()
    print(json.dumps(most(given.case, given.name)))


if __name__ == "__main__":
    main()
