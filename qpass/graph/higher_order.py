"""What runs inside each higher-order primitive: which operand feeds which inner variable.

One function for each primitive describes its sub-programs as `Body` values. The dataflow and
the rewriter both read programs through this table, so they agree on what is inside what.
A primitive that is not in the table is opaque: its sub-programs are neither read nor rewritten.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from qpass.graph._jax import Jaxpr, JaxprEqn, params_jaxprs, scan_parts

EMPTY: Mapping = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Body:
    """One sub-program of an equation.

    Attributes:
        key: names the sub-program within its equation (``body``, ``cond``, ``branch0``).
        jaxpr: the sub-program.
        operands: for each inner input, the position of the operand that feeds it.
        sliced: inner inputs that get one slice of their operand per step (leading axis gone).
        updated: inner inputs that hold another value in the next iteration.
        feedback: ``(inner output, inner input)`` of every loop-carried value.
        results: outer result -> inner output that it equals, where it is the very same value.
        repeats: how often the body runs for one run of the equation (1 when unknown).
    """

    key: str
    jaxpr: Jaxpr
    operands: tuple[int, ...]
    sliced: frozenset[int] = frozenset()
    updated: frozenset[int] = frozenset()
    feedback: tuple[tuple[int, int], ...] = ()
    results: Mapping[int, int] = field(default_factory=lambda: EMPTY)
    repeats: int = 1


def bodies(eqn: JaxprEqn) -> tuple[Body, ...]:
    """Sub-programs of ``eqn``; empty when it has none or is opaque."""
    describe = HIGHER_ORDER.get(eqn.primitive.name)
    return describe(eqn) if describe else ()


def equation_at(jaxpr: Jaxpr, key: tuple[Sequence[tuple[int, str]], int]) -> JaxprEqn | None:
    """The equation at a call path; None inside of a derivative rule, which the jaxpr lacks."""
    path, index = key
    for position, name in path:
        inner = {body.key: body.jaxpr for body in bodies(jaxpr.eqns[position])}
        if name not in inner:
            return None
        jaxpr = inner[name]
    return jaxpr.eqns[index]


def is_opaque(eqn: JaxprEqn) -> bool:
    """Whether ``eqn`` holds a sub-program that qpass does not look into."""
    return eqn.primitive.name not in HIGHER_ORDER and bool(params_jaxprs(eqn))


def _call(eqn: JaxprEqn) -> tuple[Body, ...]:
    jaxpr = params_jaxprs(eqn)[0]
    same = {i: i for i in range(len(eqn.outvars))}
    return (Body("body", jaxpr, tuple(range(len(eqn.invars))), results=same),)


def _custom_derivative(eqn: JaxprEqn) -> tuple[Body, ...]:
    jaxpr = eqn.params["call_jaxpr"]
    return (Body("primal", jaxpr, tuple(range(len(eqn.invars)))),)


def _scan(eqn: JaxprEqn) -> tuple[Body, ...]:
    positions = range(len(eqn.invars))
    _, carry, xs = scan_parts(eqn, list(positions))
    jaxpr = eqn.params["jaxpr"]
    feedback = tuple(enumerate(carry))
    return (
        Body(
            "body",
            jaxpr,
            tuple(positions),
            sliced=frozenset(xs),
            updated=_updated(jaxpr, feedback),
            feedback=feedback,
            results=_invariant_results(jaxpr, feedback),
            repeats=eqn.params["length"],
        ),
    )


def _while(eqn: JaxprEqn) -> tuple[Body, ...]:
    n_cond, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    carry = tuple(range(n_cond + n_body, len(eqn.invars)))
    jaxpr = eqn.params["body_jaxpr"]
    feedback = tuple((k, n_body + k) for k in range(len(carry)))
    updated = _updated(jaxpr, feedback)
    cond = Body(
        "cond",
        eqn.params["cond_jaxpr"],
        (*range(n_cond), *carry),
        updated=frozenset(n_cond + p - n_body for p in updated),
    )
    body = Body(
        "body",
        jaxpr,
        (*range(n_cond, n_cond + n_body), *carry),
        updated=updated,
        feedback=feedback,
        results=_invariant_results(jaxpr, feedback),
    )
    return cond, body


def _is_invariant(jaxpr: Jaxpr, output: int, position: int) -> bool:
    """Whether a carried value leaves each iteration as it entered."""
    return jaxpr.outvars[output] is jaxpr.invars[position]


def _updated(jaxpr: Jaxpr, feedback: tuple) -> frozenset[int]:
    return frozenset(p for k, p in feedback if not _is_invariant(jaxpr, k, p))


def _invariant_results(jaxpr: Jaxpr, feedback: tuple) -> dict[int, int]:
    return {k: k for k, p in feedback if _is_invariant(jaxpr, k, p)}


def _cond(eqn: JaxprEqn) -> tuple[Body, ...]:
    operands = tuple(range(1, len(eqn.invars)))
    return tuple(
        Body(f"branch{k}", jaxpr, operands) for k, jaxpr in enumerate(eqn.params["branches"])
    )


def _shard_map(eqn: JaxprEqn) -> tuple[Body, ...]:
    return (Body("body", eqn.params["jaxpr"], tuple(range(len(eqn.invars)))),)


HIGHER_ORDER: Mapping[str, Callable[[JaxprEqn], tuple[Body, ...]]] = MappingProxyType(
    {
        "jit": _call,
        "pjit": _call,
        "remat2": _call,
        "checkpoint": _call,
        "eval_jaxpr": _call,
        "closed_call": _call,
        "core_call": _call,
        "remat_opt": _call,
        "xla_metadata_call": _call,
        "custom_jvp_call": _custom_derivative,
        "custom_vjp_call": _custom_derivative,
        "scan": _scan,
        "while": _while,
        "cond": _cond,
        "shard_map": _shard_map,
    }
)
