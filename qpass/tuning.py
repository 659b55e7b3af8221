"""`tune`: time the kernels that may compute a function's quantized products, on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax

from qpass.api import transform
from qpass.errors import CallError
from qpass.graph._jax import params_jaxprs
from qpass.ops.matmul import describe, quantized_matmul_p, without_extra
from qpass.rules import Rule
from qpass_kernels import KERNELS, Kernel, Product
from qpass_kernels.kernel import ALIASES
from qpass_kernels.tuning import METHOD, Method, Trial, Tuned, bucket, search


@dataclass(frozen=True)
class Tuning:
    """What was timed, and the table that follows.

    Attributes:
        tuned: the fastest of each product: `tuned.kernels(KERNELS)` is a table of kernels for
            `transform`, `tuned.save(file)` keeps it.
        trials: for each product all candidates, with their seconds or why they were left out.
    """

    tuned: Tuned
    trials: tuple[tuple[Product, tuple[Trial, ...]], ...]

    def __str__(self) -> str:
        """A line for each candidate, the fastest first."""
        lines = []
        for product, trials in self.trials:
            lines.append(_title(product))
            ordered = sorted(trials, key=lambda t: (t.seconds is None, t.seconds))
            lines += [f"  {_outcome(t):>12}  {t.kernel}{_config(t)}" for t in ordered]
        return "\n".join(lines) or "no quantized products"


def tune(
    fn: Callable,
    rules: Rule | Iterable[Rule],
    *args: Any,
    kernels: Iterable[Kernel] = KERNELS,
    method: Method = METHOD,
    watch: Callable[[Product], None] = lambda product: None,
    params: Any = 0,
    **kwargs: Any,
) -> Tuning:
    """Time all kernels in all settings for each quantized product of a call, on random numbers.

    Takes place on the default device. Each candidate is compiled and compared with the reference
    first; one that fails, spills registers or computes something else is left out.

    Args:
        fn: as for `transform`.
        rules: as for `transform`.
        *args: of the call; arrays, or `jax.ShapeDtypeStruct`s in their places.
        kernels: the table that the candidates come from.
        method: how often to measure, and with how many bytes of weights in turn.
        watch: called with each product before it is timed.
        params: as for `transform`.
        **kwargs: of the call.

    Raises:
        CallError: a size is symbolic.
        RuleError: as `transform`.
    """
    table = tuple(kernels)
    q = transform(fn, rules, params=params, kernels=table)
    found = products(jax.make_jaxpr(q)(*args, **kwargs).jaxpr)
    trials = []
    for product in found:
        if product.symbolic:
            raise CallError(
                f"tune needs numbers for sizes; symbolic: {', '.join(product.symbolic)}"
            )
        watch(product)
        trials.append((product, search(table, product, method)))
    return Tuning(_table(trials), tuple(trials))


def products(jaxpr: Any) -> tuple[Product, ...]:
    """The quantized products of a program, one of each kind that shares a choice."""
    kinds = {}
    for product in _products(jaxpr):
        kinds.setdefault(bucket(product), product)
    return tuple(kinds.values())


def _products(jaxpr: Any) -> Iterator[Product]:
    for eqn in jaxpr.eqns:
        if eqn.primitive is quantized_matmul_p:
            avals, _ = without_extra([v.aval for v in eqn.invars], eqn.params["epilogue"])
            # Kernels that look codes up are timed on decoded ones, as all others.
            yield describe(avals, *(eqn.params[k] for k in ("group", "out", "stored"))).decoded
        for inner in params_jaxprs(eqn):
            yield from _products(inner)


def _table(trials: Iterable[tuple[Product, tuple[Trial, ...]]]) -> Tuned:
    platform = jax.default_backend()
    choices = []
    for product, of_product in trials:
        timed = [trial for trial in of_product if trial.seconds is not None]
        if timed:
            choices.append((bucket(product), min(timed, key=lambda t: t.seconds or 0.0).choice))
    kind = jax.devices()[0].device_kind
    return Tuned(kind, ALIASES.get(platform, platform), jax.__version__, tuple(choices))


def _title(product: Product) -> str:
    group = f", groups of {product.group}" if product.grouped else ""
    batch = f"{product.batch} × " if product.batch != 1 else ""
    sizes = f"{batch}{product.m} × {product.n} × {product.k}"
    return f"{product.lhs} × {product.rhs} → {product.out}, {sizes}{group}"


def _outcome(trial: Trial) -> str:
    return "left out" if trial.seconds is None else f"{1e6 * trial.seconds:,.1f} µs"


def _config(trial: Trial) -> str:
    fields = {} if trial.config is None else dataclasses.asdict(trial.config)
    text = f" {' '.join(f'{k}={v}' for k, v in fields.items())}" if fields else ""
    return f"{text}: {trial.reason}" if trial.reason else text
