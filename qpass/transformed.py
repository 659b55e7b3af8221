"""`Transformed`: the whole pipeline, from a function to its quantized self."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self

import jax
from jax.core import Tracer, eval_jaxpr

from qpass.adapters.learned import init_ranges
from qpass.adapters.masks import (
    Masks,
    as_masks,
    check_masks,
    init_masks,
    masked_values,
    update_masks,
)
from qpass.adapters.merge import merge
from qpass.adapters.tree import Adapters, as_adapters, init_adapters
from qpass.calibrate import DECAY, Stats, as_ranges, observer, update_stats
from qpass.compare import Comparison, compare
from qpass.delayed import State, as_state, init_state
from qpass.errors import CallError
from qpass.given import Given
from qpass.graph.program import Call, Program, abstract, split_call, trace
from qpass.importance import leaf_importance
from qpass.integrations.boundary import Boundary, enter, explain_update
from qpass.keys import as_key
from qpass.nonfinite import NonFinite, nonfinite
from qpass.pipeline import Compiled, Options, float_aval, is_qtensor, make_plan, plan_for, rewrite
from qpass.plan import Plan, known_platform
from qpass.quantize import (
    check_leaves,
    check_tensors,
    explain_shapes,
    parameters,
    quantize_tree,
)

CACHE_LIMIT = 256


@dataclass(eq=False)
class Transformed:
    """A function with its contractions quantized by rules. Call it like the function itself.

    Made by `transform`. Float parameters are quantized on the fly, differentiably (the forward
    pass of quantization-aware training); parameters from `quantize` are used as stored. Both
    give the same bits under `jax.jit`.
    """

    fn: Callable
    options: Options
    given: Given = field(default_factory=Given, repr=False)
    _plans: dict[Any, Plan] = field(default_factory=dict, repr=False)
    _compiled: dict[Any, Compiled] = field(default_factory=dict, repr=False)
    _observers: dict[Any, Callable] = field(default_factory=dict, repr=False)

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

    def init_state(self, *args: Any, **kwargs: Any) -> State:
        """The state of delayed scaling before the first step: nothing seen, all scales 1.

        Args:
            *args: example arguments; only their shapes count (arrays or `jax.ShapeDtypeStruct`).
            **kwargs: keyword arguments of the function.

        Returns:
            a dict by site, of dicts by operand (``"act"``, ``"weight"``, ``"grad"``) of float32
            ``bound [...]`` and ``history [..., length]``, with a leading axis for each scan around
            the site.

        Raises:
            StateError: the rules scale nothing by earlier steps.
            QPassError: the arguments or the rules do not fit the function.
        """
        with self._enter(args, kwargs) as (boundary, call):
            return init_state(self._plan(call, boundary))

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

    def with_state(self, state: Mapping[str, Any]) -> Self:
        """The same function, scaled by this state, which stays as it is: as for an evaluation.

        Raises:
            StateError: the state is none, or not finite. Whether it fits is checked in the call.
        """
        return replace(self, given=replace(self.given, state=as_state(state)))

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
        self, *args: Any, donate: bool = False, stats: Stats | None = None, **kwargs: Any
    ) -> Any:
        """The parameters with every stored weight as a QTensor; same tree, same shardings.

        Works leaf by leaf, also on `jax.ShapeDtypeStruct` leaves and under `jax.eval_shape`.

        Args:
            *args: example arguments; the parameters among them are quantized, the rest is only
                looked at for shapes.
            donate: delete each float leaf once it is quantized, so that the peak is the model plus
                one leaf.
            stats: statistics from `capture`, for weights whose range weighs errors ("wmse") by what
                they are multiplied by.
            **kwargs: keyword arguments of the function.

        Returns:
            the argument that holds parameters; a new object where it is an object (a Flax NNX
            module), the given one stays as it is.

        Raises:
            QuantizeError: a weight holds NaN or infinities.
            CalibrationError: a weight needs statistics that there are none of.
            QPassError: the arguments or the rules do not fit the function.
        """
        with self._enter(args, kwargs) as (boundary, call):
            plan = self._plan(call, boundary)
            importance = functools.partial(leaf_importance, plan, stats)
            return quantize_tree(plan, call, donate, boundary.restore, importance, self.given)

    def capture(
        self, *args: Any, stats: Stats | None = None, decay: float = DECAY, **kwargs: Any
    ) -> Stats:
        """Statistics of what the quantized products get, over a batch more: see `qpass.calibrate`.

        Runs the quantized program on these arguments, static ranges taken from them. Pure: it can
        be jitted, mapped, and carried through a loop.

        Args:
            *args: the function's arguments, with float or quantized parameters.
            stats: statistics so far, to which these are added; None for none.
            decay: what the weight of a batch in the moving average falls by with each later one.
            **kwargs: the function's keyword arguments.

        Raises:
            CalibrationError: the rules quantize nothing, or ``stats`` are of another program.
        """
        with self._enter(args, kwargs) as (boundary, call):
            plan, key = self._plan(call, boundary), call.key()
            check_leaves(plan, call)
            check_masks(plan, self.given.masks, call.values)
            observe = self._observers.get(key) or observer(plan)
            _remember(self._observers, key, observe, plan.program.jaxpr.consts)
            return update_stats(stats, observe(list(call.values), self.given), decay)

    def with_ranges(self, ranges: Mapping[str, Any]) -> Self:
        """The same function with these ranges for its static operands.

        Args:
            ranges: ``(lo, hi)`` by name of the site, from `qpass.ranges`; arrays with a leading
                axis for each scan around the site. By path of the weight, from `init_ranges`,
                where a weight's range is learned. Learned ranges have a gradient.

        Raises:
            CalibrationError: a range is no pair of finite numbers around 0. What the program needs
                is known, and checked, when it is called.
        """
        return replace(self, given=replace(self.given, ranges=as_ranges(ranges)))

    def with_key(self, key: Any) -> Self:
        """The same function with this random key, for quantizers that round stochastically.

        ``q.with_key(key)(params, x)`` draws the same numbers whenever the key is the same, so give
        another one to each training step. Each product, iteration of a scan and stored weight draws
        its own; under `jax.shard_map`, devices draw alike for their parts. The key is an argument
        of the compiled program: another one needs no other compilation.

        Args:
            key: from `jax.random.key`; it may be traced.

        Raises:
            QuantizeError: it is no key, or several.
        """
        return replace(self, given=replace(self.given, key=as_key(key)))

    def init_adapters(self, key: Any, *args: Any, **kwargs: Any) -> Adapters:
        """Adapters for the weights whose rules say ``lora=``, as they are at the beginning.

        Args:
            key: a random key, for their initializers.
            *args: the function's arguments (arrays, QTensors or `jax.ShapeDtypeStruct`).
            **kwargs: its keyword arguments.

        Returns:
            by path of the weight, ``{"a": [shared .., summed over .., rank], "b": [shared ..,
            rank, others ..]}`` with the sizes of the weight's axes in its order; shared are layers
            of a scan, experts and other batch axes. With the default initializers they add zero.

        Raises:
            CallError: no rule adds adapters.
            QPassError: the arguments or the rules do not fit the function.
        """
        with self._enter(args, kwargs) as (boundary, call):
            return init_adapters(self._plan(call, boundary), as_key(key))

    def with_adapters(self, adapters: Mapping[str, Any]) -> Self:
        """The same function with these adapters; differentiable with respect to them.

        The weights beside which they lie are frozen: no gradient goes there. Without adapters the
        function runs as if its rules had no ``lora=``. Dropout takes place where `with_key` gives
        a key.

        Args:
            adapters: from `init_adapters`; they may be traced.

        Raises:
            CallError: they are no adapters. Whether they are those of the program is known, and
                checked, when it is called.
        """
        return replace(self, given=replace(self.given, adapters=as_adapters(adapters)))

    def merge(self, adapters: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The parameters with adapters merged into their weights, which become float arrays.

        Args:
            adapters: from `init_adapters`, trained.
            *args: example arguments; the parameters among them, float or quantized, are merged.
                Where a rule quantizes a float weight, it is rounded first, as its product sees it.
            **kwargs: keyword arguments of the function.

        Returns:
            the argument that holds parameters, as from `quantize`.

        Raises:
            CallError: adapters of another program, or something else reads such a weight, too.
        """
        with self._enter(args, kwargs) as (boundary, call):
            plan, given = self._plan(call, boundary), as_adapters(adapters)
            check_leaves(plan, call)
            check_masks(plan, self.given.masks, call.values)
            values = masked_values(plan, self.given.masks, call.values)
            beside = given, self.given.key, self.given.ranges
            merged = functools.partial(merge, plan, values, *beside)
            return parameters(call, merged, boundary.restore)

    def init_ranges(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Ranges of the weights whose rules learn them (``"int4 g32 lsq"``), at the beginning.

        Those of the weights themselves, by the method that the quantizer names; results with them
        are those of the same rules without ``lsq``.

        Args:
            *args: the function's arguments, with float parameters.
            **kwargs: its keyword arguments.

        Returns:
            ``(lo, hi)`` by path of the weight, of the shape of its scales, for `with_ranges`.

        Raises:
            CallError: no rule learns ranges, or such a weight comes quantized.
            QPassError: the arguments or the rules do not fit the function.
        """
        with self._enter(args, kwargs) as (boundary, call):
            plan = self._plan(call, boundary)
            return init_ranges(plan, masked_values(plan, self.given.masks, call.values))

    def init_masks(self, *args: Any, **kwargs: Any) -> Masks:
        """Masks for the weights whose rules say ``sparsity=``, at step 0.

        Args:
            *args: the function's arguments, with float parameters.
            **kwargs: its keyword arguments.

        Returns:
            by path of the weight, a bool array of its shape: what is kept.

        Raises:
            CallError: no rule asks for sparsity, or such a weight comes quantized.
            QPassError: the arguments or the rules do not fit the function.
        """
        with self._enter(args, kwargs) as (boundary, call):
            return init_masks(self._plan(call, boundary), call.values)

    def update_masks(self, masks: Mapping[str, Any], step: Any, *args: Any, **kwargs: Any) -> Masks:
        """The masks after a step: made anew of the weights where the rule says so, else as given.

        Pure: to be called at each step, also under `jax.jit`.

        Args:
            masks: from `init_masks`.
            step: the number of the step, which may be traced.
            *args: the function's arguments, with float parameters.
            **kwargs: its keyword arguments.

        Raises:
            CallError: masks of another program, or such a weight comes quantized.
        """
        with self._enter(args, kwargs) as (boundary, call):
            return update_masks(self._plan(call, boundary), call.values, as_masks(masks), step)

    def with_masks(self, masks: Mapping[str, Any]) -> Self:
        """The same function with these masks: sparse weights are zero where they are false.

        Scales are computed of what is left. Gradients go straight through to all of the weight.
        `quantize` stores the zeros, and stored weights need no masks.

        Args:
            masks: from `init_masks`; they may be traced.

        Raises:
            CallError: they are no masks. Whether they are those of the program is known, and
                checked, when it is called.
        """
        return replace(self, given=replace(self.given, masks=as_masks(masks)))

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
            return _remember(self._plans, key, plan, program.jaxpr.consts)
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

    def _compile(self, call: Call, boundary: Boundary, records: bool = False) -> Compiled:
        key = call.key(), abstract(self.given), records
        if key not in self._compiled:
            plan = self._plan(call, boundary)
            check_leaves(plan, call)
            given = jax.tree.map(jax.typeof, self.given)
            compiled = rewrite(plan, _abstract_call(call), given, records)
            consts = (*compiled.jaxpr.consts, *plan.program.jaxpr.consts)
            return _remember(self._compiled, key, compiled, consts)
        return self._compiled[key]


def _abstract_call(call: Call) -> Call:
    """The call without its arrays, so that nothing kept in a cache holds on to them."""
    values = jax.tree.map(_struct, list(call.values))
    return replace(call, values=tuple(values))


def _struct(value: Any) -> Any:
    return value if isinstance(value, jax.ShapeDtypeStruct) else jax.typeof(value)


def _remember(cache: dict, key: Any, value: Any, consts: Sequence[Any]) -> Any:
    """Keep ``value`` unless it closes over tracers, which die with the trace around them."""
    if not any(isinstance(const, Tracer) for const in consts):
        for oldest in list(cache)[: max(0, len(cache) - CACHE_LIMIT + 1)]:
            cache.pop(oldest, None)
        cache[key] = value
    return value
