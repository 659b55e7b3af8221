"""Quantize a checkpoint tensor by tensor, so that no more than a few are ever held.

All is written into a folder beside the target, which gets the target's name when it is whole. After
each file of tensors a line is added to a journal, so that a run which was ended goes on after the
last line: what was done is not done again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from qpass.checkpoint.formats.tensors import Tensors
from qpass.checkpoint.manifest import NAME, Entry, Manifest, Part
from qpass.checkpoint.slabs import quantize_stored
from qpass.checkpoint.writing import (
    alone,
    entry_of,
    replace_text,
    shard_name,
    sync,
    versions,
    write_shard,
)
from qpass.errors import CheckpointError
from qpass.ops.weights import Storage, weighs

BATCH_BYTES = 2**24
"""Bytes of results after which a file is written: small tensors share one."""

JOB, JOURNAL, PARTIAL = "job.json", "done.jsonl", ".partial"


@dataclass(frozen=True)
class Job:
    """What is to be made.

    Attributes:
        tensors: the float checkpoint.
        leaves: for each path of the result, the tensor's name and how it is stored; None: as it is.
        tree: the containers of the result, as `qpass.checkpoint.containers` writes them.
        record: what the result says of how it was made.
        plan: decisions that it keeps; None where there is no plan.
    """

    tensors: Tensors
    leaves: Mapping[str, tuple[str, Storage | None]]
    tree: Any
    record: Mapping[str, Any]
    plan: Any = None

    @property
    def identity(self) -> str:
        """Changes with the options, the files, the versions: 8 hexadecimal digits."""
        files = sorted({self.tensors.at(name).file for name, _ in self.leaves.values()})
        known = [(str(f.resolve()), (s := f.stat()).st_size, s.st_mtime_ns) for f in files]
        wanted = {path: (name, str(s)) for path, (name, s) in self.leaves.items()}
        text = json.dumps([known, wanted, dict(self.record), versions()], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def stream(job: Job, target: Path, tick: Callable[[], None] = lambda: None) -> int:
    """Make the checkpoint, or go on making it.

    Args:
        job: what is to be made.
        target: the folder; there may be nothing yet.
        tick: called after each leaf, also those that were done before.

    Returns:
        how many leaves were done by earlier runs.

    Raises:
        CheckpointError: the target is there, another run is busy with it, or an earlier run with
            other options or other files did not come to its end.
        QuantizeError: a tensor that cannot be quantized.
    """
    _check_target(target)
    scratch = target.with_name(target.name + PARTIAL)
    scratch.mkdir(parents=True, exist_ok=True)
    with alone(scratch):
        name = _begin(job, scratch)
        entries, files = _done(scratch)
        before = len(entries)
        for _ in entries:
            tick()
        rest = {path: leaf for path, leaf in job.leaves.items() if path not in entries}
        for batch in _batches(job, rest, name, files, tick):
            write_shard(scratch / batch.file, batch.arrays)
            batch.arrays.clear()
            _note(scratch / JOURNAL, batch.entries)
            entries |= batch.entries
        ordered = {path: entries[path] for path in job.leaves}
        manifest = Manifest(ordered, job.tree, job.plan, dict(job.record), versions())
        replace_text(scratch / NAME, manifest.to_json())
        scratch.rename(target)
        sync(target.parent)
    for left in (JOB, JOURNAL, ".lock"):
        (target / left).unlink(missing_ok=True)
    return before


def _check_target(target: Path) -> None:
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise CheckpointError(f"Give a folder that is not there yet; {target} is.")


def _begin(job: Job, scratch: Path) -> str:
    """Write down which job this is, or see that it is the one that was begun."""
    file, identity = scratch / JOB, job.identity
    if not file.exists():
        others = [f.name for f in scratch.iterdir() if f.name not in (".lock", f"{JOB}.new")]
        if others:
            raise CheckpointError(f"Move {scratch} away: it holds {others[0]}, of no run of this.")
        replace_text(file, json.dumps({"job": identity}))
    elif file.read_text(encoding="utf-8") != json.dumps({"job": identity}):
        raise CheckpointError(
            f"Remove {scratch} to start anew, or give the options and files it was begun with: a "
            "run with others (or other versions of qpass and jax) did not come to its end."
        )
    return identity


def _done(scratch: Path) -> tuple[dict[str, Entry], int]:
    """Leaves that are done, and how many files hold them; half a last line is taken away."""
    journal, entries, files = scratch / JOURNAL, {}, 0
    if not journal.exists():
        return entries, files
    text = journal.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        os.truncate(journal, len(whole))
    for line in whole.splitlines():
        try:
            entries |= {path: _entry(found) for path, found in json.loads(line).items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"Remove {scratch} to start anew: {journal} is damaged.") from (
                error
            )
        files += 1
    return entries, files


def _entry(found: Any) -> Entry:
    parts = {n: replace(Part(**p), shape=tuple(p["shape"])) for n, p in found["parts"].items()}
    return Entry(parts, found["tensor"])


def _note(journal: Path, entries: Mapping[str, Entry]) -> None:
    """Add a line, and wait until the disk has it."""
    line = json.dumps({path: asdict(entry) for path, entry in entries.items()}) + "\n"
    with journal.open("ab") as opened:
        opened.write(line.encode())
        opened.flush()
        os.fsync(opened.fileno())


@dataclass(frozen=True)
class _Batch:
    """What goes into one file."""

    file: str
    arrays: dict[str, np.ndarray]
    entries: dict[str, Entry]


def _batches(
    job: Job,
    leaves: Mapping[str, tuple[str, Storage | None]],
    name: str,
    number: int,
    tick: Callable[[], None],
) -> Iterator[_Batch]:
    batch = _Batch(shard_name(name, number), {}, {})
    for path, (tensor, storage) in leaves.items():
        _add(batch, path, _quantized(job.tensors, tensor, storage))
        tick()
        if sum(array.nbytes for array in batch.arrays.values()) >= BATCH_BYTES:
            yield batch
            number += 1
            batch = _Batch(shard_name(name, number), {}, {})
    if batch.entries:
        yield batch


def _add(batch: _Batch, path: str, leaf: Any) -> None:
    batch.entries[path], arrays = entry_of(path, leaf, batch.file)
    batch.arrays.update(arrays)


def _quantized(tensors: Tensors, name: str, storage: Storage | None) -> Any:
    """A leaf of the result."""
    stored = tensors.at(name)
    if storage is None:
        return stored.read()
    where = tensors.where(name)
    if not jnp.issubdtype(stored.dtype, jnp.floating) or stored.dtype.itemsize not in (2, 4):
        raise CheckpointError(f"Keep {where}: a weight is float32, float16 or bfloat16.")
    if weighs(storage.quantizer):
        raise CheckpointError(
            f"Quantize {where} in a program, by q.quantize: the range of {storage.quantizer} "
            "weighs errors by statistics of activations."
        )
    return quantize_stored(stored, storage, where)
