"""Static activations: what ranges activations have, captured by site and handed to the sites.

>>> stats = q.capture(params, batch)                     # doctest: +SKIP
>>> stats = q.capture(params, another, stats=stats)      # doctest: +SKIP
>>> static = q.with_ranges(qpass.ranges(stats, "mean"))  # doctest: +SKIP

Statistics are a plain pytree: a dict by name of the operand (`qpass.given.operand_names`), of dicts
of float32 arrays (`qpass.numerics.statistics`). For a site inside scans they have leading axes, one
entry for each iteration.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from qpass.errors import CalibrationError
from qpass.given import Given, entered, feeds, operand_names
from qpass.graph._jax import JaxprEqn
from qpass.graph.dataflow import Key
from qpass.graph.dimensions import dimensions
from qpass.graph.feeds import enclosing
from qpass.graph.merging import Max, Min, Sum
from qpass.graph.rebuild import REBUILD
from qpass.graph.rewrite import Frame, Rewriter, tap_name
from qpass.numerics.statistics import State, merge, observe, of_one_batch, range_of
from qpass.ops.operations import QTensorOperations
from qpass.plan import Decision, Plan
from qpass.suggest import shortened

type Stats = dict[str, State]

DECAY = 0.9
_MERGED = {"sum": Sum, "min": Min, "max": Max}


def observer(plan: Plan) -> Callable[[list, Given], Stats]:
    """A jitted function of a program's inputs: statistics of one batch at every quantized site.

    It takes what is given beside the inputs, too. What it runs is the quantized program, with
    dynamic ranges where static ones are asked for: each site sees what it will see when the sites
    before it are quantized.

    Raises:
        CalibrationError: the plan quantizes nothing.
    """
    decisions = {d.site.key: d for d in plan.decisions if d.action is not None}
    if not decisions:
        raise CalibrationError("capture with rules that quantize a product: these keep all float.")
    operations = QTensorOperations(plan.kernels)
    tap = partial(_tap, plan, operations, decisions)

    def run(values: list, given: Given) -> Stats:
        derivatives = plan.dataflow.derivatives
        rewriter = Rewriter(plan.actions, derivatives, operations, REBUILD, tap=tap, tap_rules=True)
        inputs = entered(plan, given, values)
        frame = Frame(feeds=feeds(plan, replace(given, ranges={}, state={})))
        _, taps = rewriter.run(plan.program.jaxpr, inputs, frame)
        seen = [taps.get(tap_name(key), {}) for key in decisions]
        return {name: _unmerged(tap) for site in seen for name, tap in site.items()}

    return jax.jit(run)


def _tap(
    plan: Plan,
    operations: QTensorOperations,
    decisions: Mapping[Key, Decision],
    key: Key,
    eqn: JaxprEqn,
    operands: list,
    result: Any,
) -> dict[str, Any]:
    del result
    if key not in decisions:  # a float product with an adapter
        return {}
    decision = decisions[key]
    weight = decision.quantized.weight
    seen = {}
    for side, name in operand_names(plan, decision).items():
        operand = weight if side == "weight" else 1 - weight
        channels = _channels(plan, decision, eqn) if side == "act" else None
        parts = observe(operations.unwrap(operands[operand]), channels)
        if channels is not None:
            parts["sum"] |= _rows_of_experts(eqn, operands)
        seen[name] = {kind: _MERGED[kind](part) for kind, part in parts.items()}
    return seen


def _channels(plan: Plan, decision: Decision, eqn: JaxprEqn) -> tuple[int, ...] | None:
    """Axes of the activation that it shares with a weight: batch axes, then contracted ones.

    None where no weight is read, and in a `shard_map`, where devices may hold other parts of them.
    """
    path, _ = decision.site.key
    around = enclosing(plan.program.jaxpr, plan.dataflow.derivatives, path)
    if decision.site.leaf is None or any(e.primitive.name == "shard_map" for e in around):
        return None
    act = 1 - decision.quantized.weight
    contract, batch = dimensions(eqn)
    return (*batch[act], *contract[act])


def _rows_of_experts(eqn: JaxprEqn, operands: list) -> State:
    """Of a ragged product, how many rows each expert has."""
    if eqn.primitive.name != "ragged_dot_general":
        return {}
    sizes = operands[2]
    return {
        "experts": jnp.sum(jnp.reshape(sizes, (-1, sizes.shape[-1])), axis=0, dtype=jnp.float32)
    }


def unseen_experts(stats: Stats) -> dict[str, np.ndarray]:
    """The experts that no row reached while statistics were captured.

    The range of activations is one for all experts, so these have a valid one, but nothing is known
    of the rows that they will see.

    Returns:
        for each site of a mixture of experts with any, by name, their numbers ``[count]``; inside
        of scans ``[count, loops + 1]``, each with the iteration before it.
    """
    rows = {name: np.asarray(s["experts"]) for name, s in stats.items() if "experts" in s}
    found = {name: np.argwhere(seen == 0) for name, seen in rows.items()}
    return {name: at[:, 0] if rows[name].ndim == 1 else at for name, at in found.items() if len(at)}


def _unmerged(tap: Mapping[str, Any]) -> State:
    return of_one_batch({kind: part.value for kind, part in tap.items()})


def update_stats(stats: Stats | None, batch: Stats, decay: float = DECAY) -> Stats:
    """The statistics after another batch. Pure; also merges the statistics of several batches.

    Args:
        stats: those so far; None for none.
        batch: those of the batch (or batches) that came later.
        decay: what the weight of a batch in the moving average falls by with each later one.

    Raises:
        CalibrationError: a site has other shapes in the two, as with another number of layers.
    """
    if stats is None:
        return batch
    _check_alike(stats, batch)
    both = {name: merge(stats[name], batch[name], decay) for name in stats if name in batch}
    return {**stats, **batch, **both}


def _check_alike(stats: Stats, batch: Stats) -> None:
    def shapes(state: State) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in state.items()}

    differ = [n for n in batch if n in stats and shapes(batch[n]) != shapes(stats[n])]
    if differ:
        raise CalibrationError(
            f"give statistics of the same program: those given have other shapes for "
            f"{shortened(differ, 5)} than this call. Capture anew, with stats=None."
        )


def ranges(stats: Stats, method: str = "max") -> dict[str, tuple[jax.Array, jax.Array]]:
    """The range of every captured operand, for `Transformed.with_ranges`.

    Args:
        stats: captured statistics.
        method: ``"max"``, ``"mean"``, ``"ema"`` or ``"percentile,99.9"``; see
            `qpass.numerics.statistics.range_of`.

    Returns:
        ``(lo, hi)`` by name, float32, with the leading axes of the statistics.

    Raises:
        CalibrationError: there is no such method, or a site never saw a value. (Under `jax.jit`
            that cannot be known; its range is NaN then.)
    """
    unseen = [name for name, state in stats.items() if _unseen(state)]
    if unseen:
        raise CalibrationError(
            f"capture on arguments that reach every site; nothing was seen at "
            f"{shortened(unseen, 5)} (a branch that was not taken, a loop without iterations, or "
            "no finite value). Capture more batches into the same statistics, or drop these names "
            "from them if their sites are not static."
        )
    return {name: range_of(state, method) for name, state in stats.items()}


def _unseen(state: State) -> bool:
    count = state["count"]
    return not isinstance(count, Tracer) and bool(np.any(np.asarray(count) == 0))


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


def save_stats(path: str | Path, stats: Stats) -> None:
    """Write statistics to an ``.npz`` file; entries are called ``<name of the site>/<field>``."""
    with Path(path).open("wb") as file:
        np.savez(file, **_flat(stats))


def _flat(stats: Stats) -> dict[str, Any]:
    pairs = ((name, *entry) for name, state in stats.items() for entry in state.items())
    return {f"{name}/{field}": np.asarray(array) for name, field, array in pairs}


def load_stats(path: str | Path) -> Stats:
    """Statistics from a file that `save_stats` wrote.

    Raises:
        CalibrationError: the file holds something else.
    """
    stats: Stats = {}
    with np.load(path) as file:
        for key in file.files:
            name, _, field = key.rpartition("/")
            stats.setdefault(name, {})[field] = jnp.asarray(file[key])
    return stats
