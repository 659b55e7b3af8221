"""Rewriting with every contraction replaced by itself: all that is left is the rebuilding."""

from collections.abc import Callable
from typing import Any

import jax

from qpass.graph._jax import bind
from qpass.graph.rebuild import REBUILD
from qpass.graph.rewrite import Frame, Rewriter


class Itself:
    """`qpass.graph.rewrite.Operations` in which nothing is wrapped and each site is as it was."""

    def is_wrapped(self, value: Any) -> bool:
        return False

    def is_state(self, value: Any) -> bool:
        return False

    def unwrap(self, value: Any) -> Any:
        return value

    def layers(self, value: Any) -> None:
        return None

    def stacked(self, value: Any) -> Any:
        return value

    def contraction(self, decision: Any, eqn: Any, operands: Any, fed: Any = None) -> Any:
        return bind(eqn, operands)[0]


def rebuilt(plan: Any, out: Any) -> Callable:
    """The program of a plan, each of its sites "decided": nested programs are all rebuilt.

    ``out`` is a tree like the results.
    """
    decisions = {d.site.key: "itself" for d in plan.decisions}
    program = plan.program

    def fn(*args):
        rewriter = Rewriter(decisions, plan.dataflow.derivatives, Itself(), REBUILD)
        flat, _ = rewriter.run(program.jaxpr, jax.tree.leaves(args), Frame())
        return jax.tree.unflatten(jax.tree.structure(out), flat)

    return fn
