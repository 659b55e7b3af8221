"""Arrays of a checkpoint that PyTorch wrote, without PyTorch: none of its code is run."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from qpass.errors import QPassError

MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {"FloatStorage": np.float32, "LongStorage": np.int64, "HalfStorage": np.float16}


class CheckpointError(QPassError):
    """A file holds something else than arrays by name, or was written in another format."""


@dataclass
class _Storage:
    """Numbers that tensors are views of: read after all tensors are named."""

    dtype: Any
    values: np.ndarray | None = None


@dataclass(frozen=True)
class _View:
    """A tensor: a part of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        """The values, contiguous."""
        values = self.storage.values
        assert values is not None  # every storage that is named is in the file
        steps = [stride * values.itemsize for stride in self.strides]
        whole = np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, steps)
        return np.ascontiguousarray(whole)


class _Reader(pickle.Unpickler):
    """Knows what a dictionary of tensors is made of, and nothing else."""

    def __init__(self, file: BinaryIO, storages: dict[str, _Storage]) -> None:
        super().__init__(file)
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        """A type or function that the file names."""
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
            **{("torch", name): dtype for name, dtype in DTYPES.items()},
        }
        if (module, name) not in known:
            raise CheckpointError(f"Give a dictionary of tensors; this file names {module}.{name}.")
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage by its key; tensors share some."""
        _, dtype, key, *_ = pid
        return self.storages.setdefault(key, _Storage(dtype))


def _rebuilt(
    storage: _Storage, offset: int, shape: tuple, strides: tuple, *rest: Any
) -> np.ndarray | _View:
    return _View(storage, offset, tuple(shape), tuple(strides))


def load(path: Path) -> Mapping[str, np.ndarray]:
    """The tensors of a file in the format of PyTorch before 1.6, by name.

    Raises:
        CheckpointError: it is in another format, or holds something else.
    """
    storages: dict[str, _Storage] = {}
    with path.open("rb") as file:
        if _next(file) != MAGIC:
            raise CheckpointError(f"Give a checkpoint of PyTorch before 1.6; {path} is none.")
        _next(file)  # version of the format
        _next(file)  # sizes of numbers where it was written
        views = _Reader(file, storages).load()
        for key in _next(file):
            (count,) = np.fromfile(file, np.int64, 1)
            storages[key].values = np.fromfile(file, storages[key].dtype, count)
    return {name: view.array() for name, view in views.items()}


def _next(file: BinaryIO) -> Any:
    return _Reader(file, {}).load()
