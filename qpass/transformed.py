"""`Transformed`: the whole pipeline, from a function to its quantized self."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from jax.core import eval_jaxpr

from qpass.calibrate import as_arguments
from qpass.captured import Known
from qpass.compare import Comparison, compare
from qpass.delayed import State
from qpass.folded import Folded
from qpass.graph.program import Call, abstract
from qpass.importance import leaf_importance, searched
from qpass.integrations.boundary import Boundary
from qpass.methods import GPTQ, quantized_by
from qpass.nonfinite import NonFinite, nonfinite
from qpass.pipeline import Compiled, plan_for, rewrite
from qpass.plan import Plan, known_platform
from qpass.planned import remember
from qpass.quantize import check_leaves, quantize_tree


@dataclass(eq=False)
class Transformed(Folded):
    """A function with its contractions quantized by rules. Call it like the function itself.

    Made by `transform`. Float parameters are quantized on the fly, differentiably (the forward
    pass of quantization-aware training); parameters from `quantize` are used as stored. Both
    give the same bits under `jax.jit`.
    """

    _compiled: dict[Any, Compiled] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        # Only name and docstring: attributes of a callable object (another Transformed, too)
        # would overwrite those of this one.
        functools.update_wrapper(self, self.fn, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function with its quantized products; same signature and results."""
        return self._run(args, kwargs)[0]

    def _run(self, args: tuple, kwargs: dict, records: bool = False) -> tuple[Any, State]:
        with self._enter(args, kwargs) as (boundary, call):
            compiled = self._compile(call, boundary, records)
            if compiled.fault is not None:
                raise type(compiled.fault)(*compiled.fault.args)
            flat = jax.tree.leaves((list(call.values), self.given))
            out = eval_jaxpr(compiled.jaxpr, compiled.jaxpr.consts, *flat)
            own, state = compiled.split(out, self.given.state)
            return boundary.leave(*compiled.outputs.build(own, call.values)), state

    def apply(self, state: Mapping[str, Any], /, *args: Any, **kwargs: Any) -> tuple[Any, State]:
        """Call the function, scaled by earlier steps; its result, and the state after this step.

        Pure: it can be jitted (with the state donated), mapped, carried through a loop, and
        differentiated with ``has_aux=True``. No gradient flows into the state or out of it.

        Args:
            state: of `init_state`, or of the step before.
            *args: the function's arguments.
            **kwargs: the function's keyword arguments.

        Raises:
            StateError: the state is of another program, not finite, or this program does not hold
                the products that would tell the next one (`qpass.value_and_grad`).
        """
        return self.with_state(state)._run(args, kwargs, records=True)

    def plan(self, *args: Any, platform: str | None = None, **kwargs: Any) -> Plan:
        """The plan for these arguments (arrays, QTensors or `jax.ShapeDtypeStruct`).

        Args:
            *args: the function's arguments.
            platform: ``cpu``, ``cuda`` or ``tpu`` to name kernels for; default: where JAX runs.
            **kwargs: the function's keyword arguments.

        Raises:
            QPassError: the arguments or the rules do not fit the function.
        """
        with self._enter(args, kwargs) as (boundary, call):
            plan = self._compile(call, boundary).plan
        return plan_for(plan, self.options, known_platform(platform or jax.default_backend()))

    def quantize(
        self,
        *args: Any,
        donate: bool = False,
        stats: Known = None,
        method: GPTQ | None = None,
        batches: Iterable[Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The parameters with every stored weight as a QTensor; same tree, same shardings.

        Works leaf by leaf, also on `jax.ShapeDtypeStruct` leaves and under `jax.eval_shape`.

        Args:
            *args: example arguments; the parameters among them are quantized, the rest is only
                looked at for shapes. With ``batches``, the parameters alone will do.
            donate: delete each float leaf once it is quantized, so that the peak is the model plus
                one leaf.
            stats: statistics from `calibrate` or `capture`, by which ranges weigh errors: those
                that say so ("wmse"), and of integers of four bits or less those that say nothing.
                With a method, the Hessians that it needs.
            method: how weights are rounded, where not each by itself.
            batches: data for the method, as for `calibrate`, all of one shape: it quantizes one
                product after the other, each for what those before it give.
            **kwargs: keyword arguments of the function.

        Returns:
            the argument that holds parameters; a new object where it is an object (a Flax NNX
            module), the given one stays as it is.

        Raises:
            QuantizeError: a weight holds NaN or infinities, or the method cannot quantize it.
            CalibrationError: a weight needs statistics that there are none of.
            QPassError: the arguments or the rules do not fit the function.
        """
        data = [] if batches is None else [as_arguments(batch) for batch in batches]
        if data and len(args) == 1:
            args = (*args, *data[0])
        inputs = [self._inputs((*args[:1], *batch), kwargs) for batch in data]
        with self._enter(args, kwargs) as (boundary, call):
            plan = self._plan(call, boundary)
            found = quantized_by(method, plan, call, inputs, stats, self.given)
            plan = searched(plan, stats)
            importance = functools.partial(leaf_importance, plan, stats)
            given = self.given, found
            return quantize_tree(plan, call, donate, boundary.restore, importance, *given)

    def _inputs(self, args: tuple, kwargs: dict) -> Call:
        with self._enter(args, kwargs) as (_, call):
            return call

    def compare(self, *args: Any, **kwargs: Any) -> Comparison:
        """Error of every quantized site against float, for these arguments (float parameters).

        See `qpass.compare.compare` for what is measured.
        """
        with self._enter(args, kwargs) as (boundary, call):
            return compare(self._plan(call, boundary), call, self.given)

    def nonfinite(self, *args: Any, **kwargs: Any) -> NonFinite:
        """Where NaN and infinities enter the quantized program, for these arguments.

        Every product is looked at, quantized or not, before its operands are quantized. It is a
        run for finding mistakes: slower than a call, and outside of `jax.jit`.

        Raises:
            QPassError: the arguments or the rules do not fit the function.
        """
        with self._enter(args, kwargs) as (boundary, call):
            return nonfinite(self._compile(call, boundary).plan, call, self.given)

    def _compile(self, call: Call, boundary: Boundary, records: bool = False) -> Compiled:
        key = call.key(), abstract(self.given), records
        if key not in self._compiled:
            plan = self._plan(call, boundary)
            check_leaves(plan, call)
            given = jax.tree.map(jax.typeof, self.given)
            compiled = rewrite(plan, _abstract_call(call), given, records)
            consts = (*compiled.jaxpr.consts, *plan.program.jaxpr.consts)
            return remember(self._compiled, key, compiled, consts)
        return self._compiled[key]


def _abstract_call(call: Call) -> Call:
    """The call without its arrays, so that nothing kept in a cache holds on to them."""
    values = jax.tree.map(_struct, list(call.values))
    return replace(call, values=tuple(values))


def _struct(value: Any) -> Any:
    return value if isinstance(value, jax.ShapeDtypeStruct) else jax.typeof(value)
