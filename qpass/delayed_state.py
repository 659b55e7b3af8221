"""A state of delayed scaling from outside, held against the program that is to use it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from qpass.delayed import Operand, State, every_operand, operands
from qpass.errors import StateError
from qpass.plan import Decision, Plan
from qpass.suggest import did_you_mean, shortened

FIELDS = ("bound", "history")


def check_state(plan: Plan, state: Mapping[str, Any], records: bool) -> None:
    """Hold a state against the program that is to use it.

    Args:
        plan: the plan of the program.
        state: the state.
        records: whether the program is to give the next one.

    Raises:
        StateError: naming the sites.
    """
    wanted = every_operand(plan)
    _check_present(plan, wanted, state, records)
    wrong = [text for operand in wanted for text in _misfits(operand, operand.of(state))]
    if wrong:
        raise StateError(
            f"Give a state of this program, as q.init_state makes it: {shortened(wrong, 5, '; ')}."
        )
    if records:
        _check_recorded(plan, wanted)


def _check_present(
    plan: Plan, wanted: list[Operand], state: Mapping[str, Any], records: bool
) -> None:
    missing = [str(operand) for operand in wanted if operand.of(state) is None]
    if missing:
        raise StateError(
            f"Give delayed scaling its state, as y, state = q.apply(state, params, *args) with the "
            f"first one of q.init_state(params, *args), or q.with_state(state) to leave it as it "
            f"is; there is none for {shortened(missing, 5)}."
        )
    sites = {d.site.id for d in plan.decisions}
    known = {(o.site, o.name) for o in wanted}
    extra = [(s, n) for s, parts in state.items() for n in parts if (s, n) not in known]
    if not records:  # a program without backward products may read what one with them recorded
        extra = [(site, name) for site, name in extra if site not in sites]
    if extra:
        texts = [f"{site} ({name})" for site, name in extra]
        raise StateError(
            f"Give a state of this program; it does not scale {shortened(texts, 5)} by earlier "
            f"steps: {did_you_mean(texts[0], [str(o) for o in wanted])}"
        )


def _misfits(operand: Operand, entry: Any) -> list[str]:
    """How one operand's state differs from what it is to be."""
    if not isinstance(entry, Mapping) or set(entry) != set(FIELDS):
        return [f"{operand} is to have the arrays {' and '.join(FIELDS)}"]
    shapes = {"bound": operand.loops, "history": (*operand.loops, operand.delayed.length)}
    return [
        f"{name} of {operand} is {_shape(jnp.shape(entry[name]))}, not {_shape(shape)}"
        for name, shape in shapes.items()
        if jnp.shape(entry[name]) != shape
    ]


def _shape(shape: tuple[int, ...]) -> str:
    return f"float32{list(shape)}"


def _check_recorded(plan: Plan, wanted: list[Operand]) -> None:
    """Refuse to give the next state where a product that would tell is not in the program."""
    every = [pair for of_site in operands(plan).values() for pair in of_site.items()]
    told = {operand.name for part, operand in every if part != "grad"}
    untold = [str(operand) for operand in wanted if operand.name not in told]
    if untold:
        raise StateError(
            f"Differentiate inside of what is transformed, as step = qpass.value_and_grad(q) and "
            f"(loss, grads), state = step.apply(state, params, *args): no backward product of this "
            f"program would tell the magnitudes of {shortened(untold, 5)}."
        )
    ruled = [d.site.id for d in plan.decisions if d.action is not None and _in_rule(plan, d)]
    if ruled:
        raise StateError(
            f"Differentiate inside of what is transformed, as step = qpass.value_and_grad(q), or "
            f"keep these products float: a custom derivative rule around {shortened(ruled, 5)} has "
            "no results of its own for the magnitudes that it sees."
        )


def _in_rule(plan: Plan, decision: Decision) -> bool:
    return any(eqn.primitive.name.startswith("custom_") for eqn in plan.around(decision.site))


def as_state(state: Any) -> State:
    """A state of arrays.

    Raises:
        StateError: it is no dict of dicts of arrays, or holds what is not finite or negative (which
            cannot be asked of traced arrays).
    """
    if not isinstance(state, Mapping) or not all(isinstance(v, Mapping) for v in state.values()):
        raise StateError(
            f"Give the state of q.init_state or of the last q.apply, a dict by site; got {state!r}."
        )
    bad = [f"{s} ({n})" for s, parts in state.items() for n, e in parts.items() if _is_bad(e)]
    if bad:
        raise StateError(
            f"Give a state of finite magnitudes; that of {shortened(bad, 5)} holds NaN, infinities "
            "or negative numbers. No step makes these: go back to an earlier state."
        )
    return {site: {name: dict(e) for name, e in parts.items()} for site, parts in state.items()}


def _is_bad(entry: Any) -> bool:
    arrays = [a for a in jax.tree.leaves(entry) if not isinstance(a, Tracer | jax.ShapeDtypeStruct)]
    known = [np.asarray(a) for a in arrays if getattr(a, "is_fully_addressable", True)]
    return any(not np.all(np.isfinite(a) & (a >= 0)) for a in known)
