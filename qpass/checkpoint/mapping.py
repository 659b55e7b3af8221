"""Parameters of a function from a checkpoint of another library, by templates of names.

Every leaf of the function and every parameter of the checkpoint is accounted for: one that is left
over on either side is an error that names what is near it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qpass.checkpoint.fit import KEPT_FLOAT, fitted, quantizer_of, storage_of
from qpass.checkpoint.formats import Decoded, Imported
from qpass.checkpoint.formats.leaves import Value
from qpass.checkpoint.rearrange import rearrange
from qpass.checkpoint.templates import Part, To, assign, stack_shape
from qpass.errors import CheckpointError
from qpass.graph.paths import leaf_path
from qpass.numerics import QTensor
from qpass.plan import Plan
from qpass.suggest import did_you_mean, shortened

MIXED = "its layers are quantized differently"


@dataclass(frozen=True)
class Row:
    """What became of a leaf.

    Attributes:
        path: of the leaf.
        names: of the parameters that it was made of.
        how: "codes kept: int4 g128", "dequantized: ..." with the reason, or "float".
    """

    path: str
    names: tuple[str, ...]
    how: str

    def __str__(self) -> str:
        return f"{self.path}: {self.how} ({shortened(self.names, 2)})"


@dataclass(frozen=True)
class Filled:
    """Parameters with the leaves of a checkpoint.

    Attributes:
        params: a tree of the structure that was asked for.
        report: what became of each leaf.
    """

    params: Any
    report: tuple[Row, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.report))


def fill(
    like: Any,
    source: Imported,
    names: Mapping[str, str | To],
    *,
    plan: Plan | None = None,
    by_shape: bool = False,
    skip: Sequence[str] = (),
    keep: Sequence[str] = (),
) -> Filled:
    """The parameters of a function, with the values and codes of a checkpoint.

    Args:
        like: a tree of the parameters: arrays, or `jax.ShapeDtypeStruct`. Leaves get its dtypes.
        source: the checkpoint.
        names: where each parameter goes, by template of its name:
            `{"model.layers.{i}.mlp.up_proj": To("layers/up/kernel", "out in -> in out")}`.
            Without `To`, axes stay, or two of different sizes change places where the shape says
            so.
        plan: of the function that the parameters are for: leaves are stored as it stores them, and
            those that it keeps float are dequantized.
        by_shape: take what is left over where only one leaf and one parameter have its shape.
        skip: globs of parameters that no leaf needs.
        keep: globs of leaves that stay what they are in `like`.

    Returns:
        the parameters, and what became of each leaf.

    Raises:
        CheckpointError: something is left over, shapes do not fit, or the plan stores a leaf in
            another way.
    """
    keyed, tree = jax.tree_util.tree_flatten_with_path(like)
    leaves = {leaf_path(like, keys): leaf for keys, leaf in keyed}
    wanted = {path: leaf for path, leaf in leaves.items() if not _fits(path, keep)}
    given = [name for name in source if not _fits(name, skip)]
    parts = assign(given, names)
    if by_shape:
        parts |= _by_shape(wanted, source, given, parts)
    _check_all(wanted, source, given, parts)
    storage = None if plan is None else storage_of(plan)
    rows, values = [], dict(leaves)
    for path, leaf in wanted.items():
        found = _leaf(path, leaf, source, parts[path])
        if storage is not None and isinstance(found.value, QTensor):
            reason = found.reason if path in storage else KEPT_FLOAT
            found = Decoded(fitted(found.value, storage.get(path), path), reason)
        values[path] = found.value
        rows.append(Row(path, tuple(part.name for part in parts[path]), _how(found)))
    return Filled(jax.tree_util.tree_unflatten(tree, list(values.values())), tuple(rows))


def _leaf(path: str, leaf: Any, source: Imported, parts: list[Part]) -> Decoded:
    sizes = stack_shape(path, parts)
    if leaf.shape[: len(sizes)] != sizes:
        raise CheckpointError(
            f"Give {path} the parameters of all its layers: it is {list(leaf.shape)}, and the "
            f"checkpoint has {'x'.join(map(str, sizes))} of them."
        )
    shape, dtype = leaf.shape[len(sizes) :], np.dtype(leaf.dtype)
    ordered = sorted(parts, key=lambda part: part.index)
    found = [_part(part, shape, dtype, source) for part in ordered]
    return found[0] if not sizes else _stacked(found, sizes)


def _part(part: Part, shape: tuple[int, ...], dtype: np.dtype, source: Imported) -> Decoded:
    where = source.where(part.name)
    found = rearrange(source.decode(part.name), part.axes, shape, where)
    value = found.value.astype(dtype)
    if value is None:
        raise CheckpointError(
            f"Give {where} a leaf of a float dtype; it is quantized, not {dtype}."
        )
    return Decoded(value, found.reason)


def _stacked(found: list[Decoded], sizes: tuple[int, ...]) -> Decoded:
    """One leaf of many, along new first axes."""
    values, reason = [part.value for part in found], next((p.reason for p in found if p.reason), "")
    if any(isinstance(value, QTensor) for value in values):
        values, alike = _alike(values)
        reason = "" if alike else reason or MIXED

    def join(*arrays: jax.Array) -> jax.Array:
        return jnp.stack(arrays).reshape(*sizes, *arrays[0].shape)

    return Decoded(jax.tree.map(join, *values), reason)


def _alike(values: Sequence[Value]) -> tuple[Sequence[Value], bool]:
    """Values of one structure: QTensors where all are and fit each other, else arrays."""
    if all(isinstance(value, QTensor) for value in values):
        filled = _zeros_for_all(values)
        kinds = {
            (jax.tree.structure(q), tuple(x.shape for x in jax.tree.leaves(q))) for q in filled
        }
        if len(kinds) == 1:
            return filled, True
    dense = [value.dequantize() if isinstance(value, QTensor) else value for value in values]
    return dense, False


def _zeros_for_all(values: Sequence[Any]) -> Sequence[QTensor]:
    """Zero points for those without, where another has them; floats where another has floats."""
    dtypes = [q.zero.dtype for q in values if q.zero is not None]
    if not dtypes:
        return values
    dtype = jnp.result_type(*dtypes)

    def zero(q: QTensor) -> jax.Array:
        return jnp.full(q.scale.shape, q.qtype.middle, dtype) if q.zero is None else q.zero

    return [replace(q, zero=zero(q).astype(dtype)) for q in values]


def _how(found: Decoded) -> str:
    if isinstance(found.value, QTensor):
        return f"codes kept: {quantizer_of(found.value)}"
    return f"dequantized: {found.reason}" if found.reason else "float"


def _fits(text: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(text, glob) for glob in globs)


def _by_shape(
    wanted: Mapping[str, Any], source: Imported, given: list[str], parts: Mapping[str, list[Part]]
) -> dict[str, list[Part]]:
    """What is left over, where one leaf and one parameter alone have a shape."""
    taken = {part.name for group in parts.values() for part in group}
    free = [name for name in given if name not in taken]
    open_paths = [path for path in wanted if path not in parts]
    found = {}
    for path in open_paths:
        key = _sizes_of(wanted[path].shape)
        rivals = [other for other in open_paths if _sizes_of(wanted[other].shape) == key]
        fitting = [name for name in free if _sizes_of(source.shape(name)) == key]
        if len(rivals) == len(fitting) == 1:
            found[path] = [Part(fitting[0], (), "")]
    return found


def _sizes_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A matrix and its transpose alike."""
    return tuple(sorted(shape)) if len(shape) == 2 else tuple(shape)


def _check_all(
    wanted: Mapping[str, Any],
    source: Imported,
    given: list[str],
    parts: Mapping[str, list[Part]],
) -> None:
    taken = {part.name for group in parts.values() for part in group}
    over = [name for name in given if name not in taken]
    lacking = [path for path in wanted if path not in parts]
    if unknown := [path for path in parts if path not in wanted]:
        raise CheckpointError(
            f"Name a leaf of the parameters; {unknown[0]!r} is none: "
            f"{did_you_mean(unknown[0], wanted, cutoff=0.3)}"
        )
    if lacking:
        named = _dotted(lacking[0])
        raise CheckpointError(
            f"Say which parameter of the checkpoint is {shortened(lacking, 5)}, or keep it as it "
            f"is with keep=. Of {len(over)} that are left over "
            f"{did_you_mean(named, over, cutoff=0.2) or 'none is near'}"
        )
    if over:
        shapes = [f"{name} {list(source.shape(name))}" for name in over]
        near = did_you_mean(over[0].replace(".", "/"), wanted, cutoff=0.2)
        raise CheckpointError(
            f"Say which leaf {shortened(shapes, 5)} goes to, or leave it out with skip=. {near}"
        )


def _dotted(path: str) -> str:
    return path.replace("/", ".")
