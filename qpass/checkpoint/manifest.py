"""The manifest of a checkpoint: what each leaf is made of, where its parts lie, and who made it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qpass.errors import CheckpointError

NAME = "manifest.json"
FORMAT = "qpass/1"
SHARD = re.compile(r"tensors-[0-9a-f]{8}-[0-9]{5}\.safetensors")
"""Names of files with tensors: nothing that leads out of the folder."""
_MOST = 100_000_000  # bytes of a manifest, as of a safetensors header


@dataclass(frozen=True)
class Part:
    """One array.

    Attributes:
        tensor: its name in the file.
        file: the file's name.
        dtype: name of its own dtype; the file may hold its bytes.
        shape: its own shape.
        digest: BLAKE2b of the bytes in the file, 16 bytes, in hexadecimal digits.
    """

    tensor: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    digest: str


@dataclass(frozen=True)
class Entry:
    """A leaf.

    Attributes:
        parts: its arrays; one called "" where the leaf is an array.
        tensor: what a QTensor is beside its arrays (`qpass.checkpoint.tensors`); None of an array.
    """

    parts: Mapping[str, Part]
    tensor: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Manifest:
    """All that a checkpoint says of itself.

    Attributes:
        leaves: by path, in the order of the tree.
        tree: the containers as `qpass.checkpoint.containers` writes them; None where they are not
            of Python's own.
        plan: the decisions of a plan as its JSON has them; None where none was given.
        record: how the parameters were made, as the caller gave it; None where nothing was.
        versions: of qpass and jax that wrote it.
    """

    leaves: Mapping[str, Entry]
    tree: Any = None
    plan: Any = None
    record: Any = None
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> frozenset[str]:
        """The files that hold tensors."""
        return frozenset(p.file for entry in self.leaves.values() for p in entry.parts.values())

    def to_json(self) -> str:
        """The text of the file.

        Raises:
            CheckpointError: the record is no JSON.
        """
        body = asdict(self)
        try:
            head = {"format": FORMAT, "digest": _digest(body)}
            return json.dumps({**head, **body}, indent=1, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"Give a record of plain values that JSON has: {error}."
            ) from error


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        CheckpointError: there is none, it is damaged, or of another version of the format.
    """
    file = folder / NAME
    if not file.is_file():
        raise CheckpointError(f"Give the folder that qpass.save wrote; {folder} has no {NAME}.")
    if file.stat().st_size > _MOST:
        raise CheckpointError(f"Fetch {file} again: it has {file.stat().st_size} bytes.")
    try:
        found = json.loads(file.read_bytes(), object_pairs_hook=_once, parse_constant=_no_number)
        return _parsed(found, file)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"Fetch {file} again: it is damaged ({type(error).__name__}: {error})."
        ) from error


def _digest(body: Mapping[str, Any]) -> str:
    """BLAKE2b of the values, however they are set out."""
    text = json.dumps(body, sort_keys=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key that is there twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _parsed(found: Any, file: Path) -> Manifest:
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        said = found.get("format") if isinstance(found, dict) else found
        raise CheckpointError(
            f"Read {file} with the qpass that wrote it: its format is {str(said)[:50]!r}, and this "
            f"one reads {FORMAT!r}."
        )
    body = {name: part for name, part in found.items() if name not in ("format", "digest")}
    if found["digest"] != _digest(body):
        raise ValueError("it is not what was written")
    leaves = {path: _entry(entry) for path, entry in _mapping(found["leaves"]).items()}
    return Manifest(
        leaves, found["tree"], found["plan"], found["record"], _mapping(found["versions"])
    )


def _entry(found: Any) -> Entry:
    parts = {name: _part(part) for name, part in _mapping(found["parts"]).items()}
    return Entry(parts, None if found["tensor"] is None else _mapping(found["tensor"]))


def _part(found: Any) -> Part:
    shape = tuple(found["shape"])
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"the shape {shape}")
    texts = [found[name] for name in ("tensor", "file", "dtype", "digest")]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{found!r} for a tensor")
    tensor, file, dtype, digest = texts
    if not SHARD.fullmatch(file):
        raise ValueError(f"a file called {file!r}")
    as_dtype(dtype)
    return Part(tensor, file, dtype, shape, digest)


def as_dtype(name: Any) -> np.dtype:
    """The dtype of that name.

    Raises:
        ValueError: there is none.
    """
    known = getattr(jnp, name, None) if isinstance(name, str) and name.isidentifier() else None
    try:
        dtype = jnp.dtype(known or np.dtype(name))
        jax.dtypes.itemsize_bits(dtype)  # of numbers alone
        return dtype
    except (TypeError, ValueError) as error:
        raise ValueError(f"the dtype {name!r}") from error


def _mapping(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise TypeError(f"{str(found)[:50]!r} where names belong")
    return found
