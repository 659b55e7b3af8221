"""The rules that rebuild ``custom_vjp_call`` and ``custom_jvp_call`` with their derivative rules.

Leading operands that the equation closes over (``num_consts``) stay closed over: passed as
arguments they would be differentiated, which the user's rule does not provide for.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from qpass.errors import CallError
from qpass.graph._jax import JaxprEqn, bind, source_line
from qpass.graph.derivatives import JvpProgram, VjpPrograms, with_float0
from qpass.graph.rewrite import Frame, Result, Rewriter


def custom_vjp(rw: Rewriter, eqn: JaxprEqn, operands: list, frame: Frame, index: int) -> Result:
    """A ``custom_vjp_call``: its three programs rewritten, its rule kept."""
    if rw.tap is not None:
        return _tapped(rw, eqn, operands, frame, index)
    programs = rw.derivatives.get((frame.path, index))
    if not isinstance(programs, VjpPrograms):
        return _without_rule(rw, eqn, operands, frame, index)
    consts, args = operands[: programs.n_consts], operands[programs.n_consts :]
    # Fed values are arguments too: the rule runs later, when what it closed over may be gone.
    flat, tree = jax.tree.flatten((frame.beneath(index), args))
    n_fed = len(jax.tree.leaves(frame.beneath(index)))
    refused = len(jax.tree.leaves(operands[programs.stop :]))
    n_results = len(eqn.outvars)

    @jax.custom_vjp
    def call(*arrays):
        feeds, values = jax.tree.unflatten(tree, arrays)
        inner = frame.fed(feeds).enter(index, "primal")
        outs, _ = rw.run(eqn.params["call_jaxpr"], [*consts, *values], inner)
        return rw.unwrap_all(outs, frame, index, "dequantized: result of custom_vjp")

    def fwd(*arrays):
        if refused:
            arrays = _taken(eqn, arrays, refused)
        feeds, values = jax.tree.unflatten(tree, arrays)
        inner = frame.fed(feeds).enter(index, "fwd")
        outs, _ = rw.run(programs.fwd, [*consts, *values], inner)
        results = rw.unwrap_all(outs[:n_results], frame, index, "dequantized: custom_vjp")
        return results, (feeds, outs[n_results:])

    def bwd(residuals, cotangents):
        feeds, values = residuals
        seen = [_with_zeros(cotangents[i]) for i in programs.floating_results]
        inner = frame.fed(feeds).enter(index, "bwd")
        grads, _ = rw.run(programs.bwd, [*values, *seen], inner)
        by_position = dict(zip(programs.differentiable, grads, strict=True))
        return (*[None] * n_fed, *_flat_cotangents(rw, args, by_position, programs.n_consts))

    call.defvjp(fwd, bwd, symbolic_zeros=bool(refused))
    return call(*flat), {}


def _tapped(rw: Rewriter, eqn: JaxprEqn, operands: list, frame: Frame, index: int) -> Result:
    """The function inlined: taps leave as extra results, which a derivative rule cannot have.

    Under differentiation its rule runs instead, with products of its own. What these get, as far as
    it needs no cotangents, can be tapped beside.
    """
    outs, taps = rw.run(eqn.params["call_jaxpr"], operands, frame.enter(index, "primal"))
    rule = rw.derivatives.get((frame.path, index)) if rw.tap_rules else None
    if isinstance(rule, VjpPrograms):
        taps |= rw.run(rule.fwd, operands, frame.enter(index, "fwd"))[1]
    if isinstance(rule, JvpProgram):
        avals = [eqn.invars[k].aval for k in rule.differentiable]
        zeros = [jnp.zeros(aval.shape, aval.dtype) for aval in avals]
        taps |= rw.run(rule.jvp, [*operands, *zeros], frame.enter(index, "jvp"))[1]
    return outs, taps


def _taken(eqn: JaxprEqn, primals: tuple, refused: int) -> list:
    """The values of what JAX hands to a rule with symbolic zeros; its last may have no tangents.

    Raises:
        CallError: one of them is differentiated.
    """
    if any(primal.perturbed for primal in primals[-refused:]):
        raise CallError(
            f"do not differentiate with respect to the last {refused} operands of the custom_vjp "
            f"function at {source_line(eqn) or 'an unknown line'}: its own rule refuses their "
            "tangents, with and without qpass. Wrap them in jax.lax.stop_gradient."
        )
    return [primal.value for primal in primals]


def _with_zeros(cotangent: Any) -> Any:
    """The cotangent, as an array also where JAX knows that it is zero."""
    if not isinstance(cotangent, SymbolicZero):
        return cotangent
    aval: Any = cotangent.aval
    return jnp.zeros(aval.shape, aval.dtype)


def _without_rule(rw: Rewriter, eqn: JaxprEqn, operands: list, frame: Frame, index: int) -> Result:
    """No traced rule: inlined where it holds decided sites, else left as it is."""
    if (frame.path, index) in rw.enclosing:
        return rw.run(eqn.params["call_jaxpr"], operands, frame.enter(index, "primal"))
    why = f"dequantized at {eqn.primitive.name}"
    return bind(eqn, rw.unwrap_all(operands, frame, index, why)), {}


def _flat_cotangents(rw: Rewriter, args: list, grads: dict[int, Any], first: int) -> tuple:
    """One cotangent for each flat array: a wrapped argument's goes to its float weight."""
    out: list[Any] = []
    for k, value in enumerate(args):
        grad = grads.get(first + k)
        if not rw.operations.is_wrapped(value):
            out.append(grad)
            continue
        latent = rw.operations.latent_position(value)
        n_leaves = len(jax.tree.leaves(value))
        out.extend(grad if i == latent else None for i in range(n_leaves))
    return tuple(out)


def custom_jvp(rw: Rewriter, eqn: JaxprEqn, operands: list, frame: Frame, index: int) -> Result:
    """A ``custom_jvp_call``: both programs rewritten, its rule kept."""
    if rw.tap is not None:
        return _tapped(rw, eqn, operands, frame, index)
    program = rw.derivatives.get((frame.path, index))
    if not isinstance(program, JvpProgram):
        return _without_rule(rw, eqn, operands, frame, index)
    consts, args = operands[: program.n_consts], operands[program.n_consts :]
    flat, tree = jax.tree.flatten((frame.beneath(index), args))
    n_fed = len(jax.tree.leaves(frame.beneath(index)))
    n_results = len(eqn.outvars)

    @jax.custom_jvp
    def call(*arrays):
        feeds, values = jax.tree.unflatten(tree, arrays)
        inner = frame.fed(feeds).enter(index, "primal")
        outs, _ = rw.run(eqn.params["call_jaxpr"], [*consts, *values], inner)
        return rw.unwrap_all(outs, frame, index, "dequantized: result of custom_jvp")

    @call.defjvp
    def jvp(arrays, dots):
        feeds, values = jax.tree.unflatten(tree, arrays)
        tangents = _tangents(rw, args, dots[n_fed:], program)
        inner = frame.fed(feeds).enter(index, "jvp")
        outs, _ = rw.run(program.jvp, [*consts, *values, *tangents], inner)
        results = rw.unwrap_all(outs[:n_results], frame, index, "dequantized: custom_jvp")
        return results, _full_tangents(eqn, results, outs[n_results:], program)

    return call(*flat), {}


def _tangents(rw: Rewriter, args: list, dots: tuple, program: JvpProgram) -> list:
    """The tangent of each differentiable argument; a wrapped one has its float weight's."""
    out, position = [], 0
    for k, value in enumerate(args):
        n = len(jax.tree.leaves(value))
        mine = dots[position : position + n]
        position += n
        if program.n_consts + k not in program.differentiable:
            continue
        if rw.operations.is_wrapped(value):
            latent = rw.operations.latent_position(value)
            array = jax.eval_shape(rw.operations.unwrap, value)
            zero = jnp.zeros(array.shape, array.dtype)
            out.append(zero if latent is None else mine[latent])
        else:
            out.append(mine[0])
    return out


def _full_tangents(eqn: JaxprEqn, results: list, dots: list, program: JvpProgram) -> list:
    return with_float0([v.aval for v in eqn.outvars], program.floating_results, dots)
