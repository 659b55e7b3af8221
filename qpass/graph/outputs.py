"""What a function returned, as results of its program.

A program computes arrays. What is no array (an activation function inside a returned module), and
what is an input handed on untouched (the weights inside a returned state), stands beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from qpass.graph._jax import Jaxpr, Literal
from qpass.graph.higher_order import Body, bodies


@dataclass(frozen=True, eq=False)
class Static:
    """A leaf of the result that is no array."""

    value: Any


@dataclass(frozen=True)
class Handed:
    """A leaf of the result that is an input of the program."""

    index: int


@dataclass(frozen=True, eq=False)
class Outputs:
    """How the result of a function is put together.

    Attributes:
        tree: structure of ``(result, state)``.
        leaves: for each leaf of it, where it is not computed, what it is; None where it is.
    """

    tree: Any
    leaves: tuple[Static | Handed | None, ...]

    def build(self, computed: Sequence[Any], inputs: Sequence[Any]) -> tuple[Any, Any]:
        """``(result, state)`` from the program's results and inputs."""
        rest = iter(computed)
        full = [next(rest) if leaf is None else _given(leaf, inputs) for leaf in self.leaves]
        return jax.tree.unflatten(self.tree, full)


def _given(leaf: Static | Handed, inputs: Sequence[Any]) -> Any:
    return inputs[leaf.index] if isinstance(leaf, Handed) else leaf.value


def split_outputs(
    result: Any, state: Any, is_dynamic: Callable[[Any], bool]
) -> tuple[list[Any], Outputs]:
    """The arrays that a traced function returned, and how to put its result together.

    Args:
        result: what the function returned; its Python numbers are results of the program.
        state: what else came out of the call; its Python numbers stay what they are.
        is_dynamic: tells arrays from other leaves.
    """
    leaves, tree = jax.tree.flatten((result, state))
    numbers = len(jax.tree.leaves(result))
    computed = [
        is_dynamic(leaf) or (k < numbers and isinstance(leaf, int | float | complex))
        for k, leaf in enumerate(leaves)
    ]
    kept = [leaf for leaf, is_array in zip(leaves, computed, strict=True) if is_array]
    sources = [
        None if is_array else Static(leaf) for leaf, is_array in zip(leaves, computed, strict=True)
    ]
    return kept, Outputs(tree, tuple(sources))


def hand_on(jaxpr: Jaxpr, outputs: Outputs) -> tuple[Jaxpr, Outputs]:
    """The program without those results of its state that are inputs, untouched.

    A weight that a call returns in its state is not read by it: it may be stored quantized.
    """
    (result, _) = jax.tree.unflatten(outputs.tree, range(len(outputs.leaves)))
    first = len(jax.tree.leaves(result))
    origins = iter(zip(jaxpr.outvars, handed_on(jaxpr), strict=True))
    leaves, kept = [], []
    for k, leaf in enumerate(outputs.leaves):
        if leaf is None:
            var, origin = next(origins)
            if k >= first and origin is not None:
                leaf = Handed(origin)
            else:
                kept.append(var)
        leaves.append(leaf)
    if len(kept) == len(jaxpr.outvars):
        return jaxpr, outputs
    return jaxpr.replace(outvars=kept), Outputs(outputs.tree, tuple(leaves))


def handed_on(jaxpr: Jaxpr) -> list[int | None]:
    """For each result, the input that it equals, through nested programs too; None for others."""
    origins = {var: k for k, var in enumerate(jaxpr.invars)}
    for eqn in jaxpr.eqns:
        inner = bodies(eqn)
        if len(inner) == 1:
            for result, position in _through(inner[0]):
                operand = eqn.invars[position]
                if not isinstance(operand, Literal) and operand in origins:
                    origins[eqn.outvars[result]] = origins[operand]
    return [None if isinstance(v, Literal) else origins.get(v) for v in jaxpr.outvars]


def _through(body: Body) -> list[tuple[int, int]]:
    """``(result, operand)`` of what a nested program hands on."""
    if not body.results:
        return []
    inside = handed_on(body.jaxpr)
    changed = body.sliced | body.updated
    pairs = [(result, inside[output]) for result, output in body.results.items()]
    return [(r, body.operands[p]) for r, p in pairs if p is not None and p not in changed]
