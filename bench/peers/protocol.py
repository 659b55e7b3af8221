"""How a peer speaks to the benchmark: JSON lines on stdin and stdout.

`qpass_bench.running.worker` says which.

A peer imports this module first: the libraries of threads read the environment when they are
loaded. Plain Python, so that it runs in an environment without qpass and JAX.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

THREADS = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)

PAUSE = 0.02
"""Seconds before an answer to `run`: by then the threads that wait for more work are asleep."""

# Threads that sleep at once have to be woken for every operation, which would slow a peer down in
# its own turn; those that never sleep would slow down everybody else in theirs.
os.environ.pop("OMP_WAIT_POLICY", None)
os.environ["GOMP_SPINCOUNT"] = "30000"
os.environ["KMP_BLOCKTIME"] = "1"


@dataclass(frozen=True)
class Loaded:
    """A case ready to be called: what its weights take, and how far from float64 its result is."""

    call: Callable[[], Any]
    bytes: int
    error: float


@dataclass(frozen=True)
class Variant:
    """How a library was set up, and what multiplies: "float32" or "int8"."""

    configured: str
    units: str = "int8"


@dataclass(frozen=True)
class Library:
    """A peer: who it is, in which variants it takes part, and what makes a case ready under one."""

    name: str
    version: str
    variants: Mapping[str, Variant]
    load: Callable[[Mapping[str, Any], str], Loaded]

    def about(self) -> dict[str, Any]:
        """What it says when it has started."""
        return {
            "name": self.name,
            "version": self.version,
            "threads": THREADS,
            "variants": list(self.variants),
            "configured": {name: v.configured for name, v in self.variants.items()},
        }


class Unsupported(Exception):
    """A case that a peer cannot run, and why."""


def serve(library: Library, requests: TextIO = sys.stdin, answers: TextIO | None = None) -> None:
    """Answer requests until one is to quit or there are no more."""
    answers = answers or own_stdout()
    held: dict[str, Loaded] = {}
    say(answers, {"ready": library.about()})
    for line in requests:
        request = json.loads(line)
        if "quit" in request:
            return
        try:
            say(answers, answer(library, held, request))
        except Exception as error:
            say(answers, {"error": f"{type(error).__name__}: {error}"})


def own_stdout() -> TextIO:
    """The stdout of this process; what libraries print goes to stderr from now on."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


def say(answers: TextIO, answer: Mapping[str, Any]) -> None:
    """Write one line, at once."""
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def answer(library: Library, held: dict[str, Loaded], request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one request; `held` has the case that each variant has loaded."""
    if "load" in request:
        return {"loaded": load(library, held, request["load"], request["variant"])}
    if "run" in request:
        return {"seconds": run(held[request["variant"]].call, request["run"])}
    if "unload" in request:
        held.clear()
        return {"unloaded": True}
    raise ValueError(f"Ask to load, run, unload or quit; got {sorted(request)}.")


def load(
    library: Library, held: dict[str, Loaded], case: Mapping[str, Any], variant: str
) -> dict[str, Any]:
    """Make a case ready and call it once."""
    held.pop(variant, None)  # two of them at a time might not fit into memory
    start = time.perf_counter()
    loaded = held[variant] = library.load(case, variant)
    loaded.call()
    seconds = time.perf_counter() - start
    units = library.variants[variant].units
    return {"bytes": loaded.bytes, "error": loaded.error, "seconds": seconds, "units": units}


def run(call: Callable[[], Any], calls: int) -> list[float]:
    """Seconds of each call."""
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    time.sleep(PAUSE)
    return seconds
