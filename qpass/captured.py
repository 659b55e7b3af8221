"""What is captured from the calls of a transformed function."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qpass.adapters.masks import check_masks
from qpass.added import Added
from qpass.calibrate import ALWAYS, Kinds, as_arguments, as_kinds, observer, over
from qpass.graph.dataflow import Key
from qpass.graph.program import Call
from qpass.methods.hessians import HostHessians
from qpass.plan import Plan
from qpass.planned import remember
from qpass.quantize import check_leaves
from qpass.stats import DECAY, Stats, update_stats

type Known = Mapping[str, Any] | None
"""Statistics so far (`qpass.stats.Stats`, or a dict like it)."""


@dataclass(eq=False)
class Captured(Added):
    """Methods for statistics."""

    _observers: dict[Any, Callable] = field(default_factory=dict, repr=False)

    def capture(
        self,
        *args: Any,
        stats: Known = None,
        decay: float = DECAY,
        gather: Collection[str] = ALWAYS,
        **kwargs: Any,
    ) -> Stats:
        """Statistics of what the quantized products get, over a batch more: see `qpass.calibrate`.

        Runs the quantized program on these arguments, static ranges taken from them. Pure: it can
        be jitted, mapped, and carried through a loop.

        Args:
            *args: the function's arguments, with float or quantized parameters.
            stats: statistics so far, to which these are added; None for none.
            decay: what the weight of a batch in the moving average falls by with each later one.
            gather: what to keep: ``"range"`` (what ranges are chosen from) of every operand that
                is no weight; of activations that meet a weight, for each channel, ``"square"``
                (the mean of x^2), ``"absmax"``, and for each pair of channels ``"hessian"`` (the
                sum of x x').
            **kwargs: the function's keyword arguments.

        Raises:
            CalibrationError: the rules quantize nothing, there is no such thing to gather, or
                ``stats`` are of another program or hold other things.
        """
        with self._enter(args, kwargs) as (boundary, call):
            plan = self._plan(call, boundary)
            return update_stats(stats, self._observed(plan, call, as_kinds(gather)), decay)

    def _observed(
        self, plan: Plan, call: Call, kinds: Kinds, apart: frozenset[Key] = frozenset()
    ) -> Stats:
        """Statistics of one call; without the Hessians of the products that are seen to apart."""
        check_leaves(plan, call)
        check_masks(plan, self.given.masks, call.values)
        key = call.key(), kinds, apart
        observe = self._observers.get(key) or observer(plan, kinds, apart)
        remember(self._observers, key, observe, plan.program.jaxpr.consts)
        return observe(list(call.values), self.given)

    def calibrate(
        self,
        params: Any,
        batches: Iterable[Any],
        *,
        stats: Known = None,
        decay: float = DECAY,
        gather: Collection[str] = ALWAYS,
        progress: bool = False,
    ) -> Stats:
        """Statistics over batches of data: `capture` of one after the other.

        Only one batch is held at a time, and one set of statistics. They can be saved, merged
        (`qpass.update_stats`) and gone on with. Hessians are taken product by product, and their
        sums are NumPy arrays: the device holds one of them. Those of products inside of branches,
        `while` loops and derivative rules are on the device together, as all of `capture` are.

        Args:
            params: the function's first argument.
            batches: what follows it: a tuple of the other arguments, or the one other argument.
            stats: as for `capture`, as are the others.
            decay: see `capture`.
            gather: see `capture`.
            progress: show a bar on the terminal.

        Raises:
            CalibrationError: as `capture`, and where there is no batch, or a site that no sample
                reached.
        """
        kinds, hessians = as_kinds(gather), HostHessians()

        def add(batch: Any, stats: Any) -> Stats:
            with self._enter((params, *as_arguments(batch)), {}) as (boundary, call):
                plan, apart = self._plan(call, boundary), frozenset()
                if "hessian" in kinds:
                    check_leaves(plan, call)
                    stats, apart = hessians.add(plan, call.values, self.given, stats)
                return update_stats(stats, self._observed(plan, call, kinds, apart), decay)

        return hessians.joined(over(add, batches, stats, progress))
