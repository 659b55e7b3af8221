"""A function, the rules for it, and its plans: what a transformed function is made of."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.core import Tracer

from qpass.errors import CallError
from qpass.given import Given
from qpass.graph.program import Call, Program, split_call, trace
from qpass.integrations.boundary import Boundary, enter, explain_update
from qpass.pipeline import Options, float_aval, is_qtensor, make_plan
from qpass.plan import Plan
from qpass.quantize import check_tensors, explain_shapes

CACHE_LIMIT = 256


@dataclass(eq=False)
class Planned:
    """A function with a plan for each kind of arguments, and what it is given beside them."""

    fn: Callable
    options: Options
    given: Given = field(default_factory=Given, repr=False)
    _plans: dict[Any, Plan] = field(default_factory=dict, repr=False)

    @contextmanager
    def _enter(self, args: tuple, kwargs: dict) -> Iterator[tuple[Boundary, Call]]:
        with enter(args, kwargs, is_qtensor) as boundary:
            given = boundary.args, boundary.kwargs
            call = split_call(self.fn, *given, self.options.params, is_qtensor)
            check_tensors(call)
            yield boundary, call

    def _plan(self, call: Call, boundary: Boundary) -> Plan:
        avals = tuple(float_aval(value) for value in call.values)
        key = Call(avals, call.leaves, call.statics, call.tree).key()
        if key not in self._plans:
            program = self._trace(call, boundary)
            plan = make_plan(program, self.options, jax.default_backend())
            return remember(self._plans, key, plan, program.jaxpr.consts)
        return self._plans[key]

    def _trace(self, call: Call, boundary: Boundary) -> Program:
        try:
            return trace(self.fn, call, float_aval, boundary.run)
        except Exception as error:
            text = explain_update(error) or self._explain_shapes(call, error)
            if text is None:
                raise
            raise CallError(text) from error

    def _explain_shapes(self, call: Call, error: Exception) -> str | None:
        if not isinstance(error, TypeError | ValueError) or isinstance(
            error, jax.errors.JAXTypeError
        ):
            return None
        text = explain_shapes(call, (plan.program.call for plan in self._plans.values()))
        return text and f"{text} The function itself says: {error}"


def remember(cache: dict, key: Any, value: Any, consts: Sequence[Any]) -> Any:
    """Keep ``value`` unless it closes over tracers, which die with the trace around them."""
    if not any(isinstance(const, Tracer) for const in consts):
        for oldest in list(cache)[: max(0, len(cache) - CACHE_LIMIT + 1)]:
            cache.pop(oldest, None)
        cache[key] = value
    return value
