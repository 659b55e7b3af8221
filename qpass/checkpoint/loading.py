"""Read what `qpass.save` wrote: all of it, or what a tree of the same paths asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qpass.checkpoint.arrays import from_file, stored_form
from qpass.checkpoint.containers import rebuilt
from qpass.checkpoint.formats.tensors import Tensors, open_files
from qpass.checkpoint.likeness import Form, differences, form_of, forms
from qpass.checkpoint.manifest import NAME, Entry, Manifest, Part, as_dtype, read_manifest
from qpass.checkpoint.tensors import assembled
from qpass.checkpoint.writing import digest
from qpass.errors import CheckpointError, QPassError
from qpass.numerics import QTensor

DAMAGE = (ValueError, TypeError, LookupError, AttributeError, RecursionError, QPassError)
"""What values that nobody checked may raise."""


def load(path: str | PathLike, like: Any = None, *, verify: bool = True) -> Any:
    """The parameters in a folder that `qpass.save` wrote.

    Args:
        path: the folder.
        like: a tree with the same leaves, whose containers and shardings the result has, as
            `jax.eval_shape(q.quantize, params, *args)`. QTensors in it, arrays or
            `jax.ShapeDtypeStruct`s, say how a leaf is to be stored; where it has a float array, a
            QTensor that stands for one will do. None: the containers that were saved, if these
            are dicts, lists and tuples.
        verify: compare every array with the digest that was written with it. Without, files are
            read where arrays are put on devices, and no earlier.

    Raises:
        CheckpointError: a damaged or missing file, or leaves that are not those of `like`: the
            message lists what is missing, unexpected and different.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if like is None and manifest.tree is None:
        raise CheckpointError(
            f"Give like=, a tree with the containers that were saved: those in {folder} are not "
            "dicts, lists and tuples alone."
        )
    source = _Source(folder, manifest, _open(folder, manifest), verify)
    if like is None:
        return source.tree()
    wanted = forms(like)
    source.check(wanted)
    leaves = [source.leaf(path, form) for path, form in wanted.items()]
    structure = jax.tree.structure(like, is_leaf=lambda x: isinstance(x, QTensor))
    return jax.tree.unflatten(structure, leaves)


def describe(path: str | PathLike) -> Manifest:
    """What a checkpoint says of itself: its leaves, the plan, the record, versions.

    Raises:
        CheckpointError: a damaged or missing manifest.
    """
    return read_manifest(Path(path))


def _open(folder: Path, manifest: Manifest) -> Mapping[str, Tensors]:
    missing = sorted(name for name in manifest.files if not (folder / name).is_file())
    if missing:
        raise CheckpointError(f"Fetch {folder / missing[0]}: {folder / NAME} names it.")
    return {name: open_files([folder / name]) for name in manifest.files}


@dataclass(frozen=True)
class _Source:
    """An opened checkpoint."""

    folder: Path
    manifest: Manifest
    files: Mapping[str, Tensors]
    verify: bool

    def check(self, wanted: Mapping[str, Form]) -> None:
        """Hold the leaves against those that are asked for."""
        try:
            found = differences({p: form_of(e) for p, e in self.manifest.leaves.items()}, wanted)
        except DAMAGE as error:
            raise self._damaged(error) from error
        if found:
            raise CheckpointError(
                f"Load {self.folder} for the function and rules that it was saved for, or "
                f"quantize again: it differs from what is asked for in {found}."
            )

    def tree(self) -> Any:
        """The containers that were saved."""
        leaves = [self.leaf(path) for path in self.manifest.leaves]
        try:
            return rebuilt(self.manifest.tree, leaves)
        except DAMAGE as error:
            raise self._damaged(error) from error

    def leaf(self, path: str, form: Form | None = None) -> Any:
        """A leaf, where its form says on the devices of that."""
        entry: Entry = self.manifest.leaves[path]
        shardings = form.shardings if form else {}
        parts = {
            name: _placed(self._array(part), shardings.get(name))
            for name, part in entry.parts.items()
        }
        try:
            return assembled(parts, entry.tensor)
        except DAMAGE as error:
            raise self._damaged(error) from error

    def _array(self, part: Part) -> np.ndarray:
        tensors = self.files[part.file]
        if part.tensor not in tensors:
            raise CheckpointError(
                f"Fetch {self.folder / part.file} again: {NAME} says that it holds {part.tensor}."
            )
        stored = tensors.at(part.tensor)
        dtype = as_dtype(part.dtype)
        if (stored.dtype, stored.shape) != stored_form(dtype, part.shape):
            raise CheckpointError(
                f"Fetch {stored.file} again: {part.tensor} is {stored.dtype}{list(stored.shape)} "
                f"there, and {NAME} says {part.dtype}{list(part.shape)}."
            )
        array = stored.read()
        if self.verify and digest(array) != part.digest:
            raise CheckpointError(
                f"Fetch {stored.file} again: the bytes of {part.tensor} are not those written."
            )
        return from_file(array, dtype, part.shape)

    def _damaged(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"Fetch {self.folder / NAME} again: it is damaged ({type(error).__name__}: {error})."
        )


def _placed(array: np.ndarray, sharding: Any) -> jax.Array:
    """On the devices of a sharding, each of which reads its own part; else on the default one."""
    if sharding is None:
        return jax.numpy.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
