"""Who takes part in a case: float in two dtypes and layouts, qpass by its schemes, and peers.

A contender takes turns: a turn makes a few calls and gives the seconds of the middle one. Compiling
is timed apart, and done before.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from qpass_bench.cases import products, sweep, transformers
from qpass_bench.cases.catalogue import Case, Product, Transformer
from qpass_bench.cases.schemes import (
    BASE,
    DECODER_BLOCK_VARIANTS,
    DECODER_MODEL_VARIANTS,
    ENCODER_MODEL_VARIANTS,
    FLOATS,
    PRODUCT_VARIANTS,
    Variant,
    without_native,
)
from qpass_bench.cases.setup import Setup
from qpass_bench.running.contestant import buffer_bytes, enter
from qpass_bench.running.machine import has_native
from qpass_kernels import KERNELS, Kernel, portable

TURN = 0.01
"""Seconds that a turn is meant to take, so that short calls are made several times in it."""
MOST_CALLS = 15


@dataclass(frozen=True)
class Entry:
    """What is known of a contender without running it.

    Attributes:
        name: unique in the case.
        kind: "float", "qpass" or the name of the peer.
        bytes: what its weights take.
        units: the dtype that multiplies.
        kernel: what computes its products.
        compile_s: seconds until it could run.
        error: of its result, relative to float64; None where it is not known.
        planned: where its plan said beforehand that it may be slower than float.
    """

    name: str
    kind: str
    bytes: int
    units: str
    kernel: str
    compile_s: float
    error: float | None = None
    planned: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contender:
    """Something that computes a case; `call` makes so many calls and gives the seconds of each."""

    entry: Entry
    call: Callable[[int], Sequence[float]]

    def turn(self, first: float) -> Callable[[], float]:
        """What takes a turn, of as many calls as its first one's seconds say."""
        calls = max(1, min(MOST_CALLS, round(TURN / max(first, 1e-9))))
        return lambda: statistics.median(self.call(calls))


def draw(case: Any) -> Any:
    """The float32 arrays of a case."""
    return products.draw(case) if isinstance(case, Product) else transformers.draw(case)


def setup(case: Any, variant: Variant, drawn: Any) -> Setup:
    """A case under a variant."""
    kind: Any = products if isinstance(case, Product) else transformers
    return kind.setup(case, variant, drawn)


def schemes(case: Case) -> tuple[Variant, ...]:
    """The rules that a case is tried with."""
    if isinstance(case, Product):
        return tuple(sweep.SCHEMES[name] for name in case.schemes) or PRODUCT_VARIANTS
    assert isinstance(case, Transformer)
    if not case.sizes.decoder:
        return ENCODER_MODEL_VARIANTS
    return DECODER_MODEL_VARIANTS if case.sizes.vocab else DECODER_BLOCK_VARIANTS


def variants(case: Case, kernels: Sequence[Kernel] = KERNELS) -> tuple[Variant, ...]:
    """Float ones first; schemes without compiled kernels as well where there are such kernels.

    A random product has float32 and its schemes only: it is one of hundreds.
    """
    own = schemes(case)
    if case.suite == "sweep":
        return (*BASE, *own)
    plain = tuple(map(without_native, own)) if has_native(kernels) else ()
    return (*FLOATS, *own, *plain)


def contender(case: Case, variant: Variant, drawn: Any) -> Contender:
    """Rewrite, quantize and compile a case under a variant."""
    made = setup(case, variant, drawn)
    kernels = KERNELS if variant.native else portable(KERNELS)
    own = enter(variant, made.forward, made.params, *made.example, kernels=kernels)
    args = (own.params, *(made.example if made.args is None else made.args))
    run, seconds = compiled(made.program(own.forward), *args)
    rows = [] if own.plan is None else [row for row in own.plan.rows if row.quantized]
    entry = Entry(
        name=variant.name,
        kind="qpass" if variant.rules else "float",
        bytes=buffer_bytes(own.params),
        units=variant.units,
        kernel=", ".join(dict.fromkeys(row.kernel for row in rows)) or "XLA",
        compile_s=seconds,
        error=products.error(run(*args), drawn) if isinstance(case, Product) else None,
        planned=tuple(dict.fromkeys(row.slow for row in rows if row.slow)),
    )
    return Contender(entry, Calls(run, args))


def compiled(function: Callable[..., Any], *args: Any) -> tuple[Callable[..., Any], float]:
    """The function as a compiled program, and the seconds that tracing and compiling took."""
    start = time.perf_counter()
    run = jax.jit(function).lower(*args).compile()
    return run, time.perf_counter() - start


@dataclass(frozen=True)
class Calls:
    """Calls of a compiled function, each waited for and timed."""

    run: Callable[..., Any]
    args: tuple[Any, ...]

    def __call__(self, calls: int) -> list[float]:
        """Seconds of each call."""
        seconds = []
        for _ in range(calls):
            start = time.perf_counter()
            jax.block_until_ready(self.run(*self.args))
            seconds.append(time.perf_counter() - start)
        return seconds
