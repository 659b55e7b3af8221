"""Compare: the error that quantization makes at every site, and in the result."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import eval_jaxpr

from qpass.adapters.masks import check_masks
from qpass.errors import CallError
from qpass.given import Given, run_given
from qpass.graph._jax import JaxprEqn, bind
from qpass.graph.dataflow import Key
from qpass.graph.merging import Sum
from qpass.graph.program import Call
from qpass.graph.rebuild import REBUILD
from qpass.graph.rewrite import Rewriter, tap_name
from qpass.keys import check_key
from qpass.numerics import QTensor
from qpass.ops.cached import Cached
from qpass.ops.operations import QTensorOperations
from qpass.plan import Decision, Plan
from qpass.views import (
    SiteError,
    errors_table,
    errors_to_html,
    errors_to_json,
    to_text,
    worst_first,
)


@dataclass(frozen=True)
class Comparison:
    """Errors of a quantized program against its float self on the same arguments.

    Attributes:
        sites: error of every quantized site, worst first. The site's float product is taken of
            the same activations, so the figure is the error that this site adds by itself.
        result: relative error of the program's floating results, all sites together.
        layers: for a site inside a scan, its relative error in each iteration.
        unseen: ids of quantized sites that did not run: of a branch that was not taken, or of a
            loop without iterations. Nothing is known of their error.
    """

    sites: tuple[SiteError, ...]
    result: float
    layers: dict[str, tuple[float, ...]]
    unseen: tuple[str, ...] = ()

    def table(self) -> Any:
        """A rich table, worst site first."""
        return errors_table(self.sites)

    def to_json(self) -> str:
        """The sites as JSON."""
        return errors_to_json(self.sites)

    def to_html(self, title: str = "qpass comparison") -> str:
        """A self-contained HTML page."""
        return errors_to_html(self.sites, title)

    def __rich__(self) -> Any:
        return self.table()

    def __str__(self) -> str:
        total = f"relative error of the result: {self.result:.3g}"
        unseen = f"\ndid not run: {', '.join(self.unseen)}" if self.unseen else ""
        return f"{to_text(self.table())}\n{total}{unseen}"


def compare(plan: Plan, call: Call, given: Given) -> Comparison:
    """Run the float and the quantized program, with taps at every quantized site.

    Args:
        plan: the plan of this call.
        call: the arguments, with float parameters.
        given: values beside them. Static operands without a range have that of these arguments.
            Both programs run without adapters.

    Raises:
        CallError: a parameter is already quantized, so that there is no float to compare with, or
            no quantized site ran, so that nothing is compared.
        QuantizeError: a site rounds stochastically and no key is given.
    """
    given = _checked(plan, call, given)
    merged, result = jax.jit(partial(_run, plan))(list(call.values), given)
    taps = {name: tap.value for name, tap in merged.items()}
    tapped = [(d, taps[tap_name(d.site.key)]) for d in _tapped(plan, taps)]
    seen = [(decision, tap) for decision, tap in tapped if _runs(tap)]
    unseen = tuple(decision.site.id for decision, tap in tapped if not _runs(tap))
    if unseen and not seen:
        raise CallError(
            f"compare on arguments that reach the quantized products; {', '.join(unseen)} did not "
            "run (a branch that was not taken, or a loop without iterations)."
        )
    errors = [_site_error(decision, tap) for decision, tap in seen]
    layers = {decision.site.id: _per_layer(tap) for decision, tap in seen}
    stacked = {site: values for site, values in layers.items() if len(values) > 1}
    return Comparison(worst_first(errors), _ratio(*result), stacked, unseen)


def layer_errors(
    plan: Plan, call: Call, given: Given
) -> Callable[[Sequence[Any]], dict[str, jax.Array]]:
    """A function of a program's inputs that can be compiled once for many of them.

    Arguments and errors as of `compare`.

    Returns:
        by id of each quantized site that runs its relative error, ``f32[iterations]``; 0 of none.
    """
    given = _checked(plan, call, given)

    def errors(values: Sequence[Any]) -> dict[str, jax.Array]:
        merged, _ = _run(plan, list(values), given)
        taps = {name: tap.value for name, tap in merged.items()}
        found = [(d.site.id, taps[tap_name(d.site.key)]) for d in _tapped(plan, taps)]
        return {site: _relative(*map(jnp.ravel, tap[:2])) for site, tap in found}

    return errors


def _relative(error: jax.Array, signal: jax.Array) -> jax.Array:
    zero = jnp.where(error == 0, 0.0, jnp.inf)
    return jnp.where(signal == 0, zero, jnp.sqrt(error / jnp.where(signal == 0, 1, signal)))


def _checked(plan: Plan, call: Call, given: Given) -> Given:
    """What the programs are given; adapters are left out."""
    check_key(plan, given.key, call.values)
    check_masks(plan, given.masks, call.values)
    for leaf, value in zip(call.leaves, call.values, strict=True):
        if isinstance(value, QTensor):
            raise CallError(f"compare needs float parameters; {leaf.path} is a {value}")
    return replace(given, adapters={})


def _tapped(plan: Plan, taps: dict) -> list[Decision]:
    """Quantized sites of programs that run: derivative rules do so only under differentiation."""
    return [d for d in plan.decisions if d.action and tap_name(d.site.key) in taps]


def _runs(tap: tuple) -> float:
    """How often a site ran."""
    return float(jnp.sum(tap[2]))


def _run(plan: Plan, values: list, given: Given) -> tuple[dict, tuple[Any, Any]]:
    operations = QTensorOperations(plan.kernels)
    rewriter = Rewriter(plan.actions, plan.dataflow.derivatives, operations, REBUILD, tap=_tap)
    jaxpr = plan.program.jaxpr
    quantized, taps = run_given(rewriter, plan, given, values)
    exact = eval_jaxpr(jaxpr, jaxpr.consts, *values)
    pairs = [
        _powers(e, operations.unwrap(q))
        for e, q in zip(exact, quantized, strict=True)
        if jnp.issubdtype(jnp.result_type(e), jnp.floating)
    ]
    return taps, (sum(p[0] for p in pairs), sum(p[1] for p in pairs))


def _tap(key: Key, eqn: JaxprEqn, operands: list, result: Any) -> Sum:
    """Power of the error and of the float product, summed over the site's result; and one run."""
    floats = [v.latent if isinstance(v, QTensor | Cached) else v for v in operands]
    (exact,) = bind(eqn, floats)
    return Sum((*_powers(exact, result), jnp.ones(())))


def _powers(exact: Any, result: Any) -> tuple[Any, Any]:
    """Power of the error and of the float value.

    Masks count in neither: equal values that have no finite square, as -1e30 in float32.
    """
    exact, result = (lax.convert_element_type(v, jnp.float32) for v in (exact, result))
    is_mask = (exact == result) & ~jnp.isfinite(exact**2)
    error, signal = (jnp.where(is_mask, 0, v) for v in (exact - result, exact))
    return jnp.sum(error**2), jnp.sum(signal**2)


def _per_layer(tap: tuple) -> tuple[float, ...]:
    error, signal = (jnp.ravel(t) for t in tap[:2])
    return tuple(_ratio(e, s) for e, s in zip(error, signal, strict=True))


def _ratio(error: Any, signal: Any) -> float:
    """Relative error from the two powers; 0 where both vanish."""
    error, signal = float(error), float(signal)
    if signal == 0:
        return 0.0 if error == 0 else math.inf
    return math.sqrt(error / signal)


def _site_error(decision: Decision, tap: tuple) -> SiteError:
    relative = _ratio(*(jnp.sum(t) for t in tap[:2]))
    return SiteError(
        site=decision.site.id,
        weight=decision.site.weight_path,
        scheme=str(decision.action.scheme) if decision.action else "",
        sqnr_db=math.inf if relative == 0 else -20 * math.log10(relative),
        relative_error=relative,
    )
