"""Adapters as a plain pytree: ``{path of the weight: {"a": .., "b": ..}}``."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qpass.adapters.factors import as_factor, follow_steps, with_scans
from qpass.adapters.named import check_known, misfits
from qpass.errors import CallError
from qpass.graph.dataflow import Key
from qpass.graph.provenance import Origin
from qpass.ops.lora import Adapter
from qpass.plan import Decision, Plan
from qpass.suggest import shortened

type Adapters = dict[str, dict[str, jax.Array]]


def init_adapters(plan: Plan, key: jax.Array) -> Adapters:
    """The adapters of a plan at the beginning.

    Raises:
        CallError: no rule gives any weight an adapter, or two weights have one path.
    """
    if not plan.adapters:
        raise CallError("give rules with lora=qpass.LoRA(...): none of these adds an adapter.")
    _by_path(plan)
    own = {k: jax.random.fold_in(key, k) for k in plan.adapters}
    return {adapter.path: adapter.initial(own[k]) for k, adapter in plan.adapters.items()}


def as_adapters(adapters: Any) -> Adapters:
    """Adapters as a dict of dicts of arrays.

    Raises:
        CallError: they are something else.
    """
    entries = adapters.values() if isinstance(adapters, Mapping) else [None]
    if not all(isinstance(one, Mapping) and set(one) == {"a", "b"} for one in entries):
        raise CallError(
            'give adapters as q.init_adapters makes them: {path of the weight: {"a": .., "b": ..}}.'
        )
    return {
        path: {name: jnp.asarray(factor) for name, factor in one.items()}
        for path, one in adapters.items()
    }


def check_adapters(plan: Plan, adapters: Mapping[str, Any]) -> None:
    """Hold adapters against the program that is to use them; none at all are always right.

    Raises:
        CallError: a weight has none, or one of another shape; or they are of another program.
    """
    if not adapters:
        return
    wanted = _by_path(plan)
    check_known(adapters, wanted, "adapters", "lora=")
    missing = [path for path in wanted if path not in adapters]
    if missing:
        raise CallError(f"give adapters for {shortened(missing, 5)} too, as q.init_adapters does.")
    wrong = [
        text
        for path, adapter in wanted.items()
        for name, shape in adapter.shapes.items()
        for text in misfits(f"{name} of {path}", adapters[path][name], shape)
    ]
    if wrong:
        raise CallError(
            f"give adapters of the rank and shapes of the rules: {shortened(wrong, 5)}."
        )


def _by_path(plan: Plan) -> dict[str, Adapter]:
    found = {adapter.path: adapter for adapter in plan.adapters.values()}
    if len(found) != len(plan.adapters):
        raise CallError(
            "give transform(params=...) one argument: several have weights of the same path, "
            "by which adapters are named."
        )
    return found


def site_factors(plan: Plan, adapters: Mapping[str, Any]) -> dict[Key, tuple[jax.Array, ...]]:
    """What each site with an adapter is fed: its two factors, by call path."""
    if not adapters:
        return {}
    return {d.site.key: _at_site(plan, d, adapters) for d in plan.decisions if d.adapter}


def _at_site(plan: Plan, decision: Decision, adapters: Mapping[str, Any]) -> tuple[jax.Array, ...]:
    site = decision.site
    assert site.leaf is not None
    assert site.weight is not None
    adapter, origin = plan.adapters[site.leaf], site.flows[site.weight]
    assert isinstance(origin, Origin)
    path, _ = site.key
    around = [
        ((path[:depth], path[depth][0]), eqn.params["length"])
        for depth, eqn in enumerate(plan.around(site))
        if eqn.primitive.name == "scan"
    ]
    factors = (as_factor(f, adapter.shape) for f in adapter.beside(adapters[adapter.path]))
    return tuple(with_scans(follow_steps(factor, origin.steps), around) for factor in factors)
