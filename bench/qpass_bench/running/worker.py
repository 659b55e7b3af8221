"""Peers in environments of their own: one process each, which is told what to run line by line.

A peer is a program that reads JSON from stdin and writes JSON to stdout, one object a line, an
answer to each request, in order. What it logs goes to stderr. It is started with the variables
``OMP_NUM_THREADS`` and the like set to the number of threads that everybody has, and with
``OMP_WAIT_POLICY=passive``: while others have their turn, it must sleep.

When it has started, unasked, it says who it is, and which of its variants can take part::

    {"ready": {"name": "onnxruntime", "version": "1.20", "threads": 2, "variants": ["int8"]}}

Then it answers::

    {"load": CASE, "variant": "int8"}  ->  {"loaded": {"bytes": 1234, "seconds": 0.5}}
    {"run": 5, "variant": "int8"}      ->  {"seconds": [0.01, 0.01, 0.01, 0.01, 0.01]}
    {"unload": true}                   ->  {"unloaded": true}
    {"quit": true}                     ->  it ends

``load`` makes the weights, quantizes, and runs once to warm up. ``bytes`` is what its weights take,
``seconds`` what all this took. It may also say ``"units"``, what multiplies: "int8" (the default),
"float32" or "bfloat16"; and ``"error"``, how far its result is from one in float64, of the first
row of a product or the first logits of a model: |result - exact| / |exact|. Every variant may hold
a case at the same time; ``unload`` drops them all. ``run`` makes so many calls of the case and
gives the wall-clock seconds of each. To whatever it cannot do it answers ``{"error": "why"}``, goes
on, and the report says so.

CASE is what ``qpass_bench.cases.catalogue`` describes, as a JSON object, told apart by ``kind``:

``product``
    ``{"kind", "name", "m", "k", "n", "experts", "seed"}``: ``x [m, k] @ weight [k, n]`` in float32,
    or ``experts`` of them at once. With ``rng = numpy.random.default_rng(seed)``, ``weight`` is
    ``rng.standard_normal((k, n), "float32")``, and ``x`` is drawn after it in the same way; with
    several experts both have that many in front.
``decode``, ``prefill``, ``encode``
    ``{"kind", "name", "sizes", "batch", "length", "context", "steps"}``: layers in the ``sizes`` of
    `qpass_bench.cases.catalogue.Sizes`, with random weights; where there is a ``file`` (GGUF: the
    language model of the demo), with the weights in it. A call of ``prefill`` or ``encode`` reads
    ``length`` tokens; one of ``decode`` starts with ``context`` tokens in the cache, which do not
    count, and says ``steps`` more, one after the other, the likeliest each. All for ``batch``
    sequences.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qpass.errors import QPassError

WAIT = 600.0
"""Seconds that any answer may take; loading a large case quantizes it."""


class PeerError(QPassError, RuntimeError):
    """A peer cannot do what it was asked, or has died."""


@dataclass(frozen=True)
class Peer:
    """How a peer is started: a program and its arguments, and the folder that it runs in."""

    name: str
    command: tuple[str, ...]
    folder: Path | None = None


def installed(file: Path) -> tuple[Peer, ...]:
    """Peers from a JSON file ``{name: [program, argument, ...]}``; they run in its folder.

    Raises:
        QPassError: the file holds something else.
    """
    found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not all(isinstance(c, list) for c in found.values()):
        raise QPassError(f"{file} must hold {{name: [program, argument, ...]}}; got {found!r:.80}.")
    return tuple(Peer(name, tuple(command), file.parent) for name, command in found.items())


def environment(threads: int) -> dict[str, str]:
    """The variables of this process, and those that make a peer use so many threads and sleep."""
    counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    asleep = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0", "GOMP_SPINCOUNT": "0"}
    return {**os.environ, **dict.fromkeys(counts, str(threads)), **asleep}


class Worker:
    """A peer that runs; use it as a context, which ends it.

    Raises:
        PeerError: it does not start, or says anything but that it is ready.
    """

    def __init__(self, peer: Peer, threads: int, wait: float = WAIT):
        self.peer, self.wait = peer, wait
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
        self._process = self._start(threads)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.about: Mapping[str, Any] = self._expect("ready", self._answer())
        except PeerError:
            self.close()
            raise

    def _start(self, threads: int) -> subprocess.Popen:
        pipe = subprocess.PIPE
        try:
            return subprocess.Popen(
                self.peer.command,
                stdin=pipe,
                stdout=pipe,
                stderr=self._log,
                cwd=self.peer.folder,
                env=environment(threads),
            )
        except OSError as error:
            self._log.close()
            raise PeerError(f"Peer {self.peer.name} does not start: {error}.") from error

    @property
    def variants(self) -> Sequence[str]:
        """What it can take part as."""
        return self.about["variants"]

    def load(self, case: Mapping[str, Any], variant: str) -> Mapping[str, Any]:
        """Make a case ready; gives ``bytes`` of its weights and ``seconds`` that it took."""
        return self._ask({"load": dict(case), "variant": variant}, "loaded")

    def run(self, calls: int, variant: str) -> Sequence[float]:
        """Seconds of each of so many calls of the case that the variant has loaded."""
        return self._ask({"run": calls, "variant": variant}, "seconds")

    def unload(self) -> None:
        """Drop what all variants hold."""
        self._ask({"unload": True}, "unloaded")

    def close(self) -> None:
        """Ask it to end; kill it when it does not."""
        try:
            self._send({"quit": True})
            self._process.wait(timeout=5)
        except (PeerError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream:
                with suppress(BrokenPipeError):  # what it was not there to read
                    stream.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: Mapping[str, Any], key: str) -> Any:
        self._send(request)
        return self._expect(key, self._answer())

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise PeerError(self._died()) from error

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(b"")

    def _answer(self) -> bytes:
        try:
            line = self._answers.get(timeout=self.wait)
        except queue.Empty:
            self._process.kill()
            name = self.peer.name
            raise PeerError(f"Peer {name} gave no answer within {self.wait:g} s.") from None
        if not line:
            raise PeerError(self._died())
        return line

    def _expect(self, key: str, line: bytes) -> Any:
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if isinstance(answer, dict) and key in answer:
            return answer[key]
        if isinstance(answer, dict) and "error" in answer:
            raise PeerError(f"{self.peer.name}: {answer['error']}")
        raise PeerError(f"Peer {self.peer.name} should say {key!r}; it said {line!r:.200}.")

    def _died(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip().splitlines()
        return f"Peer {self.peer.name} ended; it last said: {said[-1] if said else 'nothing'}"
