"""Sites: one for each contraction of a program, with what a rule can ask about it."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np

from qpass.graph._jax import JaxprEqn, source_line
from qpass.graph.attention import Part, attention
from qpass.graph.backward import RECOMPUTED, Link, is_backward, link_backward
from qpass.graph.dataflow import Dataflow, Found, Key
from qpass.graph.dimensions import dimensions
from qpass.graph.equation import Equation, dot_equation
from qpass.graph.program import Leaf, Program
from qpass.graph.provenance import Flow, Origin

# Names that leaves of all modules have; there the id takes the module's name alone.
GENERIC = frozenset({"embedding", "embeddings", "kernel", "value", "w", "weight", "weights"})
# `jnp.einsum` leaves the user's own text as a scope: "BTD, NDH -> BTNH", "ij,jk".
EINSUM_LABEL = re.compile(r"^[A-Za-z. ]*(,[A-Za-z. ]*)+(->[A-Za-z. ]*)?$")


@dataclass(frozen=True, eq=False)
class Site:
    """One contraction of a program.

    Attributes:
        id: stable name, unique in the program: ``layers/mlp/up/dot_general.0``.
        key: call path and index of the equation.
        eqn: the equation itself.
        op: its primitive's name.
        equation: canonical einsum equation; None for ragged products and convolutions.
        einsum_label: the equation that the user wrote, when ``jnp.einsum`` left it.
        scope: ``/``-joined names of the modules around it.
        role: ``forward`` (activation by weight), ``qk`` and ``pv`` (of attention: queries by keys,
            probabilities by values), ``activations`` (of other products of two activations),
            ``dlhs`` or ``drhs`` (backward products: gradient of the activation, of the weight; of
            the left and the right operand where neither is one), ``weights`` (both are weights),
            ``constant`` (the weight is closed over), ``tangent`` (linear part of a
            ``custom_jvp`` rule), ``lookup`` (rows of a weight are gathered).
        source: line of the user's code.
        flows: provenance of both operands.
        nodes: graph nodes of both operands.
        weight: 0 or 1, the operand that is the weight; None where none is.
        kv: 0 or 1, the operand that holds keys or values; None of what is no product of attention.
        weight_path: path of the weight's leaf, or an empty string.
        leaf: index of the weight's leaf among the program's inputs; None where none is.
        repeats: how often the site runs in one call, where known.
        forward: id of the forward product that a backward one differentiates, or that a
            rematerialized backward pass runs again; empty for others and where it cannot be told.
        cotangent: operand of a backward product that is the cotangent, where it can be told.
    """

    id: str
    key: Key
    eqn: JaxprEqn
    op: str
    equation: Equation | None
    einsum_label: str | None
    scope: str
    role: str
    source: str
    flows: tuple[Flow, ...]
    nodes: tuple[int, ...]
    weight: int | None
    weight_path: str
    leaf: int | None
    repeats: int
    forward: str = ""
    cotangent: int | None = None
    kv: int | None = None

    @property
    def lhs_shape(self) -> tuple[int, ...]:
        """Shape of the left operand."""
        return self.eqn.invars[0].aval.shape

    @property
    def rhs_shape(self) -> tuple[int, ...]:
        """Shape of the right operand."""
        return self.eqn.invars[1].aval.shape

    @property
    def lhs_dtype(self) -> str:
        """Dtype name of the left operand."""
        return self.eqn.invars[0].aval.dtype.name

    @property
    def rhs_dtype(self) -> str:
        """Dtype name of the right operand."""
        return self.eqn.invars[1].aval.dtype.name

    @property
    def contract(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Contracted dimensions, by operand, in paired order.

        Of a look-up, what lies in one row of the table.
        """
        return dimensions(self.eqn)[0]


def weight_operand(site: Site) -> int:
    """The operand that is quantized as the weight.

    Keys or values in attention, of two other activations the right one; the one that is no
    cotangent in a backward product.
    """
    if site.cotangent is not None:
        return 1 - site.cotangent
    known = site.kv if site.weight is None else site.weight
    if known is not None:
        return known
    constants = [isinstance(flow, Origin) and flow.leaf < 0 for flow in site.flows]
    return 0 if constants == [True, False] else 1


def find_sites(program: Program, dataflow: Dataflow, lookups: bool = False) -> tuple[Site, ...]:
    """Every contraction of ``program`` in program order; forward ones first know their role.

    With ``lookups``, then every look-up of rows of a parameter.
    """
    parts = attention(dataflow, _of_activations(program, dataflow))
    naming = _Naming(program.leaves, link_backward(dataflow), parts)
    for found in dataflow.contractions:
        naming.add(found)
    for found in dataflow.lookups if lookups else ():
        if _is_table(program, found):
            naming.add(found)
    return tuple(naming.sites.values())


def _is_table(program: Program, found: Found) -> bool:
    """Whether rows of a floating parameter are looked up."""
    origin = found.flows[0]
    is_param = (
        isinstance(origin, Origin) and origin.leaf >= 0 and program.leaves[origin.leaf].is_param
    )
    return is_param and jnp.issubdtype(found.eqn.invars[0].aval.dtype, np.floating)


def _of_activations(program: Program, dataflow: Dataflow) -> Mapping[Key, Found]:
    """Plain products of two activations that are no derivatives."""
    return {
        found.key: found
        for found in dataflow.contractions
        if found.eqn.primitive.name == "dot_general"
        and _role(found, program.leaves, None, None)[0] == "activations"
    }


@dataclass(eq=False)
class _Naming:
    """Sites made so far; a backward product asks for its forward product among them."""

    leaves: Sequence[Leaf]
    links: Mapping[Key, Link]
    parts: Mapping[Key, Part]
    sites: dict[Key, Site] = field(default_factory=dict)
    numbering: Counter[str] = field(default_factory=Counter)

    def add(self, found: Found) -> None:
        """Make the site of ``found``."""
        eqn = found.eqn
        link = self.links.get(found.key)
        forward = self.sites.get(link.forward) if link else None
        scope, label = _scope(found)
        role, weight = _role(found, self.leaves, link, forward)
        part = self._part(found, role, forward)
        flow = found.flows[weight] if weight is not None else None
        leaf = flow.leaf if isinstance(flow, Origin) else None
        path = self.leaves[leaf].path if leaf is not None and leaf >= 0 else ""
        self.sites[found.key] = Site(
            id=self._id(_prefix(scope, path, found)),
            key=found.key,
            eqn=eqn,
            op=eqn.primitive.name,
            equation=_equation(eqn),
            einsum_label=label,
            scope=scope,
            role=part.role if part else role,
            source=source_line(eqn),
            flows=found.flows[:2],
            nodes=found.nodes[:2],
            weight=weight,
            weight_path=path,
            leaf=leaf,
            repeats=found.place.repeats,
            forward=forward.id if forward else "",
            cotangent=link.cotangent if link and is_backward(found) else None,
            kv=part.kv if part else None,
        )

    def _part(self, found: Found, role: str, forward: Site | None) -> Part | None:
        """What it is in attention; what a rematerialized backward pass runs again as at first."""
        if role == "activations" and forward is not None and forward.kv is not None:
            return Part(forward.role, forward.kv)
        return self.parts.get(found.key)

    def _id(self, prefix: str) -> str:
        number = self.numbering[prefix]
        self.numbering[prefix] += 1
        return f"{prefix}.{number}"


def _equation(eqn: JaxprEqn) -> Equation | None:
    if eqn.primitive.name != "dot_general":
        return None
    lhs, rhs = (v.aval.ndim for v in eqn.invars)
    return dot_equation(lhs, rhs, eqn.params["dimension_numbers"])


def _scope(found: Found) -> tuple[str, str | None]:
    """Module scope without JAX's own additions, and the einsum equation named in it."""
    labels = [name for name in found.place.scopes if EINSUM_LABEL.match(name)]
    modules = [name for name in found.place.scopes if name not in labels and name != RECOMPUTED]
    return "/".join(modules), labels[-1] if labels else None


def _role(
    found: Found, leaves: Sequence[Leaf], link: Link | None, forward: Site | None
) -> tuple[str, int | None]:
    if found.eqn.primitive.name == "gather":
        return "lookup", 0
    role, weight = _weight(found.flows, leaves)
    if found.tangent:
        return "tangent", weight
    if not is_backward(found):
        return role, weight
    if link is None or forward is None:
        return ("dlhs" if weight is not None else "drhs"), weight
    # ``dlhs`` is the gradient of the activation also where the weight stands on the left.
    right = forward.kv if forward.weight is None else forward.weight
    return ("dlhs" if link.shared == (1 if right is None else right) else "drhs"), weight


def _weight(flows: Sequence[Flow], leaves: Sequence[Leaf]) -> tuple[str, int | None]:
    """Role of a forward product, and which operand is its weight."""
    origins = [flow if isinstance(flow, Origin) else None for flow in flows[:2]]
    params = [k for k, o in enumerate(origins) if o and o.leaf >= 0 and leaves[o.leaf].is_param]
    constants = [k for k, o in enumerate(origins) if o and o.leaf < 0]
    if len(params) == 2:
        return "weights", 1
    if params:
        return "forward", params[0]
    if len(constants) == 1:
        return "constant", None
    return "activations", None


def _prefix(scope: str, path: str, found: Found) -> str:
    parent, _, leaf = path.rpartition("/")
    weight = parent if parent and leaf in GENERIC else path
    function = source_line(found.eqn).rpartition("(")[2].rstrip(")").rpartition(".")[2]
    name = scope or weight or function
    rule = f"{found.place.derivative}/" if found.place.derivative else ""
    return "/".join(filter(None, (name, f"{rule}{found.eqn.primitive.name}")))
