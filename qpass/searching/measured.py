"""Sensitivity: what each weight alone costs the function in each scheme."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from qpass.captured import Known
from qpass.errors import PlanError
from qpass.plan import Plan
from qpass.quantize import tree_nbytes
from qpass.rules import Rule
from qpass.searching.choose import Option
from qpass.searching.losses import Loss, check_loss
from qpass.searching.trial import Trial, as_batches
from qpass.searching.tried import Tried

FLOAT = "float"
"""The scheme of a weight that stays as it is."""
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
    """

    weights: tuple[Weight, ...]
    whole: int
    rest: int
    refused: Mapping[str, str]
    base: float
    plans: Mapping[str, Plan] = field(repr=False)
    trial: Trial = field(repr=False)

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
    tried = [_tried(trial, scheme, path) for scheme in schemes if scheme != FLOAT]
    refused = _refused(tried, path)
    base = trial.stored(())
    start = trial.judge(base, "the function itself")
    with _bar(sum(len(one.paths) for one in tried), progress) as tick:
        options = [one.options(trial, base, start, errors, tick) for one in tried]
    weights = _weights(tried, options, base, FLOAT in schemes)
    whole = tree_nbytes(trial.leaves(params))
    rest = tree_nbytes(base) - sum(weight.nbytes for weight in weights)
    plans = {one.scheme: one.plan for one in tried}
    return Sensitivity(weights, whole, rest, refused, start, plans, trial)


def _tried(trial: Trial, scheme: str, path: str | tuple[str, ...]) -> Tried:
    rule = Rule(path=path, weight=scheme)
    return Tried(scheme, rule, len(trial.rules), trial.plan([rule]))


def _refused(tried: Sequence[Tried], path: Any) -> dict[str, str]:
    """Why weights that are searched for can be stored in no scheme, by path."""
    chosen = {k for one in tried for k in one.paths}
    refused = {path: why for one in tried for path, why in one.refusals(chosen).items()}
    if not chosen:
        reasons = "; ".join(f"{path}: {why}" for path, why in refused.items())
        raise PlanError(
            f"search among weights that can be stored in one of the schemes; there are none at "
            f"path={path!r}: {reasons or 'no scheme quantizes'}."
        )
    return refused


def _weights(
    tried: Sequence[Tried], options: Sequence[dict[int, Option]], base: Sequence[Any], keep: bool
) -> tuple[Weight, ...]:
    """The leaves that some scheme can be stored in, with their options."""
    paths = {k: path for one in tried for k, path in one.paths.items()}
    times = {k: time for one in tried for k, time in one.times.items()}
    found = []
    for k, path in sorted(paths.items()):
        size = tree_nbytes(base[k])
        own = [by_leaf[k] for by_leaf in options if k in by_leaf]
        time = times.get(k)
        kept = [Option(FLOAT, 0.0, size, 0.0, time and time[1])] if keep else []
        found.append(Weight(path, k, base[k].size, size, (*own, *kept)))
    return tuple(found)


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
