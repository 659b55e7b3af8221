"""State of delayed scaling among the variables that Flax's train states know.

Flax has a collection of variables that are overwritten with what stands in their place among the
gradients; its `TrainState.apply_gradients` keeps it from the optimizer:

>>> step = training.overwriting(qpass.value_and_grad(q))            # doctest: +SKIP
>>> ts = TrainState.create(apply_fn=f, tx=tx, params=training.variables(params, state))
>>> loss, grads = step(ts.params, batch)                            # doctest: +SKIP
>>> ts = ts.apply_gradients(grads=grads)                            # doctest: +SKIP
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qpass.delayed import State, operands
from qpass.errors import StateError
from qpass.plan import Plan
from qpass.suggest import shortened
from qpass.transformed import Transformed

OVERWRITE = "_overwrite_with_gradient"
# What Flax's fp8 operations call the operands of a product.
_IN_FLAX = {"act": "input", "weight": "kernel", "grad": "output_grad"}


def variables(params: Any, state: State) -> dict[str, Any]:
    """Parameters and state as the variables of Flax's `TrainState`."""
    return {"params": params, OVERWRITE: state}


def overwriting(step: Transformed) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """A step whose state is among its variables, and the next state among its gradients.

    Args:
        step: of `qpass.value_and_grad`; its parameters are its first argument.

    Returns:
        a function of `variables` and the other arguments, that returns ``(value, gradients)``, both
        with the structure of the variables.
    """

    def run(given: Mapping[str, Any], /, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        if not isinstance(given, Mapping) or set(given) != {"params", OVERWRITE}:
            names = list(given) if isinstance(given, Mapping) else type(given).__name__
            raise StateError(
                f"Give the variables of training.variables(params, state), 'params' and "
                f"{OVERWRITE!r}; got {names}."
            )
        (value, grads), state = step.apply(given[OVERWRITE], given["params"], *args, **kwargs)
        return value, variables(grads, state)

    return run


def to_flax(plan: Plan, state: State) -> dict[str, dict[str, jax.Array]]:
    """The state as Flax's fp8 operations keep theirs, by site, as ``input_scale [..., 1]``.

    Args:
        plan: of the program that the state is of.
        state: the state.
    """
    greatest = _greatest(plan)
    return {
        site: {
            f"{_IN_FLAX[name]}_{field}": array
            for name, entry in parts.items()
            for field, array in (
                ("amax_history", entry["history"]),
                ("scale", (entry["bound"] / greatest[site, name])[..., None]),
            )
        }
        for site, parts in state.items()
    }


def from_flax(plan: Plan, collections: Mapping[str, Mapping[str, Any]]) -> State:
    """The state that goes on where Flax's fp8 operations ended.

    Args:
        plan: of the program that is to use it.
        collections: by id of the site, the variables of the Flax operation in its place.

    Raises:
        StateError: a site or one of its variables is missing.
    """
    state: State = {}
    missing = []
    for (site, name), greatest in _greatest(plan).items():
        names = [f"{_IN_FLAX[name]}_{field}" for field in ("amax_history", "scale")]
        found = [collections.get(site, {}).get(variable) for variable in names]
        missing += [f"{site}: {n}" for n, v in zip(names, found, strict=True) if v is None]
        if all(v is not None for v in found):
            history, scale = (jnp.asarray(v, jnp.float32) for v in found)
            entry = {"bound": scale[..., 0] * greatest, "history": history}
            state.setdefault(site, {})[name] = entry
    if missing:
        raise StateError(
            f"Give from_flax the variables of every product that is scaled by earlier steps, by id "
            f"of its site; there is none for {shortened(missing, 5)}."
        )
    return state


def _greatest(plan: Plan) -> dict[tuple[str, str], float]:
    """What the greatest code of each delayed operand stands for, that of its first product."""
    found: dict[tuple[str, str], float] = {}
    for of_site in operands(plan).values():
        for operand in of_site.values():
            found.setdefault((operand.site, operand.name), operand.greatest)
    return found
