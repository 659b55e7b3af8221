"""The cases, timed: kernels in their settings, XLA's products and a copy, in turns in one run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass_bench.gpu.cases import Case
from qpass_kernels import REFERENCE, XLA, Kernel, Product
from qpass_kernels.tuning.operands import copies_of, operands, values, weight_bytes
from qpass_kernels.tuning.search import Candidate, candidates
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
    p = case.product
    programs: dict[Any, Any] = {"copy": _copy(copied)}
    programs[0] = _calls(_bfloat16, _sixteen_bits(p), _as_bfloat16(p), method)
    rows: list[dict[str, Any]] = [{"kernel": "XLA bfloat16", "config": ""}]
    for candidate in _contenders(kernels, p):
        row = {"kernel": candidate.kernel.name, "config": str(candidate.config or "")}
        rows.append(row)
        try:
            run = partial(candidate.run, p)
            programs[len(rows) - 1] = _calls(run, operands(p), p, method)
        except Exception as error:
            row["reason"] = f"{type(error).__name__}: {error}"[:300]
    seconds = in_turns({name: call for name, (call, _) in programs.items()}, method)
    for number, row in enumerate(rows):
        if number in seconds:
            row["seconds"] = seconds[number] / programs[number][1]
    bandwidth = 2 * copied / seconds["copy"]
    return _report(case, rows, bandwidth)


def _contenders(kernels: Sequence[Kernel], p: Product) -> list[Candidate]:
    """All candidates but the reference, which nobody would run for its speed, unless alone."""
    found = list(candidates(kernels, jax.default_backend(), p))
    return [c for c in found if c.kernel is not REFERENCE] or found


def _calls(run: Any, given: tuple, p: Product, method: Method) -> tuple[Any, int]:
    """A compiled program of several products, and how many."""
    lhs, lhs_scale, rhs, rhs_scale = given
    weights, calls = copies_of(rhs, method.weights(p)), method.calls(p)
    program = jax.jit(partial(one_after_another, run, calls))
    compiled = program.lower(lhs, lhs_scale, weights, rhs_scale).compile()
    return lambda: compiled(lhs, lhs_scale, weights, rhs_scale), calls


def _copy(size: int) -> tuple[Any, int]:
    """Read and write so many bytes; adding one keeps the compiler from doing nothing."""
    x = jnp.arange(size // 4, dtype=jnp.int32)
    add = jax.jit(lambda x: x + 1)
    return lambda: add(x), 1


def _bfloat16(lhs: Any, lhs_scale: None, rhs: Any, rhs_scale: None) -> Any:
    contract = (((2,), (2,)), ((0,), (0,)))
    return lax.dot_general(lhs, rhs, contract, preferred_element_type=jnp.bfloat16)


def _as_bfloat16(p: Product) -> Product:
    """The float product: only its sizes count."""
    return Product(p.batch, p.m, p.n, p.k, "bfloat16", "float32", p.out, p.k, "none", "row")


def _sixteen_bits(p: Product) -> tuple[Any, None, Any, None]:
    keys = jax.random.split(jax.random.key(1))
    shapes = ((p.batch, p.m, p.k), (p.batch, p.n, p.k))
    lhs, rhs = (values(k, s, "bfloat16") for k, s in zip(keys, shapes, strict=True))
    return lhs, None, rhs, None


def _report(case: Case, rows: list[dict[str, Any]], bandwidth: float) -> dict[str, Any]:
    p = case.product
    base = next((r for r in rows if r["kernel"] == XLA.name and "seconds" in r), rows[0])
    base = rows[0] if case.against == "bfloat16" else base
    for row in rows:
        if "seconds" in row:
            read = weight_bytes(p) if row is not rows[0] else 2 * p.batch * p.n * p.k
            row["operations_per_second"] = 2 * p.batch * p.m * p.n * p.k / row["seconds"]
            row["weight_bytes_per_second"] = read / row["seconds"]
            row["speedup"] = base["seconds"] / row["seconds"]
    return {
        "name": case.name,
        "product": str(p),
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
