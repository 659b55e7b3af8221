"""Measure what computes a product fastest: every kernel that takes it, in each of its settings."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from qpass_kernels.kernel import Kernel, Product, is_for
from qpass_kernels.ragged import RaggedMatmul
from qpass_kernels.reference import REFERENCE
from qpass_kernels.tuning.choice import Choice, fields_of
from qpass_kernels.tuning.operands import copies_of, operands
from qpass_kernels.tuning.ptxas import compile_and_report
from qpass_kernels.tuning.timing import METHOD, Method, in_turns, one_after_another

WRONG = 0.05  # of the largest number in the result: what no rounding explains


@dataclass(frozen=True)
class Candidate:
    """A kernel, for dense products or ragged ones, in one of its settings; None: it has none."""

    kernel: Kernel | RaggedMatmul
    config: Any = None

    def run(self, product: Any, *operands: Any) -> Any:
        """Compute the product."""
        chosen = {} if self.config is None else {"config": self.config}
        return self.kernel.run(product, *operands, **chosen)


@dataclass(frozen=True)
class Trial:
    """How a candidate did: the median seconds of a call, or why it cannot be used."""

    kernel: str
    config: Any
    seconds: float | None = None
    reason: str = ""

    @property
    def choice(self) -> Choice:
        """This candidate as a table keeps it; only for one that was timed."""
        assert self.seconds is not None
        return Choice(self.kernel, fields_of(self.config), self.seconds)


def candidates(kernels: Sequence[Kernel], platform: str, product: Product) -> Iterator[Candidate]:
    """All that may compute a product on a platform, in the table's order."""
    for kernel in kernels:
        if is_for(kernel, platform, product) and kernel.supports(product) is None:
            for config in kernel.configs(product) or (None,):
                yield Candidate(kernel, config)


def search(
    kernels: Sequence[Kernel], product: Product, method: Method = METHOD
) -> tuple[Trial, ...]:
    """Time all candidates on this process's default device, in turns; random numbers.

    One that does not compile, spills registers or gives other numbers than the reference is not
    timed and its trial says why.

    Raises:
        ValueError: a size of the product is symbolic.
    """
    if product.symbolic:
        raise ValueError(f"{', '.join(product.symbolic)} symbolic: there is nothing to time")
    given = operands(product)
    calls = method.calls(product)
    weights = copies_of(given[2], method.weights(product))
    wanted = jax.jit(lambda *a: REFERENCE.run(product, *a))(*given)
    prepared = [
        _prepare(c, product, given, weights, calls, wanted)
        for c in candidates(kernels, jax.default_backend(), product)
    ]
    programs = {k: program for k, (program, _) in enumerate(prepared) if program is not None}
    seconds = in_turns(programs, method)
    return tuple(
        Trial(trial.kernel, trial.config, seconds[k] / calls) if k in seconds else trial
        for k, (_, trial) in enumerate(prepared)
    )


def _prepare(
    candidate: Candidate, product: Product, given: tuple, weights: tuple, calls: int, wanted: Any
) -> tuple[Callable[[], Any] | None, Trial]:
    """Compile a candidate and look at its result: a program to time, or why there is none."""
    trial = Trial(candidate.kernel.name, candidate.config)
    lhs, lhs_scale, _, rhs_scale = given
    single = jax.jit(lambda *a: candidate.run(product, *a))
    several = jax.jit(partial(one_after_another, partial(candidate.run, product), calls))
    try:
        compiled, reports = compile_and_report(lambda: single.lower(*given).compile())
        reason = next((report.fault for report in reports if report.fault), None)
        reason = reason or _wrong(compiled(*given), wanted)
        if reason is not None:
            return None, dataclasses.replace(trial, reason=reason)
        program = several.lower(lhs, lhs_scale, weights, rhs_scale).compile()
    except Exception as error:  # whatever a compiler may raise is a reason to leave it out
        text = next(iter(str(error).strip().splitlines()), "no message")
        return None, dataclasses.replace(trial, reason=f"{type(error).__name__}: {text:.200}")
    return lambda: program(lhs, lhs_scale, weights, rhs_scale), trial


def _wrong(got: Any, wanted: Any) -> str | None:
    got, wanted = (x.astype(jnp.float32) for x in (got, wanted))
    off = float(jnp.max(jnp.abs(got - wanted)) / jnp.maximum(jnp.max(jnp.abs(wanted)), 1e-30))
    return None if off <= WRONG else f"wrong: off by {off:.2g} of the largest number"
