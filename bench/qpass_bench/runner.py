"""Running cases: who can take part does, in turns; the figures of each, and why others are missing.

A report is ready for JSON. ``rows`` has one row for each contender of each case, ``missing`` says
why one that was asked for did not run, ``skipped`` why a whole case did not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qpass_bench.cases import Case, describe
from qpass_bench.contenders import Contender, contender, draw, variants
from qpass_bench.machine import details, free_memory
from qpass_bench.measure import Timing, take_turns
from qpass_bench.roofline import Roofline, Sampler, sampler

SCHEMA = "qpass-bench/1"
HELD_AT_ONCE = 30
"""Bytes that all contenders together hold for a parameter: what was drawn (4), copies while it is
turned and quantized (8), float32 and bfloat16 in two layouts (12), the quantized ones (6)."""

Guest = Callable[[Case, Any], Iterator["Contender | Missing"]]
"""Contenders of another library for a case and its arrays; none where it takes no such case."""


@dataclass(frozen=True)
class Missing:
    """A contender that did not run, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Settings:
    """How to run: rounds of turns, and the longest float call that is waited for, in seconds."""

    rounds: int = 20
    longest: float = 1.0


DEFAULTS = Settings()


def run(
    cases: Sequence[Case],
    settings: Settings = DEFAULTS,
    guests: Sequence[Guest] = (),
    tick: Callable[[], None] = lambda: None,
    probes: Sampler | None = None,
) -> dict[str, Any]:
    """Run every case that the machine can hold; ``tick`` is called after each."""
    probes = probes or sampler()
    probes.sample()
    results = []
    for case in cases:
        results.append(_case(case, settings, guests, probes.roofline()))
        probes.sample()
        tick()
    return report(results, settings, probes.roofline())


@dataclass(frozen=True)
class Result:
    """What came of a case: seconds by contender, who is missing, and why it did not run at all."""

    case: Case
    seconds: Mapping[Contender, tuple[float, ...]]
    missing: tuple[Missing, ...] = ()
    skipped: str = ""


def _case(case: Case, settings: Settings, guests: Sequence[Guest], roof: Roofline) -> Result:
    reason = too_large(case, free_memory()) or too_long(case, settings.longest, roof)
    if reason:
        return Result(case, {}, skipped=reason)
    try:
        drawn = draw(case)
    except Exception as error:
        return Result(case, {}, skipped=one_line(error))
    entered = tuple(line_up(case, drawn, guests))
    running = {c.name: c for c in entered if isinstance(c, Contender)}
    seconds = take_turns({name: c.turn() for name, c in running.items()}, settings.rounds)
    missing = tuple(c for c in entered if isinstance(c, Missing))
    return Result(case, {running[name]: own for name, own in seconds.items()}, missing)


def too_large(case: Case, free: int) -> str:
    """Why the machine cannot hold the case, or nothing."""
    needed = HELD_AT_ONCE * case.parameters
    if needed <= free:
        return ""
    return f"needs about {needed / 1e9:.1f} GB of memory; {free / 1e9:.1f} GB are free"


def too_long(case: Case, longest: float, roof: Roofline) -> str:
    """Why nobody wants to wait for the case, or nothing."""
    held = 4 * case.parameters
    seconds, _ = roof.bound(held, held * case.reads, case.ops, "float32")
    if seconds <= longest:
        return ""
    return (
        f"takes at least {seconds:.1f} s a call in float32; --longest {seconds * 1.2:.0f} runs it"
    )


def line_up(case: Case, drawn: Any, guests: Sequence[Guest]) -> Iterator[Contender | Missing]:
    """Everybody who can take part in a case, and everybody who cannot."""
    for variant in variants(case):
        try:
            yield contender(case, variant, drawn)
        except Exception as error:
            yield Missing(variant.name, one_line(error))
    for guest in guests:
        yield from guest(case, drawn)


def one_line(error: Exception) -> str:
    """The first line of what went wrong, and its kind."""
    text = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def report(results: Iterable[Result], settings: Settings, roof: Roofline) -> dict[str, Any]:
    """All results of a run, ready for JSON."""
    results = tuple(results)
    return {
        "schema": SCHEMA,
        "date": time.strftime("%Y-%m-%d"),
        "machine": details(),
        "rounds": settings.rounds,
        "roofline": roof.report(),
        "rows": [row for result in results for row in rows(result, roof)],
        "missing": [
            {"suite": r.case.suite, "case": r.case.name, "variant": m.name, "why": m.why}
            for r in results
            for m in r.missing
        ],
        "skipped": [
            {"suite": r.case.suite, "case": r.case.name, "why": r.skipped}
            for r in results
            if r.skipped
        ],
    }


def rows(result: Result, roof: Roofline) -> Iterator[dict[str, Any]]:
    """The figures of everybody in a case, against the best float32 and the best bfloat16."""
    best = {units: best_float(result.seconds, units) for units in ("float32", "bfloat16")}
    for who, own in result.seconds.items():
        yield {
            **_figures(result.case, who, own, roof),
            **{f"best_{units}": base.name for units, base in best.items() if base},
            **_ratios("ratio", own, _seconds(result, best["float32"])),
            **_ratios("ratio_bfloat16", own, _seconds(result, best["bfloat16"])),
        }


def best_float(seconds: Mapping[Contender, tuple[float, ...]], units: str) -> Contender | None:
    """The fastest float contender that computes in a dtype."""
    floats = [who for who in seconds if who.kind == "float" and who.units == units]
    return min(floats, key=lambda who: statistics.median(seconds[who]), default=None)


def _figures(case: Case, who: Contender, own: tuple[float, ...], roof: Roofline) -> dict[str, Any]:
    timing = Timing(own, own)
    least, bound = roof.bound(who.bytes, who.bytes * case.reads, case.ops, who.units)
    return {
        "suite": case.suite,
        "case": case.name,
        "sizes": describe(case),
        "variant": who.name,
        "kind": who.kind,
        "kernel": who.kernel,
        "planned": list(who.planned),
        "bytes": who.bytes,
        "error": who.error,
        "compile_s": round(who.compile_s, 4),
        "ms": timing.median * 1e3,
        "ms_range": [seconds * 1e3 for seconds in timing.spread],
        "tokens_per_s": case.tokens / timing.median,
        "gb_per_s": who.bytes * case.reads / timing.median / 1e9,
        "gop_per_s": case.ops / timing.median / 1e9,
        "bound": bound,
        "of_roofline": least / timing.median,
    }


def _seconds(result: Result, who: Contender | None) -> tuple[float, ...] | None:
    return None if who is None else result.seconds[who]


def _ratios(name: str, own: tuple[float, ...], base: tuple[float, ...] | None) -> dict[str, Any]:
    """How many times as fast, in the middle and round by round."""
    if base is None:
        return {}
    each = [float(f"{b / o:.5g}") for b, o in zip(base, own, strict=True)]
    return {name: statistics.median(each), f"{name}s": each}
