"""The programs of user-defined derivative rules, traced so that they can be planned too.

A ``custom_vjp_call`` or ``custom_jvp_call`` shows only its primal program; its rules exist as
Python callables that JAX runs when it differentiates. They are traced here through `jax.vjp`
and `jax.jvp` of the equation itself, so whatever the user's rule does is in the jaxpr.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes

from qpass.graph._jax import (
    Jaxpr,
    JaxprEqn,
    bind,
    equation_context,
    located_like,
    params_jaxprs,
)

CONTRACTIONS = frozenset(
    {"dot_general", "ragged_dot_general", "conv_general_dilated", "scaled_dot"}
)


@dataclass(frozen=True, eq=False)
class VjpPrograms:
    """Forward and backward program of a ``custom_vjp_call``.

    Attributes:
        fwd: operands of the equation -> its results, then the residuals.
        bwd: residuals, then cotangents of the floating results -> cotangents of the operands
            listed in ``differentiable``.
        n_consts: leading operands that are closed over, never differentiated.
        stop: operands from here on are not differentiated either: the rule refuses their tangents.
        differentiable: positions of the operands that get a cotangent.
        floating_results: positions of the results that bring one.
    """

    fwd: Jaxpr
    bwd: Jaxpr
    n_consts: int
    stop: int
    differentiable: tuple[int, ...]
    floating_results: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class JvpProgram:
    """Forward-mode program of a ``custom_jvp_call``.

    Attributes:
        jvp: operands, then tangents of the floating ones -> results, then their tangents.
        n_consts: leading operands that are closed over, never differentiated.
        differentiable: positions of the operands that have a tangent.
        floating_results: positions of the results that have one.
    """

    jvp: Jaxpr
    n_consts: int
    differentiable: tuple[int, ...]
    floating_results: tuple[int, ...]


def derivative_programs(eqn: JaxprEqn) -> VjpPrograms | JvpProgram | None:
    """Trace the derivative rules of ``eqn``; None when nothing in it holds a contraction.

    A rule that reads a value computed outside of it, without getting it as an argument, can be
    traced but not run once that trace has ended. Differentiation of the whole then fails as it
    does under `jax.jit`; the values are right.
    """
    trace = {"custom_vjp_call": _vjp_programs, "custom_jvp_call": _jvp_program}.get(
        eqn.primitive.name
    )
    if trace is None:
        return None
    with equation_context(eqn):
        programs = trace(eqn)
    if isinstance(programs, VjpPrograms):
        jaxprs = (eqn.params["call_jaxpr"], programs.fwd, programs.bwd)
    else:
        jaxprs = (eqn.params["call_jaxpr"], programs.jvp)
    return programs if any(map(contains_contraction, jaxprs)) else None


def _jvp_program(eqn: JaxprEqn) -> JvpProgram:
    return _past_constants(_trace_jvp, eqn)


def _vjp_programs(eqn: JaxprEqn) -> VjpPrograms:
    """The rule's programs for all operands; for as many as it takes, where it refuses the rest.

    With symbolic zeros a rule sees which operands are differentiated and may refuse some, as those
    of `equinox.filter_custom_vjp` refuse all but their first argument. The last that is taken is
    found by halving; to differentiate one behind it stays an error.
    """
    try:
        return _past_constants(_trace_vjp, eqn)
    except Exception:
        stop = _first_refused(eqn) if eqn.params["symbolic_zeros"] else None
        if stop is None:
            raise
        return _past_constants(partial(_trace_vjp, stop=stop), eqn)


def _first_refused(eqn: JaxprEqn) -> int | None:
    """Position of the first operand whose tangent the forward rule refuses; None without any."""
    floating = float_positions([v.aval for v in eqn.invars])
    if _takes(eqn, len(eqn.invars)):
        return None
    taken, refused = 0, len(floating)
    while refused - taken > 1:
        middle = (taken + refused) // 2
        if _takes(eqn, floating[middle]):
            taken = middle
        else:
            refused = middle
    return floating[taken] if taken else None


def _takes(eqn: JaxprEqn, stop: int) -> bool:
    avals = [v.aval for v in eqn.invars]

    def trace(eqn, n_consts):
        return jax.make_jaxpr(lambda *o: _forward(eqn, n_consts, stop)(*o)[0])(*avals)

    try:
        _past_constants(trace, eqn)
    except Exception:  # whatever the rule raises for a tangent that it does not want
        return False
    return True


def _past_constants(trace: Callable, eqn: JaxprEqn) -> Any:
    """Trace a rule with its closed-over operands, which lead the others, held constant.

    ``num_consts`` counts them, but an equation that JAX has traced again counts none; what is left
    is JAX's objection to differentiating such an operand.
    """
    for n_consts in range(eqn.params.get("num_consts", 0), len(eqn.invars)):
        try:
            return trace(eqn, n_consts)
        except Exception as err:
            if type(err).__name__ != "CustomVJPException":
                raise
    return trace(eqn, len(eqn.invars))


def contains_contraction(jaxpr: Jaxpr) -> bool:
    """Whether a contraction occurs anywhere inside ``jaxpr``."""
    return any(
        eqn.primitive.name in CONTRACTIONS or any(map(contains_contraction, params_jaxprs(eqn)))
        for eqn in jaxpr.eqns
    )


def float_positions(avals: list) -> tuple[int, ...]:
    """Positions of the avals that have a tangent of their own dtype."""
    return tuple(i for i, aval in enumerate(avals) if jnp.issubdtype(aval.dtype, np.inexact))


def with_float0(avals: list, positions: tuple[int, ...], values: Any) -> list:
    """``values`` at ``positions``; the float0 zeros that JAX wants everywhere else."""
    given = dict(zip(positions, values, strict=True))
    return [
        given[i] if i in given else np.zeros(aval.shape, dtypes.float0)
        for i, aval in enumerate(avals)
    ]


def _call(eqn: JaxprEqn, operands: list) -> list:
    with located_like(eqn):
        return bind(eqn, operands)


def _forward(eqn: JaxprEqn, n_consts: int, stop: int) -> Callable:
    """Operands -> results of ``eqn``, and their pullback to those from ``n_consts`` to ``stop``."""

    def run(*operands):
        consts, args, rest = operands[:n_consts], operands[n_consts:stop], operands[stop:]
        return jax.vjp(lambda *a: _call(eqn, [*consts, *a, *rest]), *args)

    return run


def _trace_vjp(eqn: JaxprEqn, n_consts: int, stop: int | None = None) -> VjpPrograms:
    avals = [v.aval for v in eqn.invars]
    results = [v.aval for v in eqn.outvars]
    stop = len(avals) if stop is None else stop
    floating = float_positions(results)
    differentiable = tuple(i for i in float_positions(avals) if n_consts <= i < stop)
    structure = {}

    def fwd(*operands):
        out, pull = _forward(eqn, n_consts, stop)(*operands)
        residuals, structure["pull"] = jax.tree.flatten(pull)
        return out, residuals

    def bwd(residuals, cotangents):
        pull = jax.tree.unflatten(structure["pull"], residuals)
        grads = pull(with_float0(results, floating, cotangents))
        return [grads[i - n_consts] for i in differentiable]

    fwd_jaxpr, (_, residuals) = jax.make_jaxpr(fwd, return_shape=True)(*avals)
    bwd_jaxpr = jax.make_jaxpr(bwd)(residuals, [results[i] for i in floating])
    return VjpPrograms(fwd_jaxpr, bwd_jaxpr, n_consts, stop, differentiable, floating)


def _trace_jvp(eqn: JaxprEqn, n_consts: int) -> JvpProgram:
    avals = [v.aval for v in eqn.invars]
    differentiable = tuple(i for i in float_positions(avals) if i >= n_consts)
    floating = float_positions([v.aval for v in eqn.outvars])

    def jvp(operands, tangents):
        consts, args = operands[:n_consts], operands[n_consts:]
        full = with_float0(avals[n_consts:], tuple(i - n_consts for i in differentiable), tangents)
        out, dots = jax.jvp(lambda *a: _call(eqn, [*consts, *a]), tuple(args), tuple(full))
        return out, [dots[i] for i in floating]

    jaxpr = jax.make_jaxpr(jvp)(avals, [avals[i] for i in differentiable])
    return JvpProgram(jaxpr, n_consts, differentiable, floating)
