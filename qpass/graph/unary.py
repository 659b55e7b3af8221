"""Functions of one value, read off a jaxpr: which expressions in a variable its equations compute.

Two programs that compute the same expression have equal forms, whoever wrote them, whether in
place or in jitted functions and such with derivative rules of their own.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qpass.graph._jax import Jaxpr, JaxprEqn, Literal, Var, params_jaxprs

CALLS = ("jit", "custom_jvp_call")
COMMUTATIVE = ("add", "mul", "max", "min")
MOST = 16  # equations after which no function is looked for any more

type Expression = tuple[Any, ...]
X: Expression = ("x",)


@dataclass(frozen=True, eq=False)
class Readers:
    """Who reads the values of a jaxpr.

    Attributes:
        equations: indices of the equations that read a variable, ascending.
        results: variables that are results of the jaxpr.
    """

    equations: Mapping[Var, Sequence[int]]
    results: frozenset[Var]

    @classmethod
    def of(cls, jaxpr: Jaxpr) -> Readers:
        """The readers in ``jaxpr``."""
        found: dict[Var, list[int]] = defaultdict(list)
        for index, eqn in enumerate(jaxpr.eqns):
            for var in dict.fromkeys(a for a in eqn.invars if not isinstance(a, Literal)):
                found[var].append(index)
        return cls(found, frozenset(a for a in jaxpr.outvars if not isinstance(a, Literal)))

    def only(self, var: Var, equations: frozenset[int]) -> bool:
        """Whether nothing but these equations reads ``var``."""
        return var not in self.results and equations.issuperset(self.equations.get(var, ()))


@dataclass(frozen=True, eq=False)
class Form:
    """A value as a function of another.

    Attributes:
        expression: the function.
        equations: indices of the equations that compute it.
    """

    expression: Expression
    equations: frozenset[int]


def forms(jaxpr: Jaxpr, readers: Readers, start: Var) -> dict[Var, Form]:
    """The values of ``jaxpr`` that are functions of ``start`` alone, itself among them."""
    found = {start: Form(X, frozenset())}
    ahead, seen = list(readers.equations.get(start, ())), set()
    while ahead and len(seen) < MOST:
        index = heapq.heappop(ahead)
        if index in seen:
            continue
        seen.add(index)
        eqn = jaxpr.eqns[index]
        known = {var: form.expression for var, form in found.items()}
        expression = _result(eqn, known)
        if expression is None:
            continue
        before = [found[a].equations for a in eqn.invars if not isinstance(a, Literal)]
        found[eqn.outvars[0]] = Form(expression, frozenset([index]).union(*before))
        for later in readers.equations.get(eqn.outvars[0], ()):
            heapq.heappush(ahead, later)
    return found


def expression_of(jaxpr: Jaxpr) -> Expression | None:
    """What a jaxpr of one input and one output computes; None where it is no such function."""
    if len(jaxpr.invars) != 1 or jaxpr.constvars:
        return None
    return _evaluated(jaxpr, [X])


def _evaluated(jaxpr: Jaxpr, inputs: Sequence[Expression]) -> Expression | None:
    known = dict(zip(jaxpr.invars, inputs, strict=True))
    for eqn in jaxpr.eqns:
        expression = _result(eqn, known)
        if expression is None:
            return None
        known[eqn.outvars[0]] = expression
    return _read(jaxpr.outvars[0], known) if len(jaxpr.outvars) == 1 else None


def _result(eqn: JaxprEqn, known: Mapping[Any, Expression]) -> Expression | None:
    operands = [_read(atom, known) for atom in eqn.invars]
    if None in operands or len(eqn.outvars) != 1 or eqn.effects:
        return None
    inner, name = params_jaxprs(eqn), eqn.primitive.name
    if name in CALLS and inner and not inner[0].constvars:
        return _evaluated(inner[0], [x for x in operands if x is not None])
    if inner:
        return None
    if name in COMMUTATIVE:
        operands.sort(key=repr)
    params = sorted((key, str(value)) for key, value in eqn.params.items())
    return (name, tuple(params), *operands)


def _read(atom: Any, known: Mapping[Any, Expression]) -> Expression | None:
    if not isinstance(atom, Literal):
        return known.get(atom)
    return None if getattr(atom.aval, "shape", None) else ("literal", float(atom.val))
