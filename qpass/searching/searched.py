"""`search`: schemes for the weights of a function under a budget, as rules."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

from qpass.configs import rules_to_data
from qpass.errors import PlanError
from qpass.plan import Plan
from qpass.rules import Rule
from qpass.searching.budget import TIMES, Budget, as_budget
from qpass.searching.choose import Option, choose, smallest
from qpass.searching.front import Point, front, plot
from qpass.searching.measured import FLOAT, Sensitivity, sensitivity
from qpass.searching.patterns import patterns
from qpass.searching.table import to_table
from qpass.views import to_text
from qpass.views.units import bytes_text

TRIES = 6
"""Choices that are judged for a budget of loss."""


@dataclass(frozen=True, eq=False)
class Search:
    """What a search chose.

    Attributes:
        sensitivity: what it chose from.
        budget: what it was given.
        chosen: an option for each of ``sensitivity.weights``.
        rules: rules that do the same, those that came first included.
        loss: what all of it loses together, measured.
    """

    sensitivity: Sensitivity
    budget: Budget
    chosen: tuple[Option, ...]
    rules: tuple[Rule, ...]
    loss: float

    @property
    def schemes(self) -> dict[str, str]:
        """The scheme of each weight, by path."""
        pairs = zip(self.sensitivity.weights, self.chosen, strict=True)
        return {weight.path: option.scheme for weight, option in pairs}

    @property
    def predicted(self) -> float:
        """The sum of what each weight alone loses."""
        return sum(option.loss for option in self.chosen)

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters."""
        return self.sensitivity.rest + _nbytes(self.chosen)

    @property
    def bits(self) -> float:
        """Bits for each number of the weights that were searched, scales included."""
        return 8 * _nbytes(self.chosen) / self.sensitivity.numbers

    @property
    def nanoseconds(self) -> int | None:
        """What products of the searched weights are expected to take; None where nobody knows."""
        times = [option.nanoseconds for option in self.chosen]
        known = [time for time in times if time is not None]
        return sum(known) if len(known) == len(times) else None

    def within(self, budget: str | Budget) -> "Search":
        """The choice within another budget, of the same measurements.

        Raises:
            PlanError: as `search`.
        """
        return within(self.sensitivity, budget)

    def front(self, count: int = 32) -> tuple[Point, ...]:
        """Choices of least predicted loss in ``count`` sizes, from the smallest to the largest."""
        return front(self.sensitivity, count)

    def plot(self, file: str | PathLike) -> None:
        """Draw the front and what was chosen into a .svg, .png or .pdf file.

        Raises:
            PlanError: matplotlib is not installed.
        """
        plot(self.front(), Point(self.nbytes, self.predicted, tuple(self.schemes.values())), file)

    def table(self) -> Any:
        """A rich table: each weight in each scheme, the chosen one marked; rules and sums below."""
        return to_table(self.sensitivity, self.chosen, self.rules, self._sums())

    def to_json(self) -> str:
        """All that was measured and chosen, the rules as plain data."""
        document = {
            "budget": str(self.budget),
            "bytes": self.nbytes,
            "bits": self.bits,
            "nanoseconds": self.nanoseconds,
            "predicted": self.predicted,
            "loss": self.loss,
            "schemes": self.schemes,
            "rules": rules_to_data(self.rules),
            "weights": self.sensitivity.to_data(),
            "refused": dict(self.sensitivity.refused),
            "front": [asdict(point) for point in self.front()],
        }
        return json.dumps(document, indent=2)

    def _sums(self) -> str:
        size = f"{bytes_text(self.nbytes)} of {bytes_text(self.sensitivity.whole)}"
        return (
            f"{size}, {self.bits:.2f} bits for each number searched; budget {self.budget}; "
            f"loss {self.loss:.3g}, predicted {self.predicted:.3g}"
        )

    def __rich__(self) -> Any:
        return self.table()

    def __str__(self) -> str:
        return to_text(self.table())


def search(
    fn: Callable, params: Any, batches: Iterable[Any], *, budget: str | Budget, **how: Any
) -> Search:
    """Choose a scheme for each weight of a function under a budget.

    `sensitivity` measures what each weight alone costs in each scheme. What weights lose is taken
    to add up: within a size the sum is least. Within a loss the size is least; where the loss of
    all together, which is measured, turns out to be more than that, less is asked for.

    Args:
        fn: as for `sensitivity`.
        params: as for `sensitivity`.
        batches: as for `sensitivity`.
        budget: as text: "4.5 bits" for each number of the searched weights, scales included; "80
            MB", or "30%" of the float tree, for all parameters; "2 ms" for the products of the
            searched weights in a call with the first batch, as `qpass_kernels.cpu_cost` expects
            them on CPU; "0.02 loss" more than before.
        **how: as for `sensitivity`: ``schemes``, ``loss``, ``rules``, ``path``, ``stats``,
            ``errors``, ``progress``.

    Raises:
        PlanError: no choice is within the budget, it is no budget, or scipy is not installed.
        QPassError: as `sensitivity`.
    """
    wanted = as_budget(budget)
    return within(sensitivity(fn, params, batches, **how), wanted)


def within(found: Sensitivity, budget: str | Budget) -> Search:
    """Choose from what was measured, as `search` does."""
    wanted = as_budget(budget)
    if wanted.unit == "loss":
        return _within_loss(found, wanted)
    if wanted.unit in TIMES:
        return _within_time(found, wanted)
    nbytes = wanted.nbytes(found.numbers, found.rest, found.whole)
    least = sum(min(option.nbytes for option in group) for group in found.groups)
    if nbytes < least:
        raise PlanError(
            f"give a budget of at least {found.rest + least:,} B for all parameters "
            f"({8 * least / found.numbers:.3g} bits for each number searched), or smaller schemes; "
            f"got {wanted}."
        )
    return _judged(found, wanted, choose(found.groups, nbytes))


def _within_time(found: Sensitivity, budget: Budget) -> Search:
    for weight in found.weights:
        unknown = [option.scheme for option in weight.options if option.nanoseconds is None]
        if unknown:
            raise PlanError(
                f"give a budget of size or loss, or other schemes: how long {weight.path} takes in "
                f"{unknown[0]} is not known. Times are modelled of products on CPU, not of ragged "
                "products, convolutions and look-ups."
            )
    nanoseconds = int(budget.amount * TIMES[budget.unit])
    return _judged(found, budget, choose(found.groups, nanoseconds, "nanoseconds"))


def _within_loss(found: Sensitivity, budget: Budget) -> Search:
    asked = lost = budget.amount
    for _ in range(TRIES):
        tried = _judged(found, budget, smallest(found.groups, asked))
        if tried.loss <= budget.amount:
            return tried
        lost = tried.loss
        asked *= budget.amount / lost
    raise PlanError(
        f"give a larger budget than {budget}: what was chosen last loses {lost:.3g} together."
    )


def _judged(found: Sensitivity, budget: Budget, chosen: tuple[Option, ...]) -> Search:
    rules = _rules(found, [option.scheme for option in chosen])
    _check(found, rules, chosen)
    leaves = found.trial.stored(rules)
    loss = found.trial.judge(leaves, "all that was chosen") - found.base
    return Search(found, budget, chosen, (*found.trial.rules, *rules), loss)


def _rules(found: Sensitivity, schemes: Sequence[str]) -> tuple[Rule, ...]:
    """One rule for each scheme, for the paths that have it."""
    by_scheme: dict[str, list[str]] = {}
    for weight, scheme in zip(found.weights, schemes, strict=True):
        by_scheme.setdefault(scheme, []).append(weight.path)
    known = _paths(found)
    return tuple(_rule(scheme, patterns(own, known - {*own})) for scheme, own in by_scheme.items())


def _rule(scheme: str, path: tuple[str, ...]) -> Rule:
    text = path[0] if len(path) == 1 else path
    return Rule(path=text, keep=True) if scheme == FLOAT else Rule(path=text, weight=scheme)


def _paths(found: Sensitivity) -> set[str]:
    """Paths of all weights of products."""
    sites = (d.site for plan in found.plans.values() for d in plan.decisions)
    return {site.weight_path for site in sites if site.weight_path}


def _check(found: Sensitivity, rules: Sequence[Rule], chosen: Sequence[Option]) -> None:
    """Hold the storage that the rules lead to against what was tried."""
    plan = found.trial.plan(rules)
    for weight, option in zip(found.weights, chosen, strict=True):
        made, tried = _storage(plan, weight.index), None
        if option.scheme != FLOAT:
            tried = _storage(found.plans[option.scheme], weight.index)
        if made != tried:
            raise PlanError(
                f"the rules found do not do what was tried: {weight.path} is stored as {made}, "
                f"not as {tried}; rules: {'; '.join(rule.describe() for rule in rules)}."
            )


def _storage(plan: Plan, index: int) -> Any:
    return plan.storage.get(index)


def _nbytes(options: Sequence[Option]) -> int:
    return sum(option.nbytes for option in options)
