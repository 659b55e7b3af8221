"""How charges move through operations that only re-arrange elements, in both directions.

Each function takes the ids of the operand (``forward``) or of the result (``backward``) with
``lead`` axes of iterations in front, and gives those of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from qpass.folds.charge import NONE, Refused, Ties, constant_along
from qpass.graph._jax import JaxprEqn
from qpass.graph.provenance import reshape_groups

type Move = Callable[[JaxprEqn, np.ndarray, int, Ties], np.ndarray]


@dataclass(frozen=True)
class Layout:
    """Both directions of an operation."""

    forward: Move
    backward: Move


def reshaped(ids: np.ndarray, lead: int, old: Sequence[int], new: Sequence[int]) -> np.ndarray:
    """Ids of a value of shape ``old`` that becomes one of shape ``new``, element for element."""
    whole, sizes = list(ids.shape[:lead]), list(ids.shape[:lead])
    for ins, outs in reshape_groups(old, new):
        changes = any(ids.shape[lead + d] > 1 for d in ins)
        whole += [old[d] if changes else 1 for d in ins]
        sizes += [new[d] if changes else 1 for d in outs]
    return np.broadcast_to(ids, whole).reshape(sizes)


def placed(ids: np.ndarray, axis: int, start: int, length: int, size: int) -> np.ndarray:
    """Ids of ``length`` elements within an axis of ``size``, the others without factors."""
    ids = np.broadcast_to(ids, (*ids.shape[:axis], length, *ids.shape[axis + 1 :]))
    widths = [(0, 0)] * ids.ndim
    widths[axis] = (start, size - start - length)
    return np.pad(ids, widths, constant_values=NONE)


def cut(ids: np.ndarray, axis: int, start: int, stop: int, stride: int = 1) -> np.ndarray:
    """Ids of a part of an axis."""
    if ids.shape[axis] == 1:
        return ids
    return ids[(slice(None),) * axis + (slice(start, stop, stride),)]


def _same(eqn: JaxprEqn, ids: np.ndarray, lead: int, ties: Ties) -> np.ndarray:
    return ids


def _converted(eqn: JaxprEqn, ids: np.ndarray, lead: int, ties: Ties) -> np.ndarray:
    kinds = (eqn.invars[0].aval.dtype, eqn.params["new_dtype"])
    if not all(np.issubdtype(k, np.floating) or k.name == "bfloat16" for k in kinds):
        raise Refused("makes numbers of another kind of it")
    return ids


def _transposed(eqn: JaxprEqn, ids: np.ndarray, lead: int, ties: Ties) -> np.ndarray:
    order = (lead + d for d in eqn.params["permutation"])
    return ids.transpose(*range(lead), *order)


def _untransposed(eqn: JaxprEqn, ids: np.ndarray, lead: int, ties: Ties) -> np.ndarray:
    order = (lead + d for d in np.argsort(eqn.params["permutation"]))
    return ids.transpose(*range(lead), *order)


def _reshaped(eqn: JaxprEqn, ids: np.ndarray, lead: int, ties: Ties) -> np.ndarray:
    return reshaped(ids, lead, eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape)


def _unreshaped(eqn: JaxprEqn, ids: np.ndarray, lead: int, ties: Ties) -> np.ndarray:
    return reshaped(ids, lead, eqn.outvars[0].aval.shape, eqn.invars[0].aval.shape)


def _broadcast(eqn: JaxprEqn, ids: np.ndarray, lead: int, ties: Ties) -> np.ndarray:
    sizes = [1] * len(eqn.params["shape"])
    for d, target in enumerate(eqn.params["broadcast_dimensions"]):
        sizes[target] = ids.shape[lead + d]
    return ids.reshape(*ids.shape[:lead], *sizes)


def _unbroadcast(eqn: JaxprEqn, ids: np.ndarray, lead: int, ties: Ties) -> np.ndarray:
    """All copies of an element have one factor."""
    dims, shape = eqn.params["broadcast_dimensions"], eqn.invars[0].aval.shape
    own = {target for d, target in enumerate(dims) if shape[d] > 1}
    copies = [lead + d for d in range(len(eqn.params["shape"])) if d not in own]
    ids = constant_along(ids, copies, ties)
    return ids.reshape(*ids.shape[:lead], *(ids.shape[lead + d] for d in dims))


def _slices(eqn: JaxprEqn) -> list[tuple[int, int, int, int]]:
    """``(dimension, start, stop, stride)`` of each dimension of which a part is taken."""
    p, shape = eqn.params, eqn.invars[0].aval.shape
    strides = p["strides"] or (1,) * len(shape)
    parts = zip(range(len(shape)), p["start_indices"], p["limit_indices"], strides, strict=True)
    return [part for part in parts if part[1:] != (0, shape[part[0]], 1)]


def _sliced(eqn: JaxprEqn, ids: np.ndarray, lead: int, ties: Ties) -> np.ndarray:
    for d, *part in _slices(eqn):
        ids = cut(ids, lead + d, *part)
    return ids


def _unsliced(eqn: JaxprEqn, ids: np.ndarray, lead: int, ties: Ties) -> np.ndarray:
    shape, result = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    for d, start, stop, stride in _slices(eqn):
        axis = lead + d
        sizes = [*ids.shape[:axis], shape[d], *ids.shape[axis + 1 :]]
        whole = np.full(sizes, NONE, ids.dtype)
        part = [*ids.shape[:axis], result[d], *ids.shape[axis + 1 :]]
        whole[(slice(None),) * axis + (slice(start, stop, stride),)] = np.broadcast_to(ids, part)
        ids = whole
    return ids


def _moving(eqn: JaxprEqn, ids: np.ndarray, lead: int, ties: Ties) -> np.ndarray:
    """A slice whose place is computed: factors must not change along its axes."""
    sizes = zip(eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape, strict=True)
    return constant_along(ids, [lead + d for d, (n, m) in enumerate(sizes) if n != m], ties)


def _reversed(eqn: JaxprEqn, ids: np.ndarray, lead: int, ties: Ties) -> np.ndarray:
    return np.flip(ids, tuple(lead + d for d in eqn.params["dimensions"]))


def _along(eqn: JaxprEqn) -> tuple[int, ...]:
    axes = eqn.params.get("axes", eqn.params.get("axis"))
    return (axes,) if isinstance(axes, int) else tuple(axes)


def _reduced(eqn: JaxprEqn, ids: np.ndarray, lead: int, ties: Ties) -> np.ndarray:
    axes = tuple(lead + d for d in _along(eqn))
    if any(ids.shape[axis] > 1 for axis in axes):
        raise Refused("takes all channels together")
    return ids.squeeze(axes)


def _unreduced(eqn: JaxprEqn, ids: np.ndarray, lead: int, ties: Ties) -> np.ndarray:
    return np.expand_dims(ids, tuple(lead + d for d in _along(eqn)))


def _accumulated(eqn: JaxprEqn, ids: np.ndarray, lead: int, ties: Ties) -> np.ndarray:
    if any(ids.shape[lead + d] > 1 for d in _along(eqn)):
        raise Refused("takes all channels together")
    return ids


SAME = Layout(_same, _same)
RESHAPE = Layout(_reshaped, _unreshaped)
REDUCE = Layout(_reduced, _unreduced)
ACCUMULATE = Layout(_accumulated, _accumulated)

LAYOUTS: Mapping[str, Any] = MappingProxyType(
    {
        **dict.fromkeys(("copy", "copy_p", "device_put", "layout_constraint", "mesh_cast"), SAME),
        **dict.fromkeys(("name", "pcast", "pvary", "reduce_precision", "reshard"), SAME),
        **dict.fromkeys(("reduced_vary_cast", "sharding_constraint", "stop_gradient"), SAME),
        **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min"), REDUCE),
        **dict.fromkeys(("cumsum", "cummax", "cummin"), ACCUMULATE),
        "broadcast_in_dim": Layout(_broadcast, _unbroadcast),
        "convert_element_type": Layout(_converted, _converted),
        "dynamic_slice": Layout(_moving, _moving),
        "reshape": RESHAPE,
        "rev": Layout(_reversed, _reversed),
        "slice": Layout(_sliced, _unsliced),
        "squeeze": RESHAPE,
        "transpose": Layout(_transposed, _untransposed),
    }
)
