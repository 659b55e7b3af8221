"""One safetensors file, a folder of them, or those of an index, with each tensor accounted for."""

from __future__ import annotations

import json
from pathlib import Path, PurePath

from qpass.checkpoint.formats.tensors import Tensors, open_files, open_folder
from qpass.errors import CheckpointError
from qpass.suggest import shortened

SUFFIX = ".safetensors.index.json"


def open_source(source: Path) -> Tensors:
    """The tensors of a `.safetensors` file, of a folder, or of what an index names.

    In a folder with an index that index counts; without one, all its `.safetensors` files.

    Raises:
        CheckpointError: it is none of these, a file is missing or damaged, or the files do not hold
            what the index says.
    """
    if source.is_dir():
        found = sorted(file for file in source.iterdir() if file.name.endswith(SUFFIX))
        if len(found) > 1:
            raise CheckpointError(f"Give one index of {shortened(map(str, found), 3)}.")
        return _indexed(found[0]) if found else open_folder(source)
    if not source.is_file():
        raise CheckpointError(f"Give a safetensors file, its index, or a folder; got {source}.")
    return _indexed(source) if source.name.endswith(".json") else open_files([source])


def _indexed(index: Path) -> Tensors:
    files = _weight_map(index)
    for name in sorted(set(files.values())):
        if PurePath(name).name != name or not (index.parent / name).is_file():
            raise CheckpointError(f"Fetch {name!r} beside {index}, which names it: it is no file.")
    tensors = open_files([index.parent / name for name in sorted(set(files.values()))])
    held = {name: stored.file.name for name, stored in tensors.stored.items()}
    if wrong := sorted(name for name in {*held, *files} if held.get(name) != files.get(name)):
        raise CheckpointError(
            f"Fetch {index} and its files again: they do not agree on {shortened(wrong, 3)}."
        )
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    try:
        files = json.loads(index.read_bytes())["weight_map"]
        if not all(isinstance(file, str) for file in files.values()):
            raise TypeError("names of files are texts")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"Fetch {index} again: it is no index of files ({type(error).__name__}: {error})."
        ) from error
    return files
