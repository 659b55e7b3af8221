"""Capture: what activations are like at every quantized site, over batches of data.

>>> stats = q.calibrate(params, batches)                 # doctest: +SKIP
>>> stats = q.capture(params, another, stats=stats)      # doctest: +SKIP
>>> static = q.with_ranges(qpass.ranges(stats, "mean"))  # doctest: +SKIP

Statistics (`qpass.stats.Stats`) have the names of `qpass.given.operand_names`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sized
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from qpass.errors import CalibrationError
from qpass.given import Given, entered, feeds, operand_names
from qpass.graph._jax import JaxprEqn
from qpass.graph.dataflow import Key
from qpass.graph.feeds import enclosing
from qpass.graph.merging import Max, Min, Sum
from qpass.graph.rebuild import REBUILD
from qpass.graph.rewrite import Frame, Rewriter, tap_name
from qpass.numerics import channels
from qpass.numerics.statistics import State, observe, of_one_batch, range_of
from qpass.ops.gathered import PRODUCTS, gathered
from qpass.ops.operations import QTensorOperations
from qpass.plan import Decision, Plan
from qpass.stats import Stats, unseen
from qpass.suggest import did_you_mean, shortened

KINDS = ("range", *channels.KINDS)
ALWAYS = ("range", "square")
"""What is gathered where nothing is said: enough for ranges of both operands."""
_MERGED = {"sum": Sum, "min": Min, "max": Max}

type Kinds = tuple[str, ...]


def as_kinds(gather: Collection[str]) -> Kinds:
    """What to gather, in an order of its own.

    Raises:
        CalibrationError: there is no such kind, or none is named.
    """
    given = (gather,) if isinstance(gather, str) else tuple(gather)
    unknown = [kind for kind in given if kind not in KINDS]
    if unknown or not given:
        meant = did_you_mean(unknown[0], KINDS) if unknown else f"one of {', '.join(KINDS)}."
        raise CalibrationError(f"gather something that there is; got {given}: {meant}")
    return tuple(kind for kind in KINDS if kind in given)


def as_arguments(batch: Any) -> tuple:
    """What follows the parameters: a tuple as it is, anything else is the one argument."""
    return batch if isinstance(batch, tuple) else (batch,)


def over(
    capture: Callable[[Any, Any], Stats], batches: Iterable[Any], stats: Any, progress: bool
) -> Stats:
    """Capture one batch after the other.

    Args:
        capture: of a batch and the statistics so far.
        batches: the batches; only one is held at a time.
        stats: the statistics so far; None for none.
        progress: show a bar on the terminal.

    Raises:
        CalibrationError: there is no batch, or a site saw no sample in any.
    """
    for batch in _shown(batches) if progress else batches:
        stats = capture(batch, stats)
        del batch  # before the next one is drawn
    if stats is None:
        raise CalibrationError("calibrate on data; the batches are empty.")
    check_seen(stats)
    return stats


def _shown(batches: Iterable[Any]) -> Iterable[Any]:
    from rich.progress import Progress

    total = len(batches) if isinstance(batches, Sized) else None
    with Progress() as bar:
        task = bar.add_task("calibrating", total=total)
        for batch in batches:
            yield batch
            del batch  # `rich.progress.track` would hold it while the next one is drawn
            bar.advance(task)


def check_seen(stats: Mapping[str, State]) -> None:
    """Refuse statistics of sites that never saw a value.

    Raises:
        CalibrationError: naming them.
    """
    if lacking := unseen(stats):
        raise CalibrationError(
            f"capture on arguments that reach every site; nothing was seen at "
            f"{shortened(lacking, 5)} (a branch that was not taken, a loop without iterations, or "
            "no finite value). Capture more batches into the same statistics, or drop these names "
            "from them if their sites are not static."
        )


def observer(
    plan: Plan, kinds: Kinds = ALWAYS, apart: Collection[Key] = ()
) -> Callable[[list, Given], Stats]:
    """A jitted function of a program's inputs: statistics of one batch at every quantized site.

    It takes what is given beside the inputs, too. What it runs is the quantized program, with
    dynamic ranges where static ones are asked for: each site sees what it will see when the sites
    before it are quantized.

    Args:
        plan: of the program.
        kinds: what to keep.
        apart: the products whose Hessians are not, because they are taken elsewhere.

    Raises:
        CalibrationError: the plan quantizes nothing.
    """
    decisions = {
        d.site.key: d for d in plan.decisions if d.action is not None and d.site.role != "lookup"
    }
    if not decisions:
        raise CalibrationError("capture with rules that quantize a product: these keep all float.")
    operations = QTensorOperations(plan.kernels)
    tap = _Tap(plan, operations, decisions, kinds, apart)

    def run(values: list, given: Given) -> Stats:
        derivatives = plan.dataflow.derivatives
        rewriter = Rewriter(plan.actions, derivatives, operations, REBUILD, tap=tap, tap_rules=True)
        inputs = entered(plan, given, values)
        frame = Frame(feeds=feeds(plan, replace(given, ranges={}, state={})))
        _, taps = rewriter.run(plan.program.jaxpr, inputs, frame)
        seen = [taps.get(tap_name(key), {}) for key in decisions]
        return Stats({name: _unmerged(tap) for site in seen for name, tap in site.items()})

    return jax.jit(run)


@dataclass(frozen=True)
class _Tap:
    """What is kept of a site's operands, as `qpass.graph.rewrite.Rewriter` calls it."""

    plan: Plan
    operations: QTensorOperations
    decisions: Mapping[Key, Decision]
    kinds: Kinds
    apart: Collection[Key]

    def __call__(self, key: Key, eqn: JaxprEqn, operands: list, result: Any) -> dict[str, Any]:
        del result
        if key not in self.decisions:  # a float product with an adapter
            return {}
        decision = self.decisions[key]
        weight = decision.quantized.weight
        seen = {}
        for side, name in operand_names(self.plan, decision).items():
            operand = weight if side == "weight" else 1 - weight
            x = self.operations.unwrap(operands[operand])
            parts = observe(x, "range" in self.kinds)
            if side == "act":
                parts = _joined(parts, self._by_channel(decision, eqn, operands, x))
            seen[name] = {kind: _MERGED[kind](part) for kind, part in parts.items()}
        return seen

    def _by_channel(
        self, decision: Decision, eqn: JaxprEqn, operands: list, x: jax.Array
    ) -> dict[str, State]:
        if not _has_channels(self.plan, decision):
            return {}
        kinds = [kind for kind in self.kinds if kind in channels.KINDS]
        experts = {"sum": _rows_of_experts(eqn, operands)}
        if not kinds:
            return experts
        if decision.site.key in self.apart:
            kinds = [kind for kind in kinds if kind != "hessian"]
        return _joined(gathered(eqn, decision.quantized.weight, operands, x, kinds), experts)


def _joined(one: dict[str, State], other: dict[str, State]) -> dict[str, State]:
    return {how: one.get(how, {}) | other.get(how, {}) for how in one | other}


def _has_channels(plan: Plan, decision: Decision) -> bool:
    """Whether something is gathered by channel of a product's activation.

    Not where no weight is read, of convolutions, whose windows overlap, and in a `shard_map`, where
    devices may hold other parts of them.
    """
    path, _ = decision.site.key
    around = enclosing(plan.program.jaxpr, plan.dataflow.derivatives, path)
    inside = any(e.primitive.name == "shard_map" for e in around)
    return decision.site.leaf is not None and not inside and decision.site.op in PRODUCTS


def _rows_of_experts(eqn: JaxprEqn, operands: list) -> State:
    """Of a ragged product, how many rows each expert has."""
    if eqn.primitive.name != "ragged_dot_general":
        return {}
    sizes = operands[2]
    return {
        "experts": jnp.sum(jnp.reshape(sizes, (-1, sizes.shape[-1])), axis=0, dtype=jnp.float32)
    }


def _unmerged(tap: Mapping[str, Any]) -> State:
    return of_one_batch({kind: part.value for kind, part in tap.items()})


def ranges(
    stats: Mapping[str, State], method: str = "max"
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The range of every captured operand, for `Transformed.with_ranges`.

    Args:
        stats: captured statistics.
        method: ``"max"``, ``"mean"``, ``"ema"`` or ``"percentile,99.9"``; see
            `qpass.numerics.statistics.range_of`.

    Returns:
        ``(lo, hi)`` by name, float32, with the leading axes of the statistics.

    Raises:
        CalibrationError: there is no such method, no ranges were gathered, or a site never saw a
            value. (Under `jax.jit` that cannot be known; its range is NaN then.)
    """
    check_seen(stats)
    lacking = [name for name, state in stats.items() if "histogram" not in state]
    if lacking:
        raise CalibrationError(
            f"gather ranges, as q.calibrate(..., gather=('range',)): there are none of "
            f"{shortened(lacking, 5)}."
        )
    return {name: range_of(state, method) for name, state in stats.items()}


def as_ranges(ranges: Mapping[str, Any]) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Ranges as float32 arrays.

    Raises:
        CalibrationError: a value is no pair ``(lo, hi)`` of finite numbers with ``lo <= 0 <= hi``
            (which cannot be asked of traced ones).
    """
    return {name: _as_range(name, pair) for name, pair in ranges.items()}


def _as_range(name: str, pair: Any) -> tuple[jax.Array, jax.Array]:
    try:
        lo, hi = (jnp.asarray(bound, jnp.float32) for bound in pair)
    except (TypeError, ValueError) as error:
        raise CalibrationError(
            f"give ranges as pairs (lo, hi) by name of the site; for {name} came {pair!r}: {error}"
        ) from error
    known = not (isinstance(lo, Tracer) or isinstance(hi, Tracer))
    if known and not bool(jnp.all((lo <= 0) & (hi >= 0) & jnp.isfinite(lo) & jnp.isfinite(hi))):
        raise CalibrationError(
            f"give finite ranges with lo <= 0 <= hi; for {name} came {lo} to {hi}"
        )
    return lo, hi
