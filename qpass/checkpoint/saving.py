"""Write a tree of parameters as safetensors files and a manifest, which is replaced at once.

A save writes files under new names, then the manifest under another name, and at last gives that
its own: until then the folder is the old checkpoint, from then on the new one. Files that no
manifest names, of earlier checkpoints or of a save that was killed, are removed by the next save.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qpass.checkpoint.containers import structure
from qpass.checkpoint.manifest import NAME, SHARD, Entry, Manifest, read_manifest
from qpass.checkpoint.writing import (
    alone,
    entry_of,
    replace_text,
    shard_name,
    versions,
    write_shard,
)
from qpass.errors import CheckpointError
from qpass.graph.paths import leaf_path
from qpass.numerics import QTensor
from qpass.plan import Plan
from qpass.suggest import shortened

SHARD_BYTES = 2**28
"""Bytes after which the next file begins: what is held in memory beside the parameters."""


def save(
    path: str | PathLike,
    params: Any,
    plan: Plan | None = None,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Write parameters into a folder; whoever reads meanwhile finds the old ones or the new ones.

    Args:
        path: a folder that is not there, is empty, or holds a checkpoint of qpass, which is
            replaced. Its files are safetensors; other programs can read their arrays.
        params: a pytree of arrays and QTensors, with all of their types, scales and zero points.
        plan: kept beside, for people to read: the decision about each product.
        record: how the parameters were made; plain values that JSON has.

    Raises:
        CheckpointError: a leaf that is no array of this process, a folder with other things in it,
            another save into it, or the package safetensors is missing.
    """
    folder = Path(path)
    leaves = _leaves(params)
    _make_room(folder)
    with alone(folder):
        _remove_unnamed(folder)
        tree = structure(params, lambda x: isinstance(x, QTensor))
        entries = dict(_written(folder, leaves))
        decisions = None if plan is None else _plain_json(plan)
        manifest = Manifest(entries, tree, decisions, _as_dict(record), versions())
        replace_text(folder / NAME, manifest.to_json())
        _remove_unnamed(folder)


def _leaves(params: Any) -> dict[str, Any]:
    keyed = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda x: isinstance(x, QTensor))
    leaves: dict[str, Any] = {}
    for keys, leaf in keyed:
        name = leaf_path(params, keys)
        if name in leaves:
            raise CheckpointError(f"Rename one of two leaves: both have the path {name!r}.")
        leaves[name] = leaf
        if isinstance(leaf, QTensor):
            leaf.check(name)
    return leaves


def _make_room(folder: Path) -> None:
    """The folder, unless there are other things in it that a save has no business with."""
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"Give a folder to save into; {folder} is a file.")
    folder.mkdir(parents=True, exist_ok=True)
    others = [file.name for file in folder.iterdir() if not _is_ours(file.name)]
    if others and not (folder / NAME).is_file():
        raise CheckpointError(
            f"Give a new folder, an empty one, or a checkpoint to replace: {folder} holds "
            f"{shortened(sorted(others), 3)}."
        )


def _is_ours(name: str) -> bool:
    return name in (NAME, NAME + ".new", ".lock") or SHARD.fullmatch(name) is not None


def _remove_unnamed(folder: Path) -> None:
    named = frozenset()
    if (folder / NAME).is_file():
        try:
            named = read_manifest(folder).files
        except CheckpointError:  # damaged, or of another version: it may yet be of use to somebody
            return
    for file in folder.iterdir():
        if SHARD.fullmatch(file.name) and file.name not in named:
            file.unlink()


def _written(folder: Path, leaves: Mapping[str, Any]) -> Iterator[tuple[str, Entry]]:
    """Write all leaves; their entries, in order."""
    run, number = secrets.token_hex(4), 0
    held: dict[str, np.ndarray] = {}
    for path, leaf in leaves.items():
        file = shard_name(run, number)
        entry, arrays = entry_of(path, leaf, file)
        held |= arrays
        yield path, entry
        if sum(array.nbytes for array in held.values()) >= SHARD_BYTES:
            write_shard(folder / file, held)
            held, number = {}, number + 1
    if held:
        write_shard(folder / shard_name(run, number), held)


def _plain_json(plan: Plan) -> Any:
    return json.loads(plan.to_json())


def _as_dict(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if record is None else dict(record)
