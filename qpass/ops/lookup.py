"""``gather`` in the table of operations: rows of a quantized table, decoded afterwards."""

from dataclasses import dataclass
from typing import Any

import jax

from qpass.graph._jax import JaxprEqn
from qpass.graph.sites import Site
from qpass.numerics import QTensor, Scheme
from qpass.ops.layout import apply_layout, takes_rows
from qpass.ops.op import Decided, Op, Ran
from qpass.ops.straight_through import dequantize
from qpass.ops.weights import weighs
from qpass_kernels import Kernel


@dataclass(frozen=True, eq=False)
class LookupSpec:
    """A look-up; its equation says all of it."""

    eqn: JaxprEqn


def _spec(decision: Decided, eqn: JaxprEqn, kernels: tuple[Kernel, ...]) -> LookupSpec:
    return LookupSpec(eqn)


def _why_not(site: Site) -> str | None:
    whole = takes_rows(site.eqn, site.lhs_shape)
    return None if whole else "it takes something else than whole rows along the first axis"


def _why_not_scheme(site: Site, scheme: Scheme) -> str | None:
    if scheme.weight and (scheme.weight.is_learned or weighs(scheme.weight)):
        return f"{scheme.weight} finds its range from products, and this is a look-up"
    return None


def _run(spec: LookupSpec, ids: jax.Array, w: Any, others: tuple, fed: Any) -> jax.Array:
    rows = apply_layout(spec.eqn, [w, ids])
    assert isinstance(rows, QTensor)  # of every look-up that is not refused
    return dequantize(rows)


def _ran(spec: LookupSpec, ids: Any, w: QTensor, platform: str) -> Ran:
    return Ran("look-up")


LOOKUP = Op("gather", _why_not, _why_not_scheme, _spec, _run, _ran)
