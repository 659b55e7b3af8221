"""A short text form of programs: stable between versions of JAX, made to be compared in tests.

One line an equation, values named ``a``, ``b``, … in the order they are met, nested programs
indented below their equation with values of their own::

    in a:f32[4,8] b:f32[8,8]
    c:f32[4,8] = dot_general a b (ab,bc->ac)
    out c

Shown are only the parameters that say what an equation computes; an equation's literals are
written in place. Values that nothing reads are called ``_``. Calls of qpass's own functions take
one line; a quantized product says which types it multiplies.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_lowercase
from types import MappingProxyType
from typing import Any

import numpy as np

from qpass.graph._jax import Jaxpr, JaxprEqn, Literal, dtype_short, params_jaxprs
from qpass.graph.convolution import convolution_text
from qpass.graph.equation import dot_equation
from qpass.graph.higher_order import bodies

INDENT = "    "
FOLDED = frozenset(
    {"quantized_conv", "quantized_dot", "quantized_dots", "quantized_dot_followed", "encode_weight"}
)


def to_text(jaxpr: Jaxpr, folded: Collection[str] = FOLDED) -> str:
    """The text form of ``jaxpr``.

    Args:
        jaxpr: the program.
        folded: names of jitted functions whose calls are shown without what is inside.
    """
    return "\n".join(_lines(jaxpr, folded))


@dataclass(eq=False)
class _Names:
    """Names of the values of one program."""

    read: set[Any]
    given: dict[Any, str] = field(default_factory=dict)

    def name(self, var: Any) -> str:
        """The name of a value, a new one where it has none."""
        if isinstance(var, Literal):
            return _literal(var)
        if var not in self.read:
            return "_"
        return self.given.setdefault(var, letters(len(self.given)))

    def declare(self, var: Any) -> str:
        """Name and type."""
        return f"{self.name(var)}:{aval_text(var.aval)}"


def letters(index: int) -> str:
    """The name at ``index``: a, b, …, z, aa, ab, and so on."""
    text = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        text = ascii_lowercase[digit] + text
    return text


def aval_text(aval: Any) -> str:
    """Dtype and shape: ``f32[4,8]``; other types by JAX's own short form."""
    if not hasattr(aval, "shape"):
        return str(aval)
    return f"{dtype_short(aval.dtype)}[{','.join(map(str, aval.shape))}]"


def _literal(literal: Any) -> str:
    value = np.asarray(literal.val)
    return f"{value.item():.6g}" if value.dtype.kind in "fiub" else str(literal.val)


def _lines(jaxpr: Jaxpr, folded: Collection[str]) -> Iterator[str]:
    atoms = [atom for eqn in jaxpr.eqns for atom in eqn.invars] + list(jaxpr.outvars)
    names = _Names({atom for atom in atoms if not isinstance(atom, Literal)})
    yield " ".join(["in", *map(names.declare, [*jaxpr.constvars, *jaxpr.invars])])
    for eqn in jaxpr.eqns:
        yield _equation(eqn, names, folded)
        if not _is_folded(eqn, folded):
            yield from (INDENT + line for line in _nested(eqn, folded))
    yield " ".join(["out", *map(names.name, jaxpr.outvars)])


def _is_folded(eqn: JaxprEqn, folded: Collection[str]) -> bool:
    return eqn.primitive.name in ("jit", "pjit") and eqn.params["name"] in folded


def _equation(eqn: JaxprEqn, names: _Names, folded: Collection[str]) -> str:
    operands = " ".join(map(names.name, eqn.invars))
    results = " ".join(map(names.declare, eqn.outvars))
    if _is_folded(eqn, folded):
        name, shown = eqn.params["name"], "; ".join(_products(eqn))
    else:
        name = NAMES.get(eqn.primitive.name, eqn.primitive.name)
        shown = _parameters(eqn)
    parts = [f"{results} =" if results else "", name, operands, f"({shown})" if shown else ""]
    return " ".join(filter(None, parts))


def _products(eqn: JaxprEqn) -> Iterator[str]:
    """What the quantized products inside a call multiply."""
    if eqn.primitive.name == "quantized_matmul":
        yield _parameters(eqn)
    elif eqn.primitive.name == "joined_matmul":
        stacks = {v.aval.shape[0] for v in eqn.invars if v.aval.ndim == 4}
        layers = "".join(f", each by a layer of {size}" for size in sorted(stacks)[:1])
        yield f"{len(eqn.outvars)} products with one left operand{layers}"
    for jaxpr in params_jaxprs(eqn):
        for inner in jaxpr.eqns:
            yield from _products(inner)


def _nested(eqn: JaxprEqn, folded: Collection[str]) -> Iterator[str]:
    inner = bodies(eqn)
    for body in inner:
        if len(inner) > 1:
            yield f"{body.key}:"
        indent = INDENT if len(inner) > 1 else ""
        yield from (indent + line for line in _lines(body.jaxpr, folded))


def _parameters(eqn: JaxprEqn) -> str:
    show = PARAMETERS.get(eqn.primitive.name)
    return show(eqn.params, [atom.aval for atom in eqn.invars]) if show else ""


def _dims(params: Mapping, avals: Sequence[Any]) -> str:
    lhs, rhs = (aval.ndim for aval in avals)
    return str(dot_equation(lhs, rhs, params["dimension_numbers"]))


def _product(params: Mapping, avals: Sequence[Any]) -> str:
    lhs, rhs = (dtype_short(aval.dtype) for aval in avals[:2])
    rhs = params["stored"] or rhs
    k = avals[0].shape[2]
    group = "" if params["group"] == k else f", groups of {params['group']}"
    layer = f", a layer of {avals[1].shape[0]}" if avals[1].ndim == 4 else ""
    then = f", then {params['epilogue']}" if params["epilogue"] else ""
    return f"{lhs} x {rhs} -> {dtype_short(np.dtype(params['out']))}{group}{layer}{then}"


def _named(*keys: str) -> Callable[[Mapping, Sequence[Any]], str]:
    def show(params: Mapping, avals: Sequence[Any]) -> str:
        found = {key: params.get(key) for key in keys}
        return ", ".join(f"{key}={value}" for key, value in found.items() if value not in DEFAULTS)

    return show


def _only(key: str) -> Callable[[Mapping, Sequence[Any]], str]:
    return lambda params, avals: _numbers(params[key])


def _numbers(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _limits(params: Mapping, avals: Sequence[Any]) -> str:
    pairs = zip(params["start_indices"], params["limit_indices"], strict=True)
    return ",".join(f"{start}:{stop}" for start, stop in pairs)


DEFAULTS = (None, False, 1, "")
# One name where versions of JAX differ.
NAMES = MappingProxyType({"checkpoint": "remat", "remat2": "remat", "pjit": "jit"})
PARAMETERS: Mapping[str, Callable[[Mapping, Sequence[Any]], str]] = MappingProxyType(
    {
        "argmax": _only("axes"),
        "broadcast_in_dim": _only("broadcast_dimensions"),
        "checkpoint": _named("differentiated"),
        "concatenate": _only("dimension"),
        "conv_general_dilated": convolution_text,
        "convert_element_type": lambda params, avals: dtype_short(params["new_dtype"]),
        "dot_general": _dims,
        "integer_pow": _only("y"),
        "jit": _named("name"),
        "name": _only("name"),
        "quantized_matmul": _product,
        "reduce_max": _only("axes"),
        "reduce_sum": _only("axes"),
        "remat2": _named("differentiated"),
        "reshape": _only("new_sizes"),
        "scan": _named("length", "reverse", "unroll"),
        "slice": _limits,
        "split": _only("sizes"),
        "squeeze": _only("dimensions"),
        "transpose": _only("permutation"),
    }
)
