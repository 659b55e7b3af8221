"""Tracing: a function and example arguments become a Program, a closed jaxpr with its trees.

The jaxpr is the only intermediate representation of qpass: every Program runs.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qpass.errors import CallError
from qpass.graph._jax import Jaxpr, trace_context
from qpass.graph.outputs import Outputs, hand_on, split_outputs
from qpass.graph.paths import leaf_path


@dataclass(frozen=True)
class Leaf:
    """One dynamic input of a program.

    Attributes:
        argument: position (``int``) or keyword (``str``) of the argument that holds it.
        path: where it sits, ``/``-joined, as the framework's users write it
            (``layers/mlp/up/kernel``); the argument's own name when it is a bare array.
        is_param: whether it belongs to the parameters.
        name: of the argument.
    """

    argument: int | str
    path: str
    is_param: bool
    name: str = ""

    @property
    def full_path(self) -> str:
        """Its path below the name of the argument."""
        return "/".join(dict.fromkeys(filter(None, (self.name, self.path))))


@dataclass(frozen=True)
class Call:
    """The arguments of one call, split into arrays and static values.

    Attributes:
        values: the dynamic leaves in tree order: arrays, or wrapped arrays (see ``is_wrapped``).
        leaves: a `Leaf` for each value.
        statics: ``(index in the full leaf list, value)`` of every leaf that is not an array.
        tree: tree structure of ``(args, kwargs)`` with all leaves.
    """

    values: tuple[Any, ...]
    leaves: tuple[Leaf, ...]
    statics: tuple[tuple[int, Any], ...]
    tree: Any

    def rebuild(self, values: Sequence[Any]) -> tuple[tuple, dict]:
        """``(args, kwargs)`` with ``values`` in place of the dynamic leaves."""
        static = dict(self.statics)
        rest = iter(values)
        total = len(self.values) + len(static)
        full = [static[i] if i in static else next(rest) for i in range(total)]
        return jax.tree.unflatten(self.tree, full)

    def key(self) -> tuple:
        """What a trace of this call depends on; hashable.

        Raises:
            CallError: a static argument cannot be hashed.
        """
        avals = tuple(abstract(value) for value in self.values)
        statics = tuple((index, *_distinct(value)) for index, value in self.statics)
        key = (self.tree, avals, statics, trace_context())
        try:
            hash(key)
        except TypeError as err:
            kinds = [type(value).__name__ for _, value in self.statics]
            raise CallError(
                "an argument that is not an array must be hashable; "
                f"static leaves are {kinds}: {err}. Pass it as an array, or close over it."
            ) from err
        return key


@dataclass(frozen=True)
class Program:
    """A traced function: ``jaxpr`` takes the dynamic leaves of ``call`` and gives flat outputs.

    Attributes:
        jaxpr: the closed jaxpr, float inputs throughout.
        call: the example call; its values are abstract.
        outputs: how the function's result is put together from those of ``jaxpr``.
        name: the function's name, for error messages.
    """

    jaxpr: Jaxpr
    call: Call
    outputs: Outputs
    name: str

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """One `Leaf` for each input of ``jaxpr``."""
        return self.call.leaves


def abstract(value: Any) -> Any:
    """Shape, dtype and sharding of an array; a wrapped array abstracts leaf by leaf."""
    leaves, tree = jax.tree.flatten(value)
    if len(leaves) == 1 and leaves[0] is value:
        return jax.typeof(value)
    return tree, tuple(abstract(leaf) for leaf in leaves)


def _distinct(value: Any) -> tuple:
    """What tells a static value from those that equal it: ``1 == 1.0 == True``, ``0.0 == -0.0``."""
    return type(value), repr(value) if isinstance(value, float | complex) else value


def is_dynamic(value: Any) -> bool:
    """Arrays, tracers and abstract arrays are traced; every other leaf is a static value."""
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind not in "OUSV" or jnp.issubdtype(value.dtype, np.number)
    return isinstance(value, jax.Array | jax.ShapeDtypeStruct) or hasattr(value, "__jax_array__")


def split_call(
    fn: Callable,
    args: tuple,
    kwargs: dict,
    params: int | str | Callable[[str], bool] | None,
    is_wrapped: Callable[[Any], bool],
) -> Call:
    """Flatten a call of ``fn``.

    Args:
        fn: the function, for its argument names.
        args: positional arguments.
        kwargs: keyword arguments.
        params: which leaves are parameters: an argument's position or name, a predicate on
            ``argument/path``, or None for none.
        is_wrapped: tells a value that stands for one array (a QTensor) and is kept whole.

    Raises:
        CallError: wrong number of arguments, or ``params`` names no argument of the call.
    """
    names = argument_names(fn, args, kwargs)
    params = _given_by_name(fn, params, kwargs)
    flat, tree = jax.tree_util.tree_flatten_with_path((args, kwargs), is_leaf=is_wrapped)
    values, leaves, statics = [], [], []
    for index, (keys, value) in enumerate(flat):
        if is_wrapped(value) or is_dynamic(value):
            values.append(value)
            leaves.append(_leaf((args, kwargs), keys, names, params))
        else:
            statics.append((index, value))
    _check_params(params, names, fn, leaves)
    return Call(tuple(values), tuple(leaves), tuple(statics), tree)


def argument_names(fn: Callable, args: tuple, kwargs: dict) -> dict[int | str, str]:
    """Name of every argument given, by position or keyword.

    Raises:
        CallError: ``fn`` cannot be called with these arguments.
    """
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return {i: f"arg{i}" for i in range(len(args))} | {k: k for k in kwargs}
    try:
        signature.bind(*args, **kwargs)
    except TypeError as err:
        given = f"{len(args)} positional, {sorted(kwargs)} by name"
        raise CallError(
            f"cannot call {function_name(fn)}{signature} with the arguments given ({given}): {err}"
        ) from err
    declared = list(signature.parameters.values())
    fixed = [p.name for p in declared if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    positional = {i: fixed[i] if i < len(fixed) else f"arg{i}" for i in range(len(args))}
    return positional | {key: key for key in kwargs}


def plain(fn: Callable, args: tuple, kwargs: dict) -> tuple[Any, Any]:
    """``(result, state)`` of a call that has no state."""
    return fn(*args, **kwargs), ()


def trace(
    fn: Callable,
    call: Call,
    float_aval: Callable[[Any], Any],
    run: Callable[[Callable, tuple, dict], tuple[Any, Any]] = plain,
) -> Program:
    """Trace ``fn`` at ``call`` with every wrapped value replaced by its float array.

    Args:
        fn: the user's function.
        call: its arguments.
        float_aval: abstract float array that a dynamic value stands for.
        run: calls the function and gives ``(result, state)``.
    """
    avals = [float_aval(value) for value in call.values]
    seen: list[Outputs] = []

    def flat_fn(*values):
        args, kwargs = call.rebuild(values)
        computed, outputs = split_outputs(*run(fn, args, kwargs), is_dynamic)
        seen.append(outputs)
        return computed

    jaxpr, outputs = hand_on(jax.make_jaxpr(flat_fn)(*avals), seen[0])
    frozen = Call(tuple(map(abstract, avals)), call.leaves, call.statics, call.tree)
    return Program(jaxpr, frozen, outputs, function_name(fn))


def function_name(fn: Callable) -> str:
    """Readable name of a callable."""
    return getattr(fn, "__name__", None) or type(fn).__name__


def _given_by_name(fn: Callable, params: Any, kwargs: dict) -> Any:
    """The name of an argument that ``params`` gives by position and the call by keyword."""
    if not isinstance(params, int) or not kwargs:
        return params
    try:
        declared = list(inspect.signature(fn).parameters)
    except (TypeError, ValueError):
        return params
    named = 0 <= params < len(declared) and declared[params] in kwargs
    return declared[params] if named else params


def _leaf(tree: tuple[tuple, dict], keys: tuple, names: dict, params: Any) -> Leaf:
    group, argument_key, *rest = keys
    positional = group.idx == 0
    argument = argument_key.idx if positional else argument_key.key
    name = names[argument]
    path = leaf_path(tree[group.idx][argument], rest)
    if callable(params):
        is_param = bool(params("/".join(filter(None, (name, path)))))
    else:
        is_param = params is not None and params in (argument, name)
    return Leaf(argument, path or name, is_param, name)


def _check_params(params: Any, names: dict, fn: Callable, leaves: Sequence[Leaf]) -> None:
    if callable(params) and not any(leaf.is_param for leaf in leaves):
        paths = [f"{names[leaf.argument]}/{leaf.path}" for leaf in leaves[:5]]
        raise CallError(
            f"params={function_name(params)} chooses no leaf of this call of {function_name(fn)}; "
            f"the paths it was asked about begin with {paths}."
        )
    if params is None or callable(params):
        return
    if params not in names and params not in names.values():
        raise CallError(
            f"params={params!r} names no argument of this call of {function_name(fn)}; "
            f"the arguments given are {list(names.values())}. "
            "Give transform(params=...) a position, a name, or a predicate on the path."
        )
