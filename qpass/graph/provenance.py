"""Where an operand comes from: which input leaf, through which layout operations, on which axes.

A value has an `Origin` while only layout operations lie between it and an input leaf. Each of
its dimensions knows the leaf axes it is made of, so a contraction over dimensions of the
operand names the contracted axes of the leaf itself. The first operation that computes
something new ends that: the value is `Lost`, with the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np

from qpass.graph._jax import JaxprEqn

Axes = tuple[frozenset[int], ...]


@dataclass(frozen=True, eq=False)
class Step:
    """One layout step.

    Attributes:
        eqn: the operation; None for the slice that a ``scan`` takes of its input.
        scan: then, call path and index of that scan.
    """

    eqn: JaxprEqn | None
    scan: Any = None

    def __str__(self) -> str:
        return "scan slice" if self.eqn is None else self.eqn.primitive.name


@dataclass(frozen=True, eq=False)
class Origin:
    """A value that is an input leaf seen through layout operations.

    Attributes:
        leaf: index of the program's input, or ``-1 - k`` for its k-th closed-over constant.
        axes: for each dimension of the value, the leaf axes that it consists of.
        steps: the layout operations, in order.
    """

    leaf: int
    axes: Axes
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, eq=False)
class Lost:
    """A value computed by something other than a layout operation.

    Attributes:
        op: the operation.
        source: the user's source line, or an empty string.
        because: why that ended the trail, when the operation's name does not say it.
        node: graph node of that equation; None where no single one did it (a nested program, a
            literal).
    """

    op: str
    source: str = ""
    because: str = ""
    node: int | None = None

    def __str__(self) -> str:
        text = f"{self.op} at {self.source}" if self.source else self.op
        return f"{text} ({self.because})" if self.because else text


Flow = Origin | Lost


def leaf_origin(leaf: int, ndim: int) -> Origin:
    """The origin of an input itself."""
    return Origin(leaf, tuple(frozenset([d]) for d in range(ndim)))


def scan_slice(origin: Origin, scan: Any = None) -> Origin:
    """The origin of one step's slice of an input of ``scan``, its call path and index."""
    return Origin(origin.leaf, origin.axes[1:], (*origin.steps, Step(None, scan)))


def follow(
    eqn: JaxprEqn, flows: Sequence[Flow], source: str = "", node: int | None = None
) -> list[Flow]:
    """Flows of the results of a first-order equation, given those of its operands.

    ``source`` is the equation's line, ``node`` its place in the graph, for trails that end here.
    """
    name = eqn.primitive.name
    if name in ELEMENT_FOR_ELEMENT:
        return [_step(eqn, flow, _same, source, node) for flow in flows]
    if name == "select_n" and _is_one_value(flows[1:]):
        return [_step(eqn, flows[1], _same, source, node)]
    rule = LAYOUT.get(name)
    if rule is not None:
        return [_step(eqn, flows[0], rule, source, node)]
    because = "embedding lookup" if name == "gather" and isinstance(flows[0], Origin) else ""
    return [Lost(name, source, because, node) for _ in eqn.outvars]


def continues(eqn: JaxprEqn, operand: int, flows: Sequence[Flow]) -> bool:
    """Whether ``eqn`` only re-arranges this operand, so that reading it is no use in itself."""
    name = eqn.primitive.name
    if name == "select_n":
        return operand > 0 and _is_one_value(flows[1:])
    return name in ELEMENT_FOR_ELEMENT or (name in LAYOUT and operand == 0)


def _is_one_value(flows: Sequence[Flow]) -> bool:
    """Whether a choice between these chooses only where gradients go: `vmap` of `cond` makes such.

    Under a mapped predicate every branch runs, each on ``select(mine, w, stop_gradient(w))``.
    """
    first = flows[0]
    return isinstance(first, Origin) and all(
        isinstance(flow, Origin) and _value(flow) == _value(first) for flow in flows
    )


def _value(origin: Origin) -> tuple:
    steps = [step.eqn for step in origin.steps if str(step) != "stop_gradient"]
    return origin.leaf, origin.axes, [id(eqn) for eqn in steps]


def _step(eqn: JaxprEqn, flow: Flow, rule: Callable, source: str, node: int | None) -> Flow:
    if isinstance(flow, Lost):
        return flow
    axes = rule(eqn, flow.axes)
    if axes is None:
        return Lost(eqn.primitive.name, source, "its axes cannot be followed", node)
    return Origin(flow.leaf, axes, (*flow.steps, Step(eqn)))


def _same(eqn: JaxprEqn, axes: Axes) -> Axes:
    return axes


def _convert(eqn: JaxprEqn, axes: Axes) -> Axes | None:
    kinds = (eqn.invars[0].aval.dtype, eqn.params["new_dtype"])
    return axes if all(jnp.issubdtype(k, np.floating) for k in kinds) else None


def _transpose(eqn: JaxprEqn, axes: Axes) -> Axes:
    return tuple(axes[d] for d in eqn.params["permutation"])


def _squeeze(eqn: JaxprEqn, axes: Axes) -> Axes:
    gone = {d % len(axes) for d in eqn.params["dimensions"]}
    return tuple(a for d, a in enumerate(axes) if d not in gone)


def _broadcast(eqn: JaxprEqn, axes: Axes) -> Axes:
    out = [frozenset()] * len(eqn.params["shape"])
    for d, target in enumerate(eqn.params["broadcast_dimensions"]):
        out[target] = axes[d]
    return tuple(out)


def _reshape(eqn: JaxprEqn, axes: Axes) -> Axes | None:
    if eqn.params.get("dimensions") is not None:
        return None
    out: list[frozenset[int]] = []
    for ins, outs in reshape_groups(eqn.invars[0].aval.shape, eqn.params["new_sizes"]):
        union = frozenset().union(*(axes[d] for d in ins))
        out.extend([union] * len(outs))
    return tuple(out)


def reshape_groups(old: Sequence, new: Sequence) -> list[tuple[list[int], list[int]]]:
    """Cut a reshape into the smallest runs of dimensions with equal products.

    Returns:
        ``(old dimensions, new dimensions)`` of each run, in order.
    """
    groups, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        ins, outs = [], []
        left = right = 1
        if i < len(old):
            left, i = old[i], i + 1
            ins.append(i - 1)
        if j < len(new):
            right, j = new[j], j + 1
            outs.append(j - 1)
        while left != right:
            if i >= len(old) and j >= len(new):  # sizes of zero: nothing left to balance with
                break
            if j >= len(new) or (i < len(old) and _less(left, right)):
                left, i = left * old[i], i + 1
                ins.append(i - 1)
            else:
                right, j = right * new[j], j + 1
                outs.append(j - 1)
        groups.append((ins, outs))
    return groups


def _less(left: Any, right: Any) -> bool:
    try:
        return bool(left < right)
    except Exception:  # symbolic dimensions that cannot be compared: take from the left first
        return True


ELEMENT_FOR_ELEMENT = frozenset({"optimization_barrier", "device_put"})

LAYOUT: Mapping[str, Callable[[JaxprEqn, Axes], Axes | None]] = MappingProxyType(
    {
        "broadcast_in_dim": _broadcast,
        "convert_element_type": _convert,
        "copy": _same,
        "copy_p": _same,
        "dynamic_slice": _same,
        "layout_constraint": _same,
        "mesh_cast": _same,
        "name": _same,
        "pcast": _same,
        "pvary": _same,
        "reduced_vary_cast": _same,
        "reshape": _reshape,
        "reshard": _same,
        "rev": _same,
        "sharding_constraint": _same,
        "slice": _same,
        "squeeze": _squeeze,
        "stop_gradient": _same,
        "transpose": _transpose,
    }
)
