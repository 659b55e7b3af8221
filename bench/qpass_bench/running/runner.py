"""Running cases: who can take part does, in turns; the figures of each, and why others are missing.

A report is ready for JSON. ``rows`` has one row for each contender of each case, ``missing`` says
why one that was asked for did not run, ``skipped`` why a whole case did not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from qpass_bench.cases.catalogue import Case, describe, occurs
from qpass_bench.cases.schemes import BASE
from qpass_bench.running.contenders import Contender, Entry, contender, draw, variants
from qpass_bench.running.machine import details, free_memory
from qpass_bench.running.measure import Timing
from qpass_bench.running.roofline import Roofline, Sampler, sampler
from qpass_bench.running.sweep import SLOW
from qpass_kernels.tuning.timing import take_turns

SCHEMA = "qpass-bench/1"
HELD_AT_ONCE = 36
"""Bytes that all contenders together hold for a parameter.

What was drawn (4), copies while it is turned and quantized (8), float32 and bfloat16 in two layouts
(12), and every scheme with and without compiled kernels (12).
"""

PATIENCE = 2
ALWAYS = frozenset(variant.name for variant in BASE)

Guest = Callable[[Case, Any, Callable[[str], bool]], Iterator["Contender | Missing"]]
"""Contenders of another library for a case and its arrays, of those names that are asked for."""


@dataclass(frozen=True)
class Missing:
    """A contender that did not run, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Settings:
    """How to run.

    Attributes:
        rounds: turns that every contender takes in all.
        sittings: how often all cases are gone through, each set up anew; rounds are shared out.
        longest: float calls that take more seconds are not waited for, nor calls of others that
            take `PATIENCE` times as many.
        again: turns that everybody in a case takes anew where a scheme came out slow and its plan
            had said nothing, before that counts; 0: it counts at once.
        only: who takes part beside float32, as a regular expression that occurs in the name.
    """

    rounds: int = 20
    sittings: int = 5
    longest: float = 1.0
    again: int = 0
    only: str = ""

    def takes(self, name: str) -> bool:
        """Whether a contender of this name takes part; float32 always does."""
        return name in ALWAYS or occurs(self.only, name)

    @property
    def share(self) -> int:
        """Rounds of a sitting."""
        return -(-self.rounds // self.sittings)


DEFAULTS = Settings()


@dataclass(frozen=True)
class Result:
    """What came of a case: seconds of all rounds by name, who is missing, or why it did not run."""

    case: Case
    entries: Mapping[str, Entry] = MappingProxyType({})
    seconds: Mapping[str, tuple[float, ...]] = MappingProxyType({})
    missing: tuple[Missing, ...] = ()
    skipped: str = ""

    def and_then(self, later: Result) -> Result:
        """This and a later sitting as one; without those who were missing in either."""
        both = {n: own + later.seconds[n] for n, own in self.seconds.items() if n in later.seconds}
        missing = tuple(dict.fromkeys((*self.missing, *later.missing)))
        return Result(self.case, self.entries, both, missing, later.skipped)


def run(
    cases: Sequence[Case],
    settings: Settings = DEFAULTS,
    guests: Sequence[Guest] = (),
    tick: Callable[[], None] = lambda: None,
    probes: Sampler | None = None,
) -> dict[str, Any]:
    """Run every case that the machine can hold; ``tick`` is called after each in each sitting.

    What is fixed while a case runs, such as where its arrays lie and who else is busy, changes from
    sitting to sitting, so that their spread tells how much another run may differ.
    """
    probes = probes or sampler()
    probes.sample()
    results: dict[Case, Result] = {}
    for _ in range(settings.sittings):
        for case in cases:
            before = results.get(case)
            if before is None or not before.skipped:
                now = _sitting(case, settings, guests, probes.roofline())
                results[case] = before.and_then(now) if before else now
                probes.sample()
            tick()
    return report(results.values(), settings, probes.roofline())


def _sitting(case: Case, settings: Settings, guests: Sequence[Guest], roof: Roofline) -> Result:
    reason = too_large(case, free_memory()) or too_long(case, settings.longest, roof)
    if reason:
        return Result(case, skipped=reason)
    try:
        drawn = draw(case)
    except Exception as error:
        return Result(case, skipped=one_line(error))
    entered = tuple(line_up(case, drawn, guests, settings.takes))
    return _timed(case, entered, settings)


def _timed(case: Case, entered: Sequence[Contender | Missing], settings: Settings) -> Result:
    missing = [c for c in entered if isinstance(c, Missing)]
    running, turns = {}, {}
    for c in (c for c in entered if isinstance(c, Contender)):
        first = c.call(1)[0]  # which warms up
        slow = too_slow(c.entry, first, settings)
        if slow:
            missing.append(slow)
        else:
            running[c.entry.name], turns[c.entry.name] = c.entry, c.turn(first)
    result = Result(case, running, take_turns(turns, settings.share), tuple(missing))
    if settings.again and surprising(result):
        return replace(result, seconds=take_turns(turns, settings.again))
    return result


def too_slow(who: Entry, seconds: float, settings: Settings) -> Missing | None:
    """Why nobody waits for a contender; float ones are waited for."""
    most = PATIENCE * settings.longest
    if who.kind == "float" or seconds <= most:
        return None
    return Missing(who.name, f"takes {seconds:.1f} s a call, more than {PATIENCE} times --longest")


def surprising(result: Result, slow: float = SLOW) -> bool:
    """Whether a scheme is slower than float32 by much, and its plan did not say so."""
    base = result.seconds.get(best_float(result, "float32"), ())
    silent = [e.name for e in result.entries.values() if e.kind == "qpass" and not e.planned]
    return bool(base) and any(Timing(result.seconds[n], base).ratio < slow for n in silent)


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


def line_up(
    case: Case, drawn: Any, guests: Sequence[Guest], takes: Callable[[str], bool] = lambda _: True
) -> Iterator[Contender | Missing]:
    """Everybody asked for who can take part in a case, and everybody who cannot."""
    for variant in variants(case):
        if not takes(variant.name):
            continue
        try:
            yield contender(case, variant, drawn)
        except Exception as error:
            yield Missing(variant.name, one_line(error))
    for guest in guests:
        yield from guest(case, drawn, takes)


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
        "rounds": settings.share * settings.sittings,
        "sittings": settings.sittings,
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
    best = {units: best_float(result, units) for units in ("float32", "bfloat16")}
    for name, own in result.seconds.items():
        yield {
            **_figures(result.case, result.entries[name], own, roof),
            **{f"best_{units}": base for units, base in best.items() if base},
            **_ratios("ratio", own, result.seconds.get(best["float32"])),
            **_ratios("ratio_bfloat16", own, result.seconds.get(best["bfloat16"])),
        }


def best_float(result: Result, units: str) -> str:
    """The fastest float contender that computes in a dtype; nobody where none does."""
    own = [e.name for e in result.entries.values() if (e.kind, e.units) == ("float", units)]
    ran = [name for name in own if name in result.seconds]
    return min(ran, key=lambda name: statistics.median(result.seconds[name]), default="")


def _figures(case: Case, who: Entry, own: tuple[float, ...], roof: Roofline) -> dict[str, Any]:
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
        "compile_s": who.compile_s,
        "rounds": len(own),
        "ms": timing.median * 1e3,
        "ms_range": [seconds * 1e3 for seconds in timing.spread],
        "tokens_per_s": case.tokens / timing.median,
        "gb_per_s": who.bytes * case.reads / timing.median / 1e9,
        "gop_per_s": case.ops / timing.median / 1e9,
        "bound": bound,
        "of_roofline": least / timing.median,
    }


def _ratios(name: str, own: tuple[float, ...], base: tuple[float, ...] | None) -> dict[str, Any]:
    """How many times as fast, in the middle and round by round."""
    if base is None:
        return {}
    each = [b / o for b, o in zip(base, own, strict=True)]
    return {name: statistics.median(each), f"{name}s": each}
