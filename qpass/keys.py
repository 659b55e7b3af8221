"""Keys for stochastic rounding: from the caller's one, its own for each site, iteration and leaf.

A site's key is folded from its number among all sites of the program, so that it does not change
when rules do; each iteration of the scans around it has another one. What a rematerialized backward
pass runs again has the key of its first run, and so rounds alike.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from qpass.errors import QuantizeError
from qpass.graph.dataflow import Key
from qpass.numerics import NEAREST, QTensor, Quantizer, Scheme
from qpass.plan import Decision, Plan
from qpass.suggest import shortened

BACKWARD = frozenset({"dlhs", "drhs"})


def draws(quantizer: Quantizer | None) -> bool:
    """Whether a quantizer rounds at random."""
    return quantizer is not None and quantizer.rounding != NEAREST


def as_key(key: Any) -> jax.Array:
    """One typed key, from what `jax.random.key` or `jax.random.PRNGKey` gives.

    Raises:
        QuantizeError: it is no key, or several.
    """
    key = jnp.asarray(key)
    if key.dtype == jnp.uint32 and key.ndim == 1:
        key = jax.random.wrap_key_data(key)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.ndim:
        raise QuantizeError(
            f"Give one random key, as jax.random.key(0); got {key.dtype}{list(key.shape)}."
        )
    return key


def site_keys(plan: Plan, key: jax.Array) -> dict[Key, jax.Array]:
    """The keys of all sites that draw random numbers, by call path.

    Returns:
        keys with a leading axis for each scan around the site.
    """
    numbers: dict[str, int] = {}
    for decision in plan.decisions:
        numbers.setdefault(_first_run(decision), len(numbers))
    found = {}
    for decision in keyed_sites(plan):
        own = jax.random.fold_in(key, numbers[_first_run(decision)])
        lengths = plan.iterations(decision.site)
        found[decision.site.key] = jax.random.split(own, lengths) if lengths else own
    return found


def leaf_keys(plan: Plan, key: jax.Array | None) -> dict[int, jax.Array]:
    """The keys of all stored leaves that are rounded at random, by index of the input."""
    if key is None:
        return {}
    own = jax.random.fold_in(key, len(plan.decisions))
    return {k: jax.random.fold_in(own, k) for k in _random_leaves(plan)}


def random_sites(plan: Plan) -> list[Decision]:
    """Sites that round at random whenever they run."""
    return [d for d in plan.decisions if d.action is not None and any(map(draws, _at_work(d)))]


def keyed_sites(plan: Plan) -> list[Decision]:
    """Sites that take a key: those, adapters that drop, and such as round when differentiated."""
    rounding = {d.site.key for d in random_sites(plan)}
    return [d for d in plan.decisions if d.site.key in rounding or _drops(d) or _draws_backward(d)]


def _draws_backward(decision: Decision) -> bool:
    """Whether its backward products round at random; without a key, these are an error."""
    scheme = decision.action.scheme if decision.action else Scheme()
    products = [p.quantizers for p in (scheme.dlhs, scheme.drhs) if p]
    return any(draws(quantizer) for pair in products for quantizer in pair)


def _drops(decision: Decision) -> bool:
    return decision.adapter is not None and decision.adapter.lora.dropout > 0


def check_key(plan: Plan, key: jax.Array | None, values: Sequence[Any]) -> None:
    """Refuse to draw random numbers without a key, or the same ones in each iteration of a loop.

    Args:
        plan: the plan.
        key: what was given.
        values: the inputs of the call: a leaf that comes stored is not rounded again.

    Raises:
        QuantizeError: naming the sites.
    """
    lacking = [d.site.id for d in random_sites(plan)]
    lacking += [_path(plan, k) for k in _random_leaves(plan) if not isinstance(values[k], QTensor)]
    if lacking and key is None:
        raise QuantizeError(
            f"Give a random key, as q.with_key(key)(...) with another key for each call: "
            f"{shortened(lacking, 5)} rounds stochastically."
        )
    looping = [d.site.id for d in keyed_sites(plan) if _in_while(plan, d)]
    if looping and key is not None:
        raise QuantizeError(
            f"Round {shortened(looping, 5)} to the nearest, without dropout, or write the loop as "
            "a scan: in a while loop, all iterations would draw the same random numbers."
        )


def check_leaf_key(plan: Plan, index: int, key: jax.Array | None) -> None:
    """Refuse to store a leaf that is rounded at random without a key.

    Raises:
        QuantizeError: naming the leaf.
    """
    if key is None and draws(plan.storage[index].quantizer):
        raise QuantizeError(
            f"Give a random key, as q.with_key(key).quantize(...): {_path(plan, index)} is stored "
            f"as {plan.storage[index].quantizer}, which rounds stochastically."
        )


def _random_leaves(plan: Plan) -> list[int]:
    return [k for k, storage in plan.storage.items() if draws(storage.quantizer)]


def _path(plan: Plan, index: int) -> str:
    return plan.program.leaves[index].path


def _at_work(decision: Decision) -> tuple[Quantizer | None, ...]:
    """The quantizers that a site runs itself."""
    scheme = decision.quantized.scheme
    return scheme.act, None if decision.stored else scheme.weight


def _first_run(decision: Decision) -> str:
    """The site whose key this one has: a backward product draws as its forward product says."""
    site, action = decision.site, decision.action
    shares = site.role not in BACKWARD or (action is not None and action.backward is not None)
    return site.forward if site.forward and shares else site.id


def _in_while(plan: Plan, decision: Decision) -> bool:
    return any(eqn.primitive.name == "while" for eqn in plan.around(decision.site))
