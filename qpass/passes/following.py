"""What follows a product that a kernel can compute as well: found in the program, link by link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from qpass.graph._jax import Jaxpr, JaxprEqn, Literal
from qpass.graph.dimensions import dimensions
from qpass.graph.regions import Region
from qpass.graph.unary import Expression, Readers, expression_of, forms
from qpass.ops.followed import Followed
from qpass.plan import Decision
from qpass_kernels.epilogue import Activation, Epilogue

FLOATS = ("float32", "bfloat16", "float16")
ORDER = ("bias", "activation", "multiply", "residual")
FUNCTIONS: dict[Activation, Any] = {
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": jax.nn.gelu,
}


@dataclass(frozen=True, eq=False)
class Chain:
    """A product with what follows it.

    Attributes:
        decision: at the product.
        region: its equations, with the action.
        out: dtype of the last result.
        reason: why they cannot be computed together; "" where they may.
    """

    decision: Decision
    region: Region
    out: str
    reason: str = ""


@dataclass(frozen=True)
class Link:
    """One more thing that follows.

    Attributes:
        kind: one of `ORDER`, or "cast".
        equations: those that compute it.
        result: the value.
        operand: where the other operand is read: equation, position; None where there is none.
        activation: which one, of an activation.
    """

    kind: str
    equations: tuple[int, ...]
    result: Any
    operand: tuple[int, int] | None = None
    activation: Activation = "none"


def follow(jaxpr: Jaxpr, readers: Readers, decision: Decision) -> Chain | None:
    """Walk along what reads a product's result, as far as a kernel could come with it."""
    path, index = decision.site.key
    value: Any = decision.site.eqn.outvars[0]
    links, reason = [], ""
    while True:
        link = _next(jaxpr, readers, decision, value, links)
        if link is None:
            break
        if not readers.only(value, frozenset(link.equations)):
            reason = "" if links else "its result is read by others too"
            links = links or ([link] if link.kind != "cast" else [])
            break
        links.append(link)
        value = link.result
    while links and (links[-1].kind == "cast" and all(x.kind == "cast" for x in links)):
        links.pop()
    if not links:
        return None
    region = _region(path, index, links)
    return Chain(decision, region, links[-1].result.aval.dtype.name, reason)


def _region(path: Any, index: int, links: Sequence[Link]) -> Region:
    equations = tuple(sorted({index, *(k for link in links for k in link.equations)}))
    by_kind = {link.kind: link for link in links}
    activation = by_kind["activation"].activation if "activation" in by_kind else "none"
    what = Epilogue("bias" in by_kind, activation, "multiply" in by_kind, "residual" in by_kind)
    found = [by_kind[name].operand for name in what.operands]
    operands = tuple((equations.index(o[0]), o[1]) for o in found if o is not None)
    return Region(path, equations, Followed(what, equations.index(index), operands))


def _next(
    jaxpr: Jaxpr, readers: Readers, decision: Decision, value: Any, links: Sequence[Link]
) -> Link | None:
    """What comes after ``value``; None where it is nothing that a kernel computes."""
    before = [ORDER.index(link.kind) for link in links if link.kind != "cast"]
    stage = max(before, default=-1)
    found = _activation(jaxpr, readers, value) if stage < ORDER.index("activation") else None
    indices = readers.equations.get(value, ())
    if found is None and indices:
        eqn = jaxpr.eqns[indices[0]]
        found = _cast(eqn, indices[0], links) or _other(jaxpr, readers, decision, value, indices[0])
    if found is None or (found.kind != "cast" and ORDER.index(found.kind) <= stage):
        return None
    return found


def _cast(eqn: JaxprEqn, index: int, links: Sequence[Link]) -> Link | None:
    """A cast between floats; one that would round what has been added since is left out."""
    if eqn.primitive.name != "convert_element_type":
        return None
    new, old = (atom.aval.dtype for atom in _atoms(eqn.outvars[0], eqn.invars[0]))
    narrows = jnp.promote_types(new, old) != new
    beside = any(link.kind in ("multiply", "residual") for link in links)
    if new.name not in FLOATS or (narrows and beside):
        return None
    return Link("cast", (index,), eqn.outvars[0])


def _activation(jaxpr: Jaxpr, readers: Readers, value: Any) -> Link | None:
    """An activation function, by what it computes."""
    if value.aval.dtype.name not in FLOATS:
        return None
    wanted = _expressions(value.aval.dtype.name)
    found = forms(jaxpr, readers, value)
    for var, form in found.items():
        if form.expression in wanted:
            made = [v for v, f in found.items() if f.equations < form.equations and v is not value]
            if all(readers.only(v, form.equations) for v in made):
                equations = tuple(sorted(form.equations))
                return Link("activation", equations, var, activation=wanted[form.expression])
    return None


@cache
def _expressions(dtype: str) -> dict[Expression, Activation]:
    """What the activations compute, as `jax.nn` writes them for a dtype."""
    found = {}
    for name, function in FUNCTIONS.items():
        jaxpr = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((2,), dtype)).jaxpr
        expression = expression_of(jaxpr)
        assert expression is not None
        found[expression] = name
    return found


def _other(
    jaxpr: Jaxpr, readers: Readers, decision: Decision, value: Any, index: int
) -> Link | None:
    """A sum or product with another value: of the result's shape, or a bias."""
    eqn = jaxpr.eqns[index]
    if eqn.primitive.name not in ("add", "mul") or eqn.invars[0] is eqn.invars[1]:
        return None
    position = int(eqn.invars[0] is value)
    other, result = _atoms(eqn.invars[position], eqn.outvars[0])
    if isinstance(other, Literal) or result.aval.shape != value.aval.shape:
        return None
    if eqn.primitive.name == "add":
        bias = _bias(jaxpr, readers, decision, other, (index, position))
        if bias is not None:
            source, equations = bias
            return Link("bias", equations, result, source)
    if other.aval.shape != value.aval.shape:
        return None
    kind = "residual" if eqn.primitive.name == "add" else "multiply"
    return Link(kind, (index,), result, (index, position))


def _bias(
    jaxpr: Jaxpr, readers: Readers, decision: Decision, other: Any, read: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, ...]] | None:
    """Where a bias is read, and in which equations it is added; None where it is none.

    One that was broadcast for this sum alone is read before.
    """
    (whole,) = _atoms(decision.site.eqn.outvars[0])
    shape = whole.aval.shape
    own = _axes_of_weight(decision)
    wanted = tuple(n if d in own else 1 for d, n in enumerate(shape))
    if other.aval.shape == wanted and wanted != shape:
        return read, (read[0],)
    made = [k for k, eqn in enumerate(jaxpr.eqns) if other in eqn.outvars]
    if not made or not readers.only(other, frozenset(read[:1])):
        return None
    eqn = jaxpr.eqns[made[0]]
    if eqn.primitive.name != "broadcast_in_dim" or isinstance(eqn.invars[0], Literal):
        return None
    (source,) = _atoms(eqn.invars[0])
    sizes = dict(zip(eqn.params["broadcast_dimensions"], source.aval.shape, strict=True))
    spread = tuple(sizes.get(d, 1) for d in range(len(shape)))
    return ((made[0], 0), (made[0], read[0])) if spread == wanted else None


def _axes_of_weight(decision: Decision) -> frozenset[int]:
    """Axes of a product's result that are the weight's alone."""
    eqn, weight = decision.site.eqn, decision.quantized.weight
    operands = _atoms(*eqn.invars[:2])
    contract, batch = dimensions(eqn)
    free = [v.aval.ndim - len(contract[k]) - len(batch[k]) for k, v in enumerate(operands)]
    start = len(batch[0]) + (free[0] if weight == 1 else 0)
    return frozenset(range(start, start + free[weight]))


def _atoms(*atoms: Any) -> tuple[Any, ...]:
    """Values of a jaxpr, all of them arrays: their types have shapes."""
    return atoms
