"""Masks of sparse weights as a plain pytree: ``{path of the weight: bool array of its shape}``."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass.adapters.named import check_float, check_known, misfits
from qpass.errors import CallError
from qpass.numerics import QTensor
from qpass.ops.straight_through import straight_through
from qpass.plan import Plan
from qpass.suggest import shortened

type Masks = dict[str, jax.Array]


def init_masks(plan: Plan, values: Sequence[Any]) -> Masks:
    """The masks at step 0: of all that begin later, everything is kept.

    Raises:
        CallError: no rule asks for sparsity, or a weight comes quantized.
    """
    if not plan.masked:
        raise CallError("give rules with sparsity=qpass.NM(2, 4): none of these masks a weight.")
    dense = {one.path: jnp.ones(one.shape, bool) for one in plan.masked.values()}
    return update_masks(plan, values, dense, 0)


def update_masks(plan: Plan, values: Sequence[Any], masks: Masks, step: Any) -> Masks:
    """The masks after a step: made anew where that is due, else as they were.

    Raises:
        CallError: masks of another program, or a weight that comes quantized.
    """
    check_masks(plan, masks, values)
    check_float({one.path: values[k] for k, one in plan.masked.items()}, "make masks")
    return {
        one.path: lax.cond(
            one.sparsity.is_due(step), one.mask, _as_it_was(masks[one.path]), values[k]
        )
        for k, one in plan.masked.items()
    }


def _as_it_was(mask: jax.Array) -> Callable[[jax.Array], jax.Array]:
    return lambda weight: jnp.asarray(mask)


def as_masks(masks: Any) -> Masks:
    """Masks as a dict of bool arrays.

    Raises:
        CallError: they are something else.
    """
    arrays = masks.values() if isinstance(masks, Mapping) else [None]
    if not all(jnp.issubdtype(getattr(mask, "dtype", float), jnp.bool_) for mask in arrays):
        raise CallError("give masks as q.init_masks makes them: {path of the weight: bool array}.")
    return {path: jnp.asarray(mask) for path, mask in masks.items()}


def check_masks(plan: Plan, masks: Mapping[str, Any], values: Sequence[Any]) -> None:
    """Hold masks against the program and its inputs; a quantized weight needs none.

    Raises:
        CallError: a float weight has no mask or one of another shape, or masks are of another
            program.
    """
    wanted = {one.path: one for one in plan.masked.values()}
    check_known(masks, wanted, "masks", "sparsity=")
    missing = [
        one.path
        for k, one in plan.masked.items()
        if one.path not in masks and not isinstance(values[k], QTensor)
    ]
    if missing:
        raise CallError(
            f"give masks, as q.with_masks(q.init_masks(params, *args)): there are none for "
            f"{shortened(missing, 5)}."
        )
    wrong = [
        text
        for path, mask in masks.items()
        for text in misfits(f"that of {path}", mask, wanted[path].shape)
    ]
    if wrong:
        raise CallError(f"give masks of the weights' shapes: {shortened(wrong, 5)}.")


def masked_leaf(plan: Plan, masks: Mapping[str, Any], index: int, value: Any) -> Any:
    """An input with zeros where its mask says so; gradients go straight through to all of it."""
    one = plan.masked.get(index)
    if one is None or one.path not in masks or isinstance(value, QTensor | jax.ShapeDtypeStruct):
        return value
    zeros = jnp.where(masks[one.path], value, jnp.zeros((), value.dtype))
    return straight_through(zeros, value)


def masked_values(plan: Plan, masks: Mapping[str, Any], values: Sequence[Any]) -> list[Any]:
    """All inputs of a program with their masks."""
    return [masked_leaf(plan, masks, k, value) for k, value in enumerate(values)]
