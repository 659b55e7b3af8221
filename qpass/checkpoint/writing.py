"""What every writer of a checkpoint does: files that are synced, names given at once, a lock."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qpass.checkpoint.arrays import to_file
from qpass.checkpoint.manifest import Entry, Part
from qpass.checkpoint.tensors import parts_of, plain
from qpass.errors import CheckpointError


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system takes from a process that ends.

    Raises:
        CheckpointError: another process holds it.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # not on Windows
        yield
        return
    with (folder / ".lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CheckpointError(
                f"Wait, or give another folder: another process is saving into {folder}."
            ) from error
        yield


def shard_name(run: str, number: int) -> str:
    """The name of the file of tensors of that number; `run` sets those of one save apart."""
    return f"tensors-{run}-{number:05}.safetensors"


def entry_of(path: str, leaf: Any, file: str) -> tuple[Entry, dict[str, np.ndarray]]:
    """What the manifest says of a leaf, and its arrays as the file holds them, by their names.

    Args:
        path: of the leaf.
        leaf: an array or a QTensor.
        file: the name of the file that it will be in.

    Raises:
        CheckpointError: it cannot be written; see `qpass.checkpoint.arrays.to_file`.
    """
    parts, arrays = {}, {}
    for part, array in parts_of(leaf).items():
        stored, tensor = to_file(array, path), f"{path}:{part}" if part else path
        shape = tuple(np.shape(array))
        parts[part] = Part(tensor, file, array.dtype.name, shape, digest(stored))
        arrays[tensor] = stored
    return Entry(parts, plain(leaf)), arrays


def digest(stored: np.ndarray) -> str:
    """BLAKE2b of an array's bytes, 16 bytes, in hexadecimal digits."""
    flat = np.ascontiguousarray(stored).reshape(-1).view(np.uint8)
    return hashlib.blake2b(flat.data, digest_size=16).hexdigest()


def write_shard(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file of tensors, and wait until the disk has it.

    Raises:
        CheckpointError: the package safetensors is missing.
    """
    try:
        from safetensors.numpy import save_file
    except ModuleNotFoundError as error:
        raise CheckpointError(
            "Install qpass-jax[checkpoint] to write files: that takes the package safetensors."
        ) from error
    save_file(dict(arrays), file)
    sync(file)


def replace_text(file: Path, text: str) -> None:
    """Give the file that text, at once."""
    scratch = file.with_name(file.name + ".new")
    scratch.write_text(text, encoding="utf-8")
    sync(scratch)
    scratch.replace(file)
    if os.name == "posix":
        sync(file.parent)


def sync(path: Path) -> None:
    """Wait until the disk has it, so that a manifest never outlives what it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def versions() -> dict[str, str]:
    """What a manifest says of the programs that wrote it."""
    return {"qpass": version("qpass-jax"), "jax": jax.__version__}
