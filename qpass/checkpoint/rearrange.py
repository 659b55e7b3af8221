"""Axes of a parameter as those of a leaf: `"(n h) d -> d n h"`, for arrays and QTensors alike.

A number is an axis of that size: `"(n h 2) d -> d n (2 h)"` takes pairs apart.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from qpass.checkpoint.formats import Decoded
from qpass.errors import CheckpointError
from qpass.numerics import QTensor
from qpass.numerics.axes import inverse
from qpass.numerics.packing import pack

type Group = tuple[str, ...]

_TOKEN = re.compile(r"\(([^()]*)\)|(\w+)")
UNFOLLOWED = "its scales cannot follow its axes"


@dataclass(frozen=True)
class Axes:
    """Both sides of such a text: an axis is a group of names, which are multiplied.

    Attributes:
        text: as it was written.
        left: the axes of the parameter.
        right: the axes of the leaf.
    """

    text: str
    left: tuple[Group, ...]
    right: tuple[Group, ...]


def parse(text: str) -> Axes:
    """Both sides of the text.

    Raises:
        CheckpointError: there are not two, or they do not have the same names once each.
    """
    sides = text.split("->")
    parsed = [tuple(map(_group, _TOKEN.finditer(side))) for side in sides]
    names = [[name for group in side for name in group] for side in parsed]
    plain = all(not _TOKEN.sub("", side).strip() for side in sides)
    if len(sides) != 2 or not plain or sorted(names[0]) != sorted(names[-1]):
        raise CheckpointError(_hint(text, "it does not say the same axes on both sides"))
    if len(set(names[0])) != len(names[0]):
        raise CheckpointError(_hint(text, "an axis stands on one side twice"))
    return Axes(text, parsed[0], parsed[1])


def rearrange(found: Decoded, text: str, shape: tuple[int, ...], where: str) -> Decoded:
    """A parameter with its axes moved; dense where its scales cannot follow, with the reason.

    Args:
        found: the parameter.
        text: what becomes of its axes; "" where that follows from the shapes.
        shape: of the leaf.
        where: the parameter and its file.

    Raises:
        CheckpointError: shapes that do not fit, or a square matrix without a text.
    """
    value = found.value
    axes = parse(text or _implied(value.shape, shape, where))
    steps = _steps(axes, _sizes(axes, value.shape, shape, where))
    if not isinstance(value, QTensor):
        return Decoded(_array_moved(value, steps), found.reason)
    if (moved := _moved(value, steps)) is not None:
        return Decoded(moved, found.reason)
    return Decoded(_array_moved(value.dequantize(), steps), UNFOLLOWED)


@dataclass(frozen=True)
class Steps:
    """How axes move: they are split, permuted, merged, and the merged ones permuted.

    What lies last in memory, which products contract in checkpoints, is merged last of all: else
    codes would have to be moved from where kernels read them.

    Attributes:
        split: sizes of all names in the order of the parameter.
        perm: names in the order in which they are merged.
        merged: sizes of the leaf's axes in that order.
        last: the leaf's axes out of these.
    """

    split: tuple[int, ...]
    perm: tuple[int, ...]
    merged: tuple[int, ...]
    last: tuple[int, ...]


def _steps(axes: Axes, sizes: dict[str, int]) -> Steps:
    names = _flat(axes.left)
    order = sorted(range(len(axes.right)), key=lambda i: names[-1] in axes.right[i])
    groups = [axes.right[i] for i in order]
    return Steps(
        tuple(sizes[name] for name in names),
        tuple(names.index(name) for group in groups for name in group),
        tuple(math.prod(sizes[name] for name in group) for group in groups),
        inverse(order),
    )


def _array_moved(value: jax.Array, steps: Steps) -> jax.Array:
    merged = value.reshape(steps.split).transpose(steps.perm).reshape(steps.merged)
    return merged.transpose(steps.last)


def _moved(q: QTensor, steps: Steps) -> QTensor | None:
    """No code moves but where axes are merged that do not follow each other."""
    parted = _reshaped(q, steps.split)
    merged = None if parted is None else _reshaped(parted.transpose(steps.perm), steps.merged)
    return None if merged is None else merged.transpose(steps.last)


def _reshaped(q: QTensor, shape: tuple[int, ...]) -> QTensor | None:
    """`QTensor.reshape` of a whole tensor, which stays as densely stored as it was."""
    if shape == q.shape:
        return q
    wide = replace(q, scale=q.scale.astype(jnp.float32), outer=None)
    found = wide.reshape(shape)
    if found is None:
        return None
    codes = pack(found.codes, q.qtype.packed) if q.qtype.packed else found.codes
    outer = None if q.outer is None else q.outer.reshape((1,) * len(shape))
    return replace(found, codes=codes, scale=found.scale.astype(q.scale.dtype), outer=outer)


def _implied(have: tuple[int, ...], want: tuple[int, ...], where: str) -> str:
    """What the shapes say by themselves: axes stay, or two of different sizes change places."""
    names = " ".join(f"a{i}" for i in range(len(have)))
    if len(have) == 2 and have[0] == have[1] and want == have:
        raise CheckpointError(
            f"Say what becomes of the axes of {where}, as To(path, 'out in -> in out'): it is "
            f"square, {list(have)}, and its shape does not tell."
        )
    if have == want:
        return f"{names} -> {names}"
    if len(have) == 2 and want == have[::-1]:
        return "a b -> b a"
    raise CheckpointError(
        f"Say what becomes of the axes of {where}, as To(path, '(n h) d -> d n h'): it is "
        f"{list(have)}, and the leaf {list(want)}."
    )


def _sizes(axes: Axes, have: tuple[int, ...], want: tuple[int, ...], where: str) -> dict[str, int]:
    """The size of each name: its number, its axis where that has no other, or what is left."""
    sides = ((axes.left, have), (axes.right, want))
    if any(len(groups) != len(shape) for groups, shape in sides):
        raise CheckpointError(_unfit(axes, have, want, where))
    pairs = [pair for groups, shape in sides for pair in zip(groups, shape, strict=True)]
    sizes = {name: int(name) for name in _flat(axes.left) if name.isdecimal()}
    sizes |= {group[0]: size for group, size in pairs if len(group) == 1}
    for group, size in pairs:
        unknown = [name for name in group if name not in sizes]
        known = math.prod(sizes[name] for name in group if name in sizes)
        if len(unknown) == 1 and known and size % known == 0:
            sizes[unknown[0]] = size // known
    if any(math.prod(sizes.get(name, -1) for name in group) != size for group, size in pairs):
        raise CheckpointError(_unfit(axes, have, want, where))
    return sizes


def _unfit(axes: Axes, have: tuple[int, ...], want: tuple[int, ...], where: str) -> str:
    return (
        f"Mend the axes {axes.text!r} of {where}: they do not lead from {list(have)} to the leaf's "
        f"{list(want)}."
    )


def _hint(text: str, why: str) -> str:
    return f"Write axes as 'out in -> in out' or '(n h) d -> d n h'; of {text!r} {why}."


def _group(match: re.Match) -> Group:
    return (match[2],) if match[2] else tuple(match[1].split())


def _flat(groups: tuple[Group, ...]) -> list[str]:
    return [name for group in groups for name in group]
