"""Flax NNX: modules as arguments of programs, with their updates.

Only the public functions of `flax.nnx` are used. Every NNX object among the arguments of a call
enters its program as a `Node`, a pytree of the arrays in its Variables; inside, the objects are
put together anew, run, and taken apart again. What changed goes back to the caller's objects, as
`nnx.jit` does it: shared Variables stay shared, new attributes appear, what did not change is not
touched.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from jax.tree_util import GetAttrKey, keystr, tree_flatten_with_path

from qpass.errors import CallError
from qpass.integrations.called import Call, CalledModule

TAG = "qpass"


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, eq=False)
class Node:
    """An NNX object taken apart; as a pytree it has the arrays as children, under their paths.

    Attributes:
        graphdef: what the object is, without its values.
        tree: structure of its state.
        paths: path of each value, as its users write it: ``blocks/0/attn/query/kernel``.
        values: the values of its Variables, and its array attributes.
    """

    graphdef: Any
    tree: Any
    paths: tuple[str, ...]
    values: tuple[Any, ...]

    @property
    def state(self) -> Any:
        """The state that `nnx.merge` takes: an `nnx.State`, or a Variable."""
        return jax.tree.unflatten(self.tree, self.values)

    def entries(self) -> dict[tuple, Any]:
        """The Variables and arrays of the state by path; under ``()`` for a bare Variable."""
        state = self.state
        return dict(nnx.to_flat_state(state)) if isinstance(state, nnx.State) else {(): state}

    def tree_flatten_with_keys(self) -> tuple[list, tuple]:
        """The values under their paths."""
        keys = map(GetAttrKey, self.paths)
        return list(zip(keys, self.values, strict=True)), (self.graphdef, self.tree, self.paths)

    @classmethod
    def tree_unflatten(cls, parts: tuple, values: Sequence[Any]) -> "Node":
        """The inverse of `tree_flatten_with_keys`."""
        graphdef, tree, paths = parts
        return cls(graphdef, tree, paths, tuple(values))


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["nodes"], meta_fields=["restructured"]
)
@dataclass(frozen=True)
class State:
    """What a call left in the NNX objects among its arguments.

    Attributes:
        nodes: the objects, in the order of the arguments.
        restructured: whether they changed by more than their values, or the result shares some.
    """

    nodes: tuple[Node, ...]
    restructured: bool


@dataclass(frozen=True, eq=False)
class NnxCall:
    """The boundary of a call with NNX objects among its arguments (`qpass.integrations.boundary`).

    Attributes:
        objects: the objects themselves, in the order of the arguments.
    """

    args: tuple
    kwargs: dict
    objects: tuple[Any, ...]
    is_wrapped: Callable[[Any], bool]

    def run(self, fn: Callable, args: tuple, kwargs: dict) -> tuple[Any, State]:
        """Put the objects together, call, take them apart."""
        with nnx.merge_context(TAG, inner=True) as context:
            opened = _open((args, kwargs), context)
        objects = tuple(_objects(opened))
        result = fn(*opened[0], **opened[1])
        if not _share(objects, result):
            with nnx.split_context() as context:
                nodes = self._close(objects, context)
            if _same_structure(nodes, _nodes((args, kwargs))):
                with nnx.split_context() as context:
                    return self._close(result, context), State(nodes, restructured=False)
        with nnx.split_context(TAG) as context:
            nodes, result = self._close((objects, result), context)
        return result, State(nodes, restructured=True)

    def leave(self, result: Any, state: State) -> Any:
        """Write what changed to the caller's objects."""
        if state.restructured:
            with nnx.merge_context(TAG, inner=False) as context:
                _, result = _open((state.nodes, result), context)
            return result
        before = _nodes((self.args, self.kwargs))
        for target, old, new in zip(self.objects, before, state.nodes, strict=True):
            _update(target, old, new)
        with nnx.merge_context() as context:
            return _open(result, context)

    def restore(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """New objects; what they shared they share again."""
        with nnx.merge_context() as context:
            return _open((args, kwargs), context)

    def _close(self, tree: Any, context: Any) -> Any:
        return _close(tree, context, self.is_wrapped)


@contextmanager
def entered(args: tuple, kwargs: dict, is_wrapped: Callable[[Any], bool]) -> Iterator[NnxCall]:
    """The boundary of a call with NNX objects among its arguments."""
    with nnx.update_context(TAG):
        with nnx.split_context(TAG) as context:
            pure_args, pure_kwargs = _close((args, kwargs), context, is_wrapped)
        objects = tuple(_objects((args, kwargs)))
        yield NnxCall(pure_args, pure_kwargs, objects, is_wrapped)


def is_node(value: Any) -> bool:
    """Whether a value is an NNX object: a module, a Variable, RNG streams, an optimizer."""
    return _is_node_type(type(value))


@functools.cache
def _is_node_type(kind: type) -> bool:
    return issubclass(kind, nnx.Pytree | nnx.Variable)


def holds_nodes(tree: Any) -> bool:
    """Whether there is an NNX object anywhere in ``tree``."""
    return any(map(is_node, jax.tree.leaves(tree, is_leaf=is_node)))


def _objects(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree, is_leaf=is_node) if is_node(leaf)]


def _share(tree: Any, other: Any) -> bool:
    """Whether an object or a Variable of one tree is in the other, too."""

    def nodes(tree: Any) -> set[int]:
        return {id(node) for _, node in nnx.iter_graph(_objects(tree)) if is_node(node)}

    return not nodes(tree).isdisjoint(nodes(other))


def _nodes(tree: Any) -> list[Node]:
    leaves = jax.tree.leaves(tree, is_leaf=_is_closed)
    return [leaf for leaf in leaves if _is_closed(leaf)]


def _is_closed(value: Any) -> bool:
    return isinstance(value, Node)


def _close(tree: Any, context: Any, is_wrapped: Callable[[Any], bool]) -> Any:
    """Every NNX object of ``tree`` as a Node; one that was met before refers to the first."""

    def close(leaf: Any) -> Any:
        if not is_node(leaf):
            return leaf
        graphdef, state = context.split(leaf)
        _refuse_refs(state)
        values, structure = jax.tree.flatten(state, is_leaf=is_wrapped)
        return Node(graphdef, structure, tuple(_paths(state, is_wrapped)), tuple(values))

    return jax.tree.map(close, tree, is_leaf=is_node)


def _refuse_refs(state: Any) -> None:
    leaves = jax.tree.leaves(state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    for leaf in leaves:
        if isinstance(leaf, nnx.Variable) and leaf.ref:
            raise CallError(
                f"give NNX objects without mutable arrays; a {type(leaf).__name__} of shape "
                f"{leaf.shape} was made with ref=True. Give nnx.with_vars(model, ref=False)."
            )


def _open(tree: Any, context: Any) -> Any:
    """Every Node of ``tree`` as an NNX object."""

    def open_(leaf: Any) -> Any:
        return context.merge(leaf.graphdef, leaf.state) if _is_closed(leaf) else leaf

    return jax.tree.map(open_, tree, is_leaf=_is_closed)


def _paths(state: Any, is_wrapped: Callable[[Any], bool]) -> Iterator[str]:
    """Path of every value; a Variable is not a step of it."""

    def is_entry(value: Any) -> bool:
        return isinstance(value, nnx.Variable) or is_wrapped(value)

    for keys, entry in tree_flatten_with_path(state, is_leaf=is_entry)[0]:
        for inner, _ in tree_flatten_with_path(entry, is_leaf=is_wrapped)[0]:
            below = inner[1:] if isinstance(entry, nnx.Variable) else inner
            yield keystr((*keys, *below), simple=True, separator="/")


def _same_structure(nodes: Sequence[Node], others: Sequence[Node]) -> bool:
    def structure(node: Node) -> tuple:
        return node.graphdef, node.tree

    return list(map(structure, nodes)) == list(map(structure, others))


def _update(target: Any, old: Node, new: Node) -> None:
    """Write the Variables and arrays of ``new`` that differ from those of ``old``."""
    before = old.entries()
    changed = {path: e for path, e in new.entries().items() if not _same(e, before[path])}
    if changed:
        nnx.update(target, changed[()] if () in changed else nnx.from_flat_state(changed))


def _same(entry: Any, other: Any) -> bool:
    mine, others = jax.tree.leaves(entry), jax.tree.leaves(other)
    return all(a is b for a, b in zip(mine, others, strict=True))


class TransformedNnxModule(CalledModule, nnx.Module):
    """An NNX module with its contractions quantized by rules; itself an NNX module.

    It shares the Variables of the module, so what a call updates (statistics, RNG streams, caches)
    is updated there too.

    Attributes:
        module: the module.
        call: the transformed call of it (or of the method that was given).
    """

    def __init__(self, module: Any, call: Call) -> None:
        self.module = module
        self.call = call
