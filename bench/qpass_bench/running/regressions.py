"""Two runs of the benchmark: which figures changed, beyond what chance explains.

A figure is the speed of a scheme over the best float32 of the same round. The rounds of a sitting
share much that another run will not share with them, so that their spread alone would make a change
of every run. A sitting therefore counts once, with the median of its rounds; the logarithms of the
sittings then are held against those now by Welch's test, and the p-values of all rows are corrected
for their number. No change is called for its size alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import batched
from typing import Any

from qpass.errors import QPassError
from qpass_bench.running.machine import comparable, differences
from qpass_bench.running.significance import adjusted, welch

ENOUGH = 4
"""Sittings that can tell a change from chance."""
LEVEL = 0.05
"""The share of called changes that chance may have made."""

Key = tuple[str, str, str]
"""Suite, case and variant."""


class IncomparableError(QPassError, ValueError):
    """Two runs whose figures say nothing about each other."""


@dataclass(frozen=True)
class Change:
    """What became of a row.

    Attributes:
        key: which row.
        old: its speed over float32 then; the mean of the sittings, of logarithms.
        new: the same now.
        factor: how many times as fast it became.
        p: the p-value, corrected for the number of rows.
        old_base: the float32 layout that was fastest then.
        new_base: the same now.
    """

    key: Key
    old: float
    new: float
    factor: float
    p: float
    old_base: str
    new_base: str

    def verdict(self, level: float = LEVEL) -> str:
        """What to call it: "regression", "improvement" or "same"."""
        if self.p > level or self.factor == 1:
            return "same"
        return "regression" if self.factor < 1 else "improvement"


@dataclass(frozen=True)
class Comparison:
    """All rows that both runs have, those that only one has, and what to know of the runs."""

    changes: tuple[Change, ...]
    gone: tuple[Key, ...]
    added: tuple[Key, ...]
    warnings: tuple[str, ...]

    def called(self, verdict: str) -> list[Change]:
        """Regressions or improvements, the largest first."""
        found = [change for change in self.changes if change.verdict() == verdict]
        return sorted(found, key=lambda change: -abs(math.log(change.factor)))


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> Comparison:
    """Hold the rows of qpass in two reports against each other.

    Raises:
        IncomparableError: the reports are of other kinds of machine or other formats, or have no
            row in common.
    """
    warnings = _warnings(old, new)
    before, after = _own(old), _own(new)
    keys = [key for key in after if key in before]
    if not keys:
        raise IncomparableError("The two runs have no row in common: run the same suite and cases.")
    pairs = [(sittings(old, before[key]), sittings(new, after[key])) for key in keys]
    p_values = adjusted([welch(*pair) for pair in pairs])
    changes = tuple(
        _change(key, before[key], after[key], pair, p)
        for key, pair, p in zip(keys, pairs, p_values, strict=True)
    )
    gone = tuple(key for key in before if key not in after)
    return Comparison(changes, gone, tuple(k for k in after if k not in before), tuple(warnings))


def sittings(report: Mapping[str, Any], row: Mapping[str, Any]) -> list[float]:
    """The logarithm of a row's speed over float32 in each sitting."""
    rounds = batched(row["ratios"], len(row["ratios"]) // report["sittings"])
    return [math.log(statistics.median(ratios)) for ratios in rounds]


def _change(
    key: Key,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    logs: tuple[list[float], list[float]],
    p: float,
) -> Change:
    then, now = map(statistics.fmean, logs)
    bases = old["best_float32"], new["best_float32"]
    return Change(key, math.exp(then), math.exp(now), math.exp(now - then), p, *bases)


def _own(report: Mapping[str, Any]) -> dict[Key, Mapping[str, Any]]:
    rows = (row for row in report["rows"] if row["kind"] == "qpass" and "ratios" in row)
    return {(row["suite"], row["case"], row["variant"]): row for row in rows}


def _warnings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    schemas = old.get("schema"), new.get("schema")
    if len(set(schemas)) > 1:
        raise IncomparableError(f"The old run is in format {schemas[0]}, the new in {schemas[1]}.")
    found = list(differences(old["machine"], new["machine"]))
    if not comparable(old["machine"], new["machine"]):
        raise IncomparableError(f"The runs are of different machines: {'; '.join(found)}.")
    fewest = min(old["sittings"], new["sittings"])
    few = [f"{fewest} sittings tell little of how runs differ: --sittings 5"]
    return [f"{line}: a change may come from there" for line in found] + few * (fewest < ENOUGH)
