"""What a leaf is like: as a checkpoint has it, and as a tree asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from qpass.checkpoint.manifest import Entry
from qpass.checkpoint.tensors import parts_of, plain
from qpass.errors import CheckpointError
from qpass.graph.paths import leaf_path
from qpass.numerics import QTensor
from qpass.suggest import shortened

SHOWN = 5
"""Leaves of each kind that a message names."""


@dataclass(frozen=True)
class Form:
    """What is known of a leaf without its numbers.

    Attributes:
        arrays: dtype and shape of each of its arrays; one called "" where it is an array.
        tensor: what a QTensor is beside them; None of an array.
        shardings: of those arrays that have one.
    """

    arrays: Mapping[str, tuple[str, tuple[int, ...]]]
    tensor: Mapping[str, Any] | None = None
    shardings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = {n: f"{dtype}{list(shape)}" for n, (dtype, shape) in self.arrays.items()}
        if self.tensor is None:
            return shown[""]
        arrays = ", ".join(f"{n}={text}" for n, text in shown.items())
        groups = f", groups={self.tensor['groups']}" if self.tensor["groups"] else ""
        order = f", order={self.tensor['order']}" if self.tensor["order"] else ""
        name = self.tensor["qtype"]["name"]
        return f"{name} of {self.tensor['dtype']} ({arrays}{groups}{order})"


def form_of(entry: Entry) -> Form:
    """That of a leaf in a checkpoint."""
    return Form({n: (p.dtype, p.shape) for n, p in entry.parts.items()}, entry.tensor)


def forms(like: Any) -> dict[str, Form]:
    """Those of a tree's leaves, by path.

    Raises:
        CheckpointError: a leaf without a dtype and a shape.
    """
    keyed = jax.tree_util.tree_leaves_with_path(like, is_leaf=lambda x: isinstance(x, QTensor))
    return {leaf_path(like, keys): _form(leaf, leaf_path(like, keys)) for keys, leaf in keyed}


def _form(leaf: Any, path: str) -> Form:
    parts = parts_of(leaf)
    if not all(hasattr(x, "dtype") and hasattr(x, "shape") for x in parts.values()):
        raise CheckpointError(
            f"Give arrays, jax.ShapeDtypeStructs or QTensors in like=; {path} is a "
            f"{type(leaf).__name__}."
        )
    arrays = {name: (np.dtype(x.dtype).name, tuple(x.shape)) for name, x in parts.items()}
    shardings = {n: s for n, x in parts.items() if (s := getattr(x, "sharding", None)) is not None}
    return Form(arrays, plain(leaf), shardings)


def differences(saved: Mapping[str, Form], wanted: Mapping[str, Form]) -> str:
    """Missing, unexpected and different leaves in words; "" where there are none."""
    missing = [path for path in wanted if path not in saved]
    unexpected = [path for path in saved if path not in wanted]
    different = [
        f"{path} ({saved[path]} there, {wanted[path]} here)"
        for path in wanted
        if path in saved and not _fits(saved[path], wanted[path])
    ]
    texts = {"missing": missing, "unexpected": unexpected, "different": different}
    return "; ".join(f"{kind}: {shortened(found, SHOWN)}" for kind, found in texts.items() if found)


def _fits(saved: Form, wanted: Form) -> bool:
    if saved.tensor is not None and wanted.tensor is None:
        return _stands_for(saved) == wanted.arrays[""]
    return saved.arrays == wanted.arrays and _same(saved.tensor, wanted.tensor)


def _stands_for(form: Form) -> tuple[str, tuple[int, ...]]:
    """Dtype and shape of the float array that a QTensor stands for."""
    assert form.tensor is not None
    _, shape = form.arrays["codes"]
    if form.tensor["packed"] is not None:
        shape = (*shape[:-1], form.tensor["packed"][0])
    order = [axis + len(shape) for axis in form.tensor["order"]]
    first = len(shape) - len(order)
    place = [*range(first), *order]
    return form.tensor["dtype"], tuple(shape[place.index(axis)] for axis in range(len(shape)))


def _same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    if one is None or other is None:
        return one is other
    return {k: _lists(v) for k, v in one.items()} == {k: _lists(v) for k, v in other.items()}


def _lists(value: Any) -> Any:
    """With lists where JSON has no tuples."""
    if isinstance(value, Mapping):
        return {key: _lists(part) for key, part in value.items()}
    return [_lists(part) for part in value] if isinstance(value, list | tuple) else value
