"""The raw tensors of a model in safetensors files: read one by one, from memory-mapped files."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from qpass.errors import CheckpointError
from qpass.suggest import did_you_mean

_NAMES = {
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BOOL": np.bool_,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}
DTYPES: Mapping[str, np.dtype] = {name: np.dtype(dtype) for name, dtype in _NAMES.items()}
"""numpy's dtypes by the names that safetensors headers have for them."""

_MOST_HEADER = 100_000_000  # bytes; the limit that the safetensors library itself sets


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies.

    Attributes:
        file: its file.
        dtype: of its elements.
        shape: as stored.
        offset: of its first byte in the file.
    """

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    def read(self) -> np.ndarray:
        """The elements; a view of the mapped file, which is read where it is looked at."""
        count = math.prod(self.shape)
        if not count:
            return np.zeros(self.shape, self.dtype)
        raw = np.memmap(self.file, np.uint8, "r", self.offset, (count * self.dtype.itemsize,))
        return raw.view(self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a model by name, read when they are asked for.

    Attributes:
        stored: where each of them lies.
    """

    stored: Mapping[str, Stored]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.at(name).read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def __contains__(self, name: object) -> bool:
        return name in self.stored

    def at(self, name: str) -> Stored:
        """Where that tensor lies.

        Raises:
            CheckpointError: there is none of that name.
        """
        if name not in self.stored:
            meant = did_you_mean(name, self.stored)
            raise CheckpointError(f"Name a tensor of the checkpoint; {name!r} is none: {meant}")
        return self.stored[name]

    def where(self, name: str) -> str:
        """The tensor and its file, for errors."""
        return f"{name} in {self.stored[name].file}" if name in self.stored else name


def open_folder(folder: Path) -> Tensors:
    """All tensors of the safetensors files in a folder.

    Raises:
        CheckpointError: there is no such file, one is damaged, or two hold the same name.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"Give a folder with .safetensors files; {folder} holds none.")
    return open_files(files)


def open_files(files: list[Path]) -> Tensors:
    """All tensors of those safetensors files.

    Raises:
        CheckpointError: as `open_folder`.
    """
    found: dict[str, Stored] = {}
    for file in files:
        for name, stored in _read_header(file).items():
            if name in found:
                raise CheckpointError(
                    f"Keep one of two files: both {found[name].file} and {file} hold {name}."
                )
            found[name] = stored
    return Tensors(found)


def _read_header(file: Path) -> dict[str, Stored]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(size - 8, _MOST_HEADER):
            raise CheckpointError(
                f"Fetch {file} again: it is cut off or no safetensors file. It has {size} bytes, "
                f"and says that its header alone takes {length}."
            )
        header = _parse(opened.read(length), file)
    return {
        name: _stored(file, name, entry, 8 + length, size)
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _parse(text: bytes, file: Path) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"Fetch {file} again: its header is no JSON ({error}).") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"Fetch {file} again: its header is no JSON object.")
    return header


def _stored(file: Path, name: str, entry: Any, start: int, size: int) -> Stored:
    try:
        dtype, shape = DTYPES[entry["dtype"]], tuple(map(operator.index, entry["shape"]))
        first, last = map(operator.index, entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"Fetch {file} again, or leave {name} out: its header says {entry!r} of it, which is "
            f"not understood ({type(error).__name__}: {error})."
        ) from error
    is_whole = last - first == math.prod(shape) * dtype.itemsize and min(shape, default=0) >= 0
    if not (is_whole and first >= 0 and start + last <= size):
        raise CheckpointError(
            f"Fetch {file} again: {name} is said to be {entry['dtype']}{list(shape)} in the bytes "
            f"{first} to {last} of {size - start}, which does not fit."
        )
    return Stored(file, dtype, shape, start + first)
