"""Which values of a nested program depend on a tangent, through loops and calls.

A derivative rule is linear in its tangents, so a product with one is never quantized; the products
of the primal values beside them, in the same loop or call, are.
"""

from collections.abc import Sequence

from qpass.graph._jax import Jaxpr, JaxprEqn, Literal
from qpass.graph.higher_order import Body, bodies


def reached_inputs(body: Body, marked: Sequence[bool]) -> list[bool]:
    """Inputs of ``body`` that are marked, or that a marked value is carried into.

    Args:
        body: the sub-program.
        marked: for each of its inputs, whether it is marked when the first iteration begins.
    """
    found = list(marked)
    while body.feedback and any(found):
        outs = _reached_outputs(body.jaxpr, found)
        more = [p for output, p in body.feedback if outs[output] and not found[p]]
        if not more:
            break
        for position in more:
            found[position] = True
    return found


def _reached_outputs(jaxpr: Jaxpr, marked: Sequence[bool]) -> list[bool]:
    """For each result whether it depends on a marked input."""
    known = {var for var, is_marked in zip(jaxpr.invars, marked, strict=True) if is_marked}

    def is_known(atom) -> bool:
        return not isinstance(atom, Literal) and atom in known

    for eqn in jaxpr.eqns:
        operands = [is_known(atom) for atom in eqn.invars]
        if any(operands):
            results = zip(eqn.outvars, _reached_results(eqn, operands), strict=True)
            known.update(var for var, is_reached in results if is_reached)
    return [is_known(atom) for atom in jaxpr.outvars]


def _reached_results(eqn: JaxprEqn, operands: Sequence[bool]) -> list[bool]:
    inner = [body for body in bodies(eqn) if body.key != "cond"]
    if not inner:
        return [True] * len(eqn.outvars)
    each = [
        _reached_outputs(body.jaxpr, reached_inputs(body, [operands[p] for p in body.operands]))
        for body in inner
    ]
    return [any(branches) for branches in zip(*each, strict=True)]
