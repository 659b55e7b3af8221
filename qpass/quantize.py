"""Quantize a parameter tree leaf by leaf, and check quantized leaves against a plan."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from qpass.adapters.learned import check_learned, weight_ranges
from qpass.adapters.masks import check_masks, masked_leaf
from qpass.errors import CallError
from qpass.given import Given
from qpass.graph.program import Call
from qpass.keys import check_leaf_key, leaf_keys
from qpass.numerics import QTensor
from qpass.ops.cut_groups import ranges_of_cut_groups
from qpass.ops.weights import (
    Storage,
    abstract_weight,
    check_finite,
    encode_weight,
    encode_within,
    kind,
    weighs,
)
from qpass.plan import Plan


def quantize_tree(
    plan: Plan,
    call: Call,
    donate: bool,
    restore: Callable[[tuple, dict], tuple[tuple, dict]],
    importance: Callable[[int], jax.Array | None],
    given: Given,
    found: Mapping[int, QTensor] = MappingProxyType({}),
) -> Any:
    """The arguments that hold parameters, with every stored leaf as a QTensor.

    Args:
        plan: says which leaves are stored, and how.
        call: the split arguments, aligned with the plan's inputs.
        donate: delete each float leaf once it is quantized.
        restore: arguments of the program as the caller would give them.
        importance: for a stored leaf whose range weighs errors, how much they count; else None.
        given: with the key for leaves that are rounded stochastically, masks of sparse ones, and
            ranges that are learned.
        found: leaves that were quantized before.

    Returns:
        the one argument that holds parameters; a tuple of them where a predicate chose leaves of
        several arguments.

    Raises:
        CallError: no argument holds parameters.
        QuantizeError: a leaf that is to be stored holds NaN or infinities, or needs a key.
    """
    check_masks(plan, given.masks, call.values)
    check_learned(plan, given.ranges, call.values)
    chosen = {k for k, leaf in enumerate(call.leaves) if leaf.is_param}
    values = partial(_quantize_leaves, plan, call, chosen, donate, importance, given, found)
    return parameters(call, values, restore)


def quantize_caches(
    plan: Plan,
    call: Call,
    donate: bool,
    restore: Callable[[tuple, dict], tuple[tuple, dict]],
) -> Any:
    """The arguments that hold caches, with every cache as a QTensor; as for `quantize_tree`.

    Raises:
        CallError: there are none.
        QuantizeError: a cache holds NaN or infinities.
    """
    if not plan.caches:
        raise CallError(
            "give rules with cache= and store=, as qpass.Rule(cache='cache/**', store='int8'): "
            "none of these stores a cache."
        )
    chosen = set(plan.caches)
    values = partial(_quantize_leaves, plan, call, chosen, donate, lambda k: None, Given(), {})
    return _arguments(call, [call.leaves[k].argument for k in plan.caches], values, restore)


def parameters(
    call: Call,
    values: Callable[[], Sequence[Any]],
    restore: Callable[[tuple, dict], tuple[tuple, dict]],
) -> Any:
    """The arguments of a call that hold parameters, with other values for its leaves.

    Args:
        call: the split arguments.
        values: gives the values, aligned with the leaves.
        restore: as for `quantize_tree`, as is what is returned and raised.
    """
    chosen = [leaf.argument for leaf in call.leaves if leaf.is_param]
    if not chosen:
        raise CallError(
            "no argument holds parameters: give transform(params=...) a position, a name, or a "
            "predicate on the path."
        )
    return _arguments(call, chosen, values, restore)


def _arguments(
    call: Call,
    chosen: Iterable[int | str],
    values: Callable[[], Sequence[Any]],
    restore: Callable[[tuple, dict], tuple[tuple, dict]],
) -> Any:
    """The one argument that was chosen, or a tuple of several, with other values."""
    args, kwargs = restore(*call.rebuild(values()))
    found = [args[a] if isinstance(a, int) else kwargs[a] for a in dict.fromkeys(chosen)]
    return found[0] if len(found) == 1 else tuple(found)


def _quantize_leaves(
    plan: Plan,
    call: Call,
    chosen: Collection[int],
    donate: bool,
    importance: Callable[[int], jax.Array | None],
    given: Given,
    found: Mapping[int, QTensor],
) -> list[Any]:
    """The values of a call, those chosen quantized; an array that is two leaves only once."""
    values = list(call.values)
    readers = Counter(map(id, values))
    done: dict[tuple, QTensor] = {}
    keys, bounds = leaf_keys(plan, given.key), weight_ranges(plan, given.ranges)
    for k, value in enumerate(call.values):
        storage = plan.storage.get(k)
        if storage is None or k not in chosen or isinstance(value, QTensor):
            continue
        check_leaf_key(plan, k, given.key)
        own = weighs(storage.quantizer) or k in {*keys, *plan.masked, *bounds, *found}
        same = (id(value), storage, k if own else None)
        if k in found:
            done[same] = found[k]
        if same not in done:
            mask = partial(masked_leaf, plan, given.masks, k)
            known = keys.get(k), mask, bounds.get(k)
            encode = partial(_encode, storage, partial(importance, k), *known)
            done[same] = _quantize_leaf(value, storage, _whose(plan, k), encode)
        values[k] = done[same]
        readers[id(value)] -= 1
        if donate and not readers[id(value)]:
            _delete(value)
    return values


def _whose(plan: Plan, index: int) -> str:
    """The leaf, with the first site that reads it and the rule that decided there."""
    path = plan.program.leaves[index].path
    for decision in plan.decisions:
        if decision.site.leaf == index and decision.stored and decision.rule is not None:
            rule = plan.rules[decision.rule].describe()
            return f"{path} (read by {decision.site.id}, rule {decision.rule}: {rule})"
    return path


def _delete(value: Any) -> None:
    if isinstance(value, jax.Array) and not isinstance(value, Tracer):
        value.delete()


def _quantize_leaf(
    value: Any, storage: Storage, whose: str, encode: Callable[[Any], QTensor]
) -> QTensor:
    if isinstance(value, jax.ShapeDtypeStruct):
        return abstract_weight(value, storage)
    if isinstance(value, Tracer):
        return encode(value)
    check_finite(value, whose)
    return jax.block_until_ready(encode(value))


def _encode(
    storage: Storage,
    importance: Callable[[], jax.Array | None],
    key: jax.Array | None,
    mask: Callable[[Any], Any],
    bounds: Any,
    value: Any,
) -> QTensor:
    x = mask(value)
    if bounds is None and key is None and (cut := ranges_of_cut_groups(x, storage)) is not None:
        return encode_within(x, storage, cut)
    return encode_weight(x, storage, bounds, importance(), key)


def check_tensors(call: Call) -> None:
    """Hold the arrays of every quantized leaf against its metadata.

    Raises:
        CorruptTensorError: naming the leaf.
    """
    for leaf, value in zip(call.leaves, call.values, strict=True):
        if isinstance(value, QTensor):
            value.check(leaf.path)


def explain_shapes(call: Call, known: Iterable[Call]) -> str | None:
    """Why a function cannot be traced with these quantized leaves; None without any.

    Args:
        call: the arguments that it failed on.
        known: calls of the same function that succeeded before, to name the leaves that differ.
    """
    given = {k: v for k, v in enumerate(call.values) if isinstance(v, QTensor)}
    if not given:
        return None
    paths = [leaf.path for leaf in call.leaves]
    before = next((c.values for c in known if [leaf.path for leaf in c.leaves] == paths), None)
    wrong = [k for k, v in given.items() if before is None or before[k].shape != v.shape]
    listed = [f"{paths[k]} of shape {given[k].shape}" for k in wrong or given]
    return (
        f"give the shapes that the function is written for; quantized leaves are "
        f"{', '.join(listed[:8])}{' …' if len(listed) > 8 else ''}."
    )


def check_leaves(plan: Plan, call: Call) -> None:
    """Hold every quantized leaf against what the plan stores there; see `check_leaf`."""
    for k, value in enumerate(call.values):
        check_leaf(plan, k, value)


def check_leaf(plan: Plan, index: int, value: Any) -> None:
    """Hold a quantized leaf against what the plan stores there.

    Raises:
        CorruptTensorError: codes, scales or metadata contradict each other.
        CallError: the plan keeps this leaf float, or stores it in another way.
    """
    if not isinstance(value, QTensor):
        return
    path = plan.program.leaves[index].path
    value.check(path)
    storage = plan.storage.get(index)
    if storage is None:
        raise CallError(
            f"{path} is a QTensor ({value}), but these rules keep it float. Pass the float leaf, "
            "or the rules that quantized it."
        )
    expected = abstract_weight(value, storage)
    if kind(expected) != kind(value):
        raise CallError(
            f"{path} is stored as {value}, but these rules store it as {expected}. "
            "Quantize the float parameters again with these rules."
        )


def tree_nbytes(tree: Any) -> int:
    """Bytes that the arrays of a tree take in memory, from their real buffers where they have one.

    An int4 array holds two values to a byte; `jax.Array.nbytes` counts one each.
    """
    return sum(_nbytes(leaf) for leaf in jax.tree.leaves(tree))


def _nbytes(leaf: Any) -> int:
    if hasattr(leaf, "on_device_size_in_bytes"):
        return leaf.on_device_size_in_bytes()
    per_byte = 2 if leaf.dtype == jnp.int4 else 1
    return -(-leaf.size // per_byte) * leaf.dtype.itemsize
