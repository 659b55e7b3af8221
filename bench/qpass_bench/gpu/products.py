"""The cases, timed: kernels in their settings, XLA's products and a copy, in turns in one run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from qpass_bench.gpu.cases import Case
from qpass_bench.gpu.ways import Way, ways
from qpass_kernels import XLA, Kernel
from qpass_kernels.tuning.operands import copies_of
from qpass_kernels.tuning.timing import Method, in_turns, one_after_another

COPIED = 2**30
"""Bytes of the array that is copied to find the bandwidth."""


def time_case(
    case: Case, kernels: Sequence[Kernel], method: Method, copied: int = COPIED
) -> dict[str, Any]:
    """One case: seconds of all that can compute it, of bfloat16 and of the copy.

    Returns:
        the case's name and targets, `copy_bytes_per_second`, and `rows`: one for each candidate
        with `seconds`, rates and `speedup` over what the case is held against, or a `reason`.
    """
    programs: dict[Any, Any] = {"copy": _copy(copied)}
    rows: list[dict[str, Any]] = []
    entered = list(ways(case.product, kernels))
    for number, way in enumerate(entered):
        rows.append({"kernel": way.kernel, "config": way.config})
        try:
            programs[number] = _calls(way, method)
        except Exception as error:
            rows[-1]["reason"] = f"{type(error).__name__}: {error}"[:300]
    seconds = in_turns(programs, method)
    for number, (row, way) in enumerate(zip(rows, entered, strict=True)):
        if number in seconds:
            row |= _rates(case, way, seconds[number] / method.calls(way.like))
    return _report(case, rows, 2 * copied / seconds["copy"])


def _calls(way: Way, method: Method) -> Any:
    """A compiled program of several products."""
    lhs, lhs_scale, rhs, rhs_scale = way.given
    weights = copies_of(rhs, method.weights(way.like))
    program = jax.jit(partial(one_after_another, way.run, method.calls(way.like)))
    compiled = program.lower(lhs, lhs_scale, weights, rhs_scale).compile()
    return lambda: compiled(lhs, lhs_scale, weights, rhs_scale)


def _copy(size: int) -> Any:
    """Read and write so many bytes; adding one keeps the compiler from doing nothing."""
    x = jnp.arange(size // 4, dtype=jnp.int32)
    add = jax.jit(lambda x: x + 1)
    return lambda: add(x)


def _rates(case: Case, way: Way, seconds: float) -> dict[str, float]:
    return {
        "seconds": seconds,
        "operations_per_second": case.operations / seconds,
        "weight_bytes_per_second": way.read / seconds,
    }


def _report(case: Case, rows: list[dict[str, Any]], bandwidth: float) -> dict[str, Any]:
    base = next((r for r in rows if r["kernel"] == XLA.name and "seconds" in r), rows[0])
    base = rows[0] if case.against == "bfloat16" else base
    for row in rows:
        if "seconds" in row:
            row["speedup"] = base["seconds"] / row["seconds"]
    return {
        "name": case.name,
        "product": str(case.product),
        "against": base["kernel"],
        "targets": {k: getattr(case, k) for k in ("speedup", "tera", "bandwidth")},
        "copy_bytes_per_second": bandwidth,
        "rows": rows,
        "met": _met(case, rows, bandwidth),
    }


def _met(case: Case, rows: list[dict[str, Any]], bandwidth: float) -> dict[str, bool]:
    """Which targets the fastest kernel meets; empty where none of ours takes the product."""
    ours = [r for r in rows[1:] if "seconds" in r and r["kernel"] != XLA.name]
    if not ours:
        return {}
    best = min(ours, key=lambda r: r["seconds"])
    got = {
        "speedup": best["speedup"],
        "tera": best["operations_per_second"] / 1e12,
        "bandwidth": best["weight_bytes_per_second"] / bandwidth,
    }
    wanted = {name: getattr(case, name) for name in got}
    return {name: got[name] >= target for name, target in wanted.items() if target is not None}
