"""Sensitivity: what each weight alone costs the function in each scheme."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from qpass.captured import Known
from qpass.errors import PlanError
from qpass.plan import Decision, Plan
from qpass.plan_rows import kernel_at
from qpass.quantize import tree_nbytes
from qpass.rules import Rule
from qpass.searching.choose import Option
from qpass.searching.losses import Loss, check_loss
from qpass.searching.trial import Trial, as_batches

FLOAT = "float"
"""The scheme of a weight that stays as it is."""
UNKNOWN = (None, None)
SCHEMES = ("int3 g32", "int4 g64", "int4 g32", "int8", FLOAT)


@dataclass(frozen=True)
class Weight:
    """A leaf of the parameters that can be stored quantized.

    Layers that are stacked for a scan are one leaf, and so is a table that is read twice.

    Attributes:
        path: of the leaf, as rules see it.
        index: of the leaf among those of the parameters.
        numbers: how many it has.
        nbytes: bytes that it takes as it is.
        options: one for each scheme that it can have.
    """

    path: str
    index: int
    numbers: int
    nbytes: int
    options: tuple[Option, ...]


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """What each weight costs in each scheme, all others as they are.

    Attributes:
        weights: those that were tried.
        whole: bytes of the float parameters.
        rest: bytes of all parameters that were not tried.
        refused: paths of weights that no scheme can be stored in, with the reason.
        base: the loss before anything that was tried is quantized.
        plans: of each scheme that was tried, for all weights.
        trial: what judged.
        path: of the rules that were tried.
    """

    weights: tuple[Weight, ...]
    whole: int
    rest: int
    refused: Mapping[str, str]
    base: float
    plans: Mapping[str, Plan] = field(repr=False)
    trial: Trial = field(repr=False)
    path: str | tuple[str, ...] = "**"

    @property
    def numbers(self) -> int:
        """Numbers in the weights that were tried."""
        return sum(weight.numbers for weight in self.weights)

    @property
    def groups(self) -> list[tuple[Option, ...]]:
        """The options of each weight."""
        return [weight.options for weight in self.weights]

    def to_data(self) -> list[dict[str, Any]]:
        """Plain data: of each weight its path, numbers and options."""
        return [
            {"path": w.path, "numbers": w.numbers, "options": [asdict(o) for o in w.options]}
            for w in self.weights
        ]


def sensitivity(
    fn: Callable,
    params: Any,
    batches: Iterable[Any],
    *,
    schemes: Sequence[str] = SCHEMES,
    loss: str | Loss = "error",
    rules: Iterable[Rule] = (),
    path: str | tuple[str, ...] = "**",
    stats: Known = None,
    errors: bool = True,
    progress: bool = False,
) -> Sensitivity:
    """Store one weight after the other in each scheme, and judge the function each time.

    Only weights are quantized; activations stay float.

    Args:
        fn: of parameters and a batch.
        params: float, a pytree of arrays.
        batches: a few: tuples of what follows the parameters, or the one argument; of one shape, or
            a program is compiled for each. With a loss by name their float results are all held.
        schemes: texts of weights' quantizers, and "float" for leaving a weight as it is.
        loss: how a result is judged. "error": the sum of its squared differences from the float
            function's over the sum of squares. "kl": it is logits, and the loss is the mean over
            rows of KL(float || quantized) of their softmax over the last axis, in nats. Or a
            function ``loss(result, *batch)`` that gives a number, less for better.
        rules: rules that come first: what they decide is not tried, and is as they say throughout.
        path: of the weights to try, as in a rule.
        stats: as for `Transformed.quantize`: ranges that weigh errors take them.
        errors: also measure the error that each product adds by itself, by `Transformed.compare` on
            the first batch; that compiles a program for each scheme.
        progress: show a bar on the terminal.

    Raises:
        CallError: ``fn`` is a model object, or the loss is none, or not for such results.
        CalibrationError: there is no batch.
        PlanError: no weight can be stored in any of the schemes.
        QuantizeError: a loss is not finite.
        QPassError: parameters, rules or schemes do not fit the function.
    """
    check_loss(loss)
    trial = Trial(fn, params, as_batches(batches), loss, tuple(rules), stats)
    plans = {s: trial.plan([Rule(path=path, weight=s)]) for s in schemes if s != FLOAT}
    found = {scheme: _stored(plan, len(trial.rules)) for scheme, plan in plans.items()}
    chosen = sorted(set().union(*found.values()))
    refused = _refusals(plans.values(), len(trial.rules), chosen)
    if not chosen:
        reasons = "; ".join(f"{path}: {why}" for path, why in refused.items())
        raise PlanError(
            f"search among weights that can be stored in one of {', '.join(schemes)}; there are "
            f"none at path={path!r}: {reasons or 'no scheme quantizes'}."
        )
    base = trial.stored(())
    start = trial.judge(base, "the function itself")
    tried: dict[int, list[Option]] = {k: [] for k in chosen}
    with _bar(sum(map(len, found.values())), progress) as tick:
        for scheme, own in found.items():
            times = _times(plans[scheme])
            own_errors = _errors(trial, plans[scheme], scheme, path) if errors else {}
            stored = trial.stored([Rule(path=path, weight=scheme)])
            for k in own:
                lost = trial.judge(_swapped(base, k, stored[k]), f"{own[k]} in {scheme}") - start
                size = tree_nbytes(stored[k])
                own_time = times.get(k, UNKNOWN)[0]
                tried[k].append(Option(scheme, lost, size, own_errors.get(k), own_time))
                tick()
    paths = {k: path for own in found.values() for k, path in own.items()}
    times = {k: time for plan in plans.values() for k, time in _times(plan).items()}
    weights = tuple(
        _weight(paths[k], k, base[k], options, FLOAT in schemes, times.get(k, UNKNOWN)[1])
        for k, options in tried.items()
    )
    whole, rest = tree_nbytes(trial.leaves(params)), tree_nbytes(base)
    rest -= sum(weight.nbytes for weight in weights)
    return Sensitivity(weights, whole, rest, refused, start, plans, trial, path)


def _stored(plan: Plan, rule: int) -> dict[int, str]:
    """Path of each leaf that a rule has stored, by index."""
    leaves = plan.program.leaves
    sites = [d.site for d in plan.decisions if d.rule == rule and d.stored]
    return {site.leaf: leaves[site.leaf].path for site in sites if site.leaf is not None}


def _refusals(plans: Iterable[Plan], rule: int, chosen: Collection[int]) -> dict[str, str]:
    """Why weights that the rule fits are stored in no scheme, by path."""
    found = {}
    for plan in plans:
        for decision in plan.decisions:
            if decision.rule == rule and decision.site.leaf not in chosen:
                found[decision.site.weight_path] = _reason(decision)
    return found


def _reason(decision: Decision) -> str:
    return decision.reason or " ".join(decision.notes) or "its product reads no leaf as it is"


def _errors(trial: Trial, plan: Plan, scheme: str, path: Any) -> dict[int, float]:
    """The largest error of a product with each leaf, by index."""
    q = trial.transformed([Rule(path=path, weight=scheme)])
    by_leaf: dict[int, float] = {}
    for site in q.compare(trial.params, *trial.batches[0]).sites:
        leaf = plan[site.site].site.leaf
        if leaf is not None:
            by_leaf[leaf] = max(by_leaf.get(leaf, 0.0), site.relative_error)
    return by_leaf


def _swapped(leaves: Sequence[Any], index: int, leaf: Any) -> list[Any]:
    return [*leaves[:index], leaf, *leaves[index + 1 :]]


def _times(plan: Plan) -> dict[int, tuple[int | None, int | None]]:
    """Nanoseconds that products with each leaf are expected to take, and in float32, by index."""
    chosen, by_leaf = {}, {}
    for decision in plan.decisions:
        leaf = decision.site.leaf
        if leaf is None or not decision.stored or decision.site.role == "lookup":
            continue
        one = kernel_at(plan, decision, chosen).nanoseconds if plan.platform == "cpu" else None
        repeated = (math.ceil(t * decision.site.repeats) for t in one) if one else UNKNOWN
        pairs = zip(by_leaf.get(leaf, (0, 0)), repeated, strict=True)
        by_leaf[leaf] = tuple(None if a is None or b is None else a + b for a, b in pairs)
    return by_leaf


def _weight(
    path: str, index: int, leaf: Any, options: list[Option], keep: bool, time: int | None
) -> Weight:
    size = tree_nbytes(leaf)
    floats = [Option(FLOAT, 0.0, size, 0.0, time)] if keep else []
    return Weight(path, index, leaf.size, size, (*options, *floats))


@contextmanager
def _bar(total: int, progress: bool) -> Iterator[Callable[[], None]]:
    """What to call after each step; shows a bar where that is wanted."""
    if not progress:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("searching", total=total)
        yield lambda: bar.advance(task)
