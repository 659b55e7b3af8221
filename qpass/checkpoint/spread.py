"""The way back of `mapping.fill`: parameters of a function by the names of a checkpoint."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from qpass.checkpoint.formats import Decoded
from qpass.checkpoint.formats.leaves import Value
from qpass.checkpoint.rearrange import parse, rearrange
from qpass.checkpoint.templates import WEIGHT, To, pattern_of, places_of
from qpass.errors import CheckpointError
from qpass.graph.paths import leaf_path
from qpass.numerics import QTensor
from qpass.suggest import did_you_mean, shortened


def spread(params: Any, names: Mapping[str, str | To]) -> dict[str, Value]:
    """What `fill` with the same templates makes these parameters of.

    Args:
        params: a pytree of arrays and QTensors.
        names: by template of a name. `.weight` is added to names of matrices that end in no
            `.weight`, and to those of vectors. Matrices need `To` with their axes.

    Raises:
        CheckpointError: a leaf that no template names, or that its axes do not fit.
    """
    keyed = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda x: isinstance(x, QTensor))
    leaves = {leaf_path(params, keys): leaf for keys, leaf in keyed}
    found: dict[str, Value] = {}
    left = dict(leaves)
    for template, target in names.items():
        to = target if isinstance(target, To) else To(target)
        pattern, _ = pattern_of(to.path)
        matched = [(path, m) for path in left if (m := pattern.fullmatch(path))]
        if not matched:
            raise CheckpointError(
                f"Take {template!r} out, or mend it: {to.path!r} fits no leaf that another one "
                f"has not taken: {did_you_mean(to.path, leaves, cutoff=0.3)}"
            )
        for path, match in matched:
            found |= dict(_parameters(template, to, path, left.pop(path), match))
    if left:
        raise CheckpointError(f"Name {shortened(left, 5)} too: no template leads there.")
    return found


def _parameters(
    template: str, to: To, path: str, leaf: Any, match: re.Match
) -> Iterator[tuple[str, Value]]:
    """The parameters of one leaf: one for each index of its stacked axes."""
    inside = places_of(to.path)
    stacked = [p for p in dict.fromkeys(places_of(template)) if p not in inside]
    sizes = leaf.shape[: len(stacked)]
    whole = leaf.stacked(len(stacked)) if isinstance(leaf, QTensor) else leaf
    for index in itertools.product(*map(range, sizes)):
        places = match.groupdict() | dict(zip(stacked, map(str, index), strict=True))
        one = jax.tree.map(lambda x, index=index: x[index], whole) if index else whole
        name = template.format_map(places)
        yield _full(name), _moved(one, to.axes, f"{path}{list(index) or ''}")


def _full(name: str) -> str:
    last = name.rsplit(".", 1)[-1]
    return name if last in ("weight", "bias") else name + WEIGHT


def _moved(value: Value, text: str, where: str) -> Value:
    if not text:
        if len(value.shape) > 1:
            raise CheckpointError(
                f"Say what becomes of the axes of {where}, as To(path, 'out in -> in out'): "
                "shapes alone do not tell the way back."
            )
        return value
    axes = parse(text)
    if any(len(group) != 1 for group in axes.right) or len(axes.right) != len(value.shape):
        raise CheckpointError(
            f"Name each of the {len(value.shape)} axes of {where} on the right of {text!r}, "
            "without brackets: the way back starts there."
        )
    sizes = {group[0]: n for group, n in zip(axes.right, value.shape, strict=True)}
    shape = tuple(math.prod(sizes[name] for name in group) for group in axes.left)
    left, right = text.split("->")
    found = rearrange(Decoded(value), f"{right} -> {left}", shape, where)
    if found.reason:
        raise CheckpointError(f"Dequantize {where} before it is spread: {found.reason}.")
    return found.value
