"""Nonfinite: where NaN and infinities enter a quantized program, in the order of its run.

Scales are made of finite values only and codes saturate, so a value that is not finite can vanish
in a product: NaN in an integer activation becomes the code 0. What went in has to be looked at
before it is quantized, which is done here.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.table import Table

from qpass.given import Given, run_given
from qpass.graph._jax import JaxprEqn, bind
from qpass.graph.merging import Sum
from qpass.graph.program import Call
from qpass.graph.rebuild import REBUILD
from qpass.graph.rewrite import Rewriter, tap_name
from qpass.graph.sites import Site
from qpass.numerics import QTensor
from qpass.ops.layer import tensor
from qpass.ops.operations import QTensorOperations
from qpass.plan import Decision, Plan
from qpass.views import to_text
from qpass.views.units import plural

_PARTS = ("lhs", "rhs", "product")


@dataclass(frozen=True)
class Found:
    """Values that are not finite, at one place of one run.

    Attributes:
        where: path of an argument's leaf, id of a site, or number of a result.
        value: ``argument``; ``lhs`` or ``rhs``, an operand of the site before it is quantized;
            ``product``, the site's result; ``result``, one of the function's.
        nan: how many values are NaN, in all runs of the site together.
        inf: how many are infinite.
        iterations: of the scans around the site, outermost first: the indices of those in which
            there were any. Iterations of a ``while`` are not told apart.
        source: line of the user's code, for a site.
    """

    where: str
    value: str
    nan: int
    inf: int
    iterations: tuple[tuple[int, ...], ...] = ()
    source: str = ""


@dataclass(frozen=True)
class NonFinite:
    """What `Transformed.nonfinite` found.

    Attributes:
        found: each place with such values, in the order of the run: arguments, then operands and
            results of products, quantized or not, then results of the function.
        looked_at: how many products ran.
        unseen: ids of sites that did not run: nothing is known of them.
    """

    found: tuple[Found, ...]
    looked_at: int
    unseen: tuple[str, ...] = ()

    @property
    def first(self) -> Found | None:
        """Where they entered, None when all values are finite."""
        return self.found[0] if self.found else None

    def table(self) -> Table:
        """A rich table, in the order of the run."""
        drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for name in ("Where", "Value", "NaN", "Inf", "Iterations", "Line"):
            drawn.add_column(name, justify="right" if name in ("NaN", "Inf") else "left")
        for one in self.found:
            runs = ", ".join(".".join(map(str, index)) for index in one.iterations)
            drawn.add_row(one.where, one.value, str(one.nan), str(one.inf), runs, one.source)
        return drawn

    def __rich__(self) -> Table:
        return self.table()

    def __str__(self) -> str:
        seen = f"{plural(self.looked_at, 'product')} ran"
        if self.unseen:
            seen += f"; did not run: {', '.join(self.unseen)}"
        return f"{to_text(self.table())}\n{seen}" if self.found else f"all values finite, {seen}"


@dataclass(frozen=True)
class _Watched(QTensorOperations):
    """Operations that pass sites without an action, so that these are looked at, too."""

    def contraction(self, decision, eqn, operands, fed=None):
        """The quantized product, or the product as it is."""
        if decision is None:
            return bind(eqn, [self.unwrap(value) for value in operands])[0]
        return super().contraction(decision, eqn, operands, fed)


def nonfinite(plan: Plan, call: Call, given: Given) -> NonFinite:
    """Run the quantized program and count the values that are not finite.

    Args:
        plan: the plan of this call.
        call: the arguments, float or quantized.
        given: what the function is given beside its arguments.
    """
    run = jax.jit(lambda values, given: _run(plan, values, given))
    arguments, merged, results = run(list(call.values), given)
    taps = {name: tap.value for name, tap in merged.items()}
    seen = [d for d in plan.decisions if tap_name(d.site.key) in taps]
    ran = [d for d in seen if np.sum(taps[tap_name(d.site.key)][1])]
    sites = [found for d in ran for found in _at_site(plan, d, taps[tap_name(d.site.key)][0])]
    leaves = (leaf.path for leaf in call.leaves)
    found = (
        *_at_ends(leaves, "argument", arguments),
        *(one for _, one in sorted(sites, key=lambda pair: pair[0])),
        *_at_ends(map(str, range(len(results))), "result", results),
    )
    unseen = tuple(d.site.id for d in seen if d not in ran)
    return NonFinite(found, len(ran), unseen)


def _run(plan: Plan, values: list, given: Given) -> tuple[list, dict, list]:
    """Counts of the arguments; what was tapped; counts of the results."""
    operations = _Watched(plan.kernels)
    actions = {d.site.key: d.work for d in plan.decisions if _can_be_watched(plan, d)}
    rewriter = Rewriter(actions, plan.dataflow.derivatives, operations, REBUILD, tap=_tap)
    results, taps = run_given(rewriter, plan, given, values)
    return [_count(v) for v in values], taps, [_count(operations.unwrap(v)) for v in results]


def _can_be_watched(plan: Plan, decision: Decision) -> bool:
    """Whether the program can be rebuilt around this site."""
    path, _ = decision.site.key
    steps = ((path[:depth], index) for depth, (index, _) in enumerate(path))
    return decision.site.role != "tangent" and not any(
        step in plan.dataflow.untraceable for step in steps
    )


def _tap(_: Any, eqn: JaxprEqn, operands: Sequence[Any], result: Any) -> Sum:
    """NaN and infinities of both operands and the result, int32[3, 2]; and one run."""
    counts = jnp.stack([_count(value) for value in (*operands[:2], result)])
    return Sum((counts, jnp.ones((), jnp.int32)))


def _count(value: Any) -> jax.Array:
    """How many elements are NaN, and how many infinite: int32[2]."""
    value = tensor(value)
    if isinstance(value, QTensor):
        value = value.dequantize() if value.latent is None else value.latent
    if not jnp.issubdtype(value.dtype, jnp.inexact):
        return jnp.zeros(2, jnp.int32)
    return jnp.stack([jnp.sum(jnp.isnan(value)), jnp.sum(jnp.isinf(value))]).astype(jnp.int32)


def _at_ends(names: Iterable[str], value: str, counts: Sequence[Any]) -> Iterator[Found]:
    for name, (nan, inf) in zip(names, np.asarray(counts).reshape(-1, 2), strict=True):
        if nan or inf:
            yield Found(name, value, int(nan), int(inf))


def _at_site(plan: Plan, decision: Decision, counts: Any) -> Iterator[tuple[tuple, Found]]:
    """What was found at a site, each with the moment of its first run; iterations lead."""
    site = decision.site
    for part, of_part in enumerate(np.moveaxis(np.asarray(counts), -2, 0)):
        runs = tuple(tuple(map(int, index)) for index in np.argwhere(of_part.any(-1)))
        if runs:
            nan, inf = of_part.reshape(-1, 2).sum(0)
            one = Found(site.id, _PARTS[part], int(nan), int(inf), runs, site.source)
            found = one if runs[0] else replace(one, iterations=())
            yield (*_moment(plan, site, runs[0]), part), found


def _moment(plan: Plan, site: Site, run: tuple[int, ...]) -> tuple[int, ...]:
    """When the site runs in that iteration of its scans: moments sort like the run."""
    path, index = site.key
    iteration = iter(run)
    steps = (
        (step, next(iteration, 0) if eqn.primitive.name == "scan" else 0)
        for (step, _), eqn in zip(path, plan.around(site), strict=True)
    )
    return (*(n for step in steps for n in step), index)
