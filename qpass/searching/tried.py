"""A scheme that is tried on weights: where it can be stored, what it costs, how long it takes."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from qpass.ops.op import Ran
from qpass.plan import Decision, Plan
from qpass.plan_rows import kernel_at
from qpass.quantize import tree_nbytes
from qpass.rules import Rule
from qpass.searching.choose import Option
from qpass.searching.trial import Trial

type Time = tuple[int, int] | None
"""Nanoseconds that are expected of products, and of them in float32; None where nobody knows."""


@dataclass(frozen=True, eq=False)
class Tried:
    """A scheme.

    Attributes:
        scheme: the text of a quantizer.
        rule: for all weights that it is tried on.
        number: of this rule among those of the plan.
        plan: with it after those that come first.
    """

    scheme: str
    rule: Rule
    number: int
    plan: Plan

    @cached_property
    def paths(self) -> dict[int, str]:
        """Path of each leaf that is stored so, by index."""
        leaves = self.plan.program.leaves
        sites = [d.site for d in self._decisions if d.stored]
        return {site.leaf: leaves[site.leaf].path for site in sites if site.leaf is not None}

    def refusals(self, chosen: Collection[int]) -> dict[str, str]:
        """Why weights that are not among the leaves chosen are not stored so, by path."""
        others = [d for d in self._decisions if d.site.leaf not in chosen]
        return {d.site.weight_path: _reason(d) for d in others}

    @cached_property
    def times(self) -> dict[int, Time]:
        """What products with each leaf are expected to take in one call, by index."""
        same: dict[Any, Ran] = {}
        found: dict[int, Time] = {}
        for d in self._decisions:
            if d.site.leaf is not None and d.stored:
                one = kernel_at(self.plan, d, same).nanoseconds
                known = one if self.plan.platform == "cpu" else None
                found[d.site.leaf] = _sum(found.get(d.site.leaf, (0, 0)), known, d.site.repeats)
        return found

    def errors(self, trial: Trial) -> dict[int, float]:
        """The largest error that a product with each leaf adds by itself, by index."""
        q = trial.transformed([self.rule])
        found: dict[int, float] = {}
        for site in q.compare(trial.params, *trial.batches[0]).sites:
            leaf = self.plan[site.site].site.leaf
            if leaf is not None:
                found[leaf] = max(found.get(leaf, 0.0), site.relative_error)
        return found

    def options(
        self,
        trial: Trial,
        base: Sequence[Any],
        start: float,
        errors: bool,
        tick: Callable[[], None],
    ) -> dict[int, Option]:
        """What each leaf costs in this scheme, by index.

        Args:
            trial: judges.
            base: the leaves of the parameters before.
            start: the loss with these.
            errors: whether errors of products are measured, too.
            tick: called after each leaf.
        """
        found, own = {}, self.errors(trial) if errors else {}
        stored = trial.stored([self.rule])
        for k, path in self.paths.items():
            leaves = [*base[:k], stored[k], *base[k + 1 :]]
            lost = trial.judge(leaves, f"{path} in {self.scheme}") - start
            time = self.times.get(k)
            size = tree_nbytes(stored[k])
            found[k] = Option(self.scheme, lost, size, own.get(k), time and time[0])
            tick()
        return found

    @property
    def _decisions(self) -> Iterable[Decision]:
        return (d for d in self.plan.decisions if d.rule == self.number)


def _reason(decision: Decision) -> str:
    return decision.reason or " ".join(decision.notes) or "its product reads no leaf as it is"


def _sum(before: Time, one: tuple[float, float] | None, repeats: int) -> Time:
    if one is None or before is None:
        return None
    own, floats = (a + math.ceil(b * repeats) for a, b in zip(before, one, strict=True))
    return own, floats
