"""Trials: what a function loses when weights of it are other than they were."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax

from qpass.api import transform
from qpass.calibrate import as_arguments
from qpass.captured import Known
from qpass.errors import CalibrationError, CallError, QuantizeError
from qpass.graph.program import is_dynamic
from qpass.numerics import QTensor
from qpass.rules import Rule
from qpass.searching.losses import DISTANCES, Loss
from qpass.transformed import Transformed


@dataclass(frozen=True, eq=False)
class Trial:
    """A function, float parameters and data to judge on.

    One float program is compiled and judges everything: quantized weights enter it as the values
    that their codes stand for.

    Attributes:
        fn: of the parameters and a batch.
        params: float, a pytree of arrays.
        batches: tuples of what follows the parameters.
        loss: a name of `qpass.searching.losses.DISTANCES`, or a function of the result and the
            batch.
        rules: those that come before all that are tried.
        stats: as for `Transformed.quantize`.
    """

    fn: Callable
    params: Any
    batches: tuple[tuple, ...]
    loss: str | Loss
    rules: tuple[Rule, ...] = ()
    stats: Known = None
    _made: dict[tuple[Rule, ...], Transformed] = field(default_factory=dict, repr=False)

    def transformed(self, rules: Sequence[Rule]) -> Transformed:
        """The function with these rules after those that come first.

        Raises:
            CallError: ``fn`` is a model object.
        """
        key = (*self.rules, *rules)
        if key not in self._made:
            made = transform(self.fn, key)
            if not isinstance(made, Transformed):
                raise CallError(
                    "search a function of parameters and a batch; got a model object. Give its "
                    "call as one: search(lambda model, x: model(x), model, batches, ...)."
                )
            self._made[key] = made
        return self._made[key]

    def plan(self, rules: Sequence[Rule]) -> Any:
        """The plan of these rules."""
        return self.transformed(rules).plan(self.params, *self.batches[0])

    def stored(self, rules: Sequence[Rule]) -> list[Any]:
        """Leaves of the quantized parameters, QTensors where they are stored."""
        if not (self.rules or rules):
            return self.leaves(self.params)
        q = self.transformed(rules)
        return self.leaves(q.quantize(self.params, *self.batches[0], stats=self.stats))

    def leaves(self, params: Any) -> list[Any]:
        """The leaves of a tree of parameters that are arrays or QTensors."""
        return [leaf for leaf in jax.tree.leaves(params, is_leaf=_is_stored) if _counts(leaf)]

    def judge(self, leaves: Sequence[Any], whose: str) -> float:
        """The mean loss over the batches with these leaves.

        Args:
            leaves: as of `leaves`; QTensors are dequantized.
            whose: for messages.

        Raises:
            QuantizeError: the loss is not finite.
        """
        floats = [leaf.dequantize() if _is_stored(leaf) else leaf for leaf in leaves]
        pairs = zip(self.batches, self._wanted, strict=True)
        lost = [float(self._run(floats, batch, wanted)) for batch, wanted in pairs]
        for number, one in enumerate(lost):
            if not math.isfinite(one):
                raise QuantizeError(f"the loss of {whose} is {one} on batch {number}.")
        return math.fsum(lost) / len(lost)

    @cached_property
    def _wanted(self) -> list[Any]:
        """Results of the float function, where the loss compares with them."""
        if not isinstance(self.loss, str):
            return [None for _ in self.batches]
        run = jax.jit(self._result)
        return [run(self.leaves(self.params), batch) for batch in self.batches]

    @cached_property
    def _run(self) -> Callable[..., jax.Array]:
        loss = self.loss

        def run(leaves: list, batch: tuple, wanted: Any) -> Any:
            result = self._result(leaves, batch)
            return (
                DISTANCES[loss](result, wanted) if isinstance(loss, str) else loss(result, *batch)
            )

        return jax.jit(run)

    def _result(self, leaves: list, batch: tuple) -> Any:
        rest, (whole, tree) = iter(leaves), jax.tree.flatten(self.params)
        values = [next(rest) if _counts(leaf) else leaf for leaf in whole]
        return self.fn(jax.tree.unflatten(tree, values), *batch)


def as_batches(batches: Any) -> tuple[tuple, ...]:
    """Batches as tuples of arguments.

    Raises:
        CalibrationError: there is none.
    """
    found = tuple(as_arguments(batch) for batch in batches)
    if not found:
        raise CalibrationError("search on data; the batches are empty.")
    return found


def _is_stored(leaf: Any) -> bool:
    return isinstance(leaf, QTensor)


def _counts(leaf: Any) -> bool:
    return _is_stored(leaf) or is_dynamic(leaf)
