"""``dot_general`` in the table of operations."""

from typing import Any

from qpass.graph._jax import JaxprEqn
from qpass.graph.dimensions import dimensions
from qpass.graph.sites import Site
from qpass.numerics import QTensor, Scheme, decoding
from qpass.ops.asked import outline
from qpass.ops.backward import product_of
from qpass.ops.decoded import decoded
from qpass.ops.dot_general import run
from qpass.ops.dot_spec import DotSpec
from qpass.ops.op import Decided, Op, Ran
from qpass.ops.rows import has_plain_rows
from qpass.ops.sharded import explicit_sharding
from qpass_kernels import Kernel, select
from qpass_kernels.kernel import Chores

EVERY_KERNEL = "every kernel"


def dot_spec(decision: Decided, eqn: JaxprEqn, kernels: tuple[Kernel, ...]) -> DotSpec:
    """The quantized form of a ``dot_general`` equation."""
    scheme = decision.scheme
    return DotSpec(
        dims=dimensions(eqn),
        weight=decision.weight,
        act=scheme.act,
        out=eqn.outvars[0].aval.dtype.name,
        precision=eqn.params["precision"],
        kernels=kernels,
        sharding=explicit_sharding(eqn.outvars[0].aval),
        dlhs=product_of(scheme, "dlhs"),
        drhs=product_of(scheme, "drhs"),
        accumulate=scheme.accumulate,
    )


def _why_not(site: Site) -> str | None:
    return None


def _why_not_scheme(site: Site, scheme: Scheme) -> str | None:
    return None


def _why_not_backward(site: Site, product: str) -> str | None:
    return None


def _ran(spec: DotSpec, x: Any, w: QTensor, platform: str) -> Ran:
    if spec.sharding is not None:
        refused = ((EVERY_KERNEL, "shardings are part of the types here"),)
        return Ran("xla", refused, told=decoded(spec, x, w))
    product, _ = outline(spec.summed, x, w)
    picked = select(spec.kernels, platform, product)
    padded = product.batch * product.n * product.k != w.size
    reads = picked.product.table is not None
    from_type = "" if reads or not decoding(w.qtype, packed=True) else w.qtype.name
    formula = spec.act is not None and not has_plain_rows(spec.act)
    kernel, chores = picked.kernel, Chores(padded, from_type, formula)
    slow = kernel.slow(picked.product, chores)
    expected = kernel.nanoseconds(picked.product, chores)
    return Ran(kernel.name, picked.refused, slow, decoded(spec, x, w, reads), expected)


DOT_GENERAL = Op("dot_general", _why_not, _why_not_scheme, dot_spec, run, _ran, _why_not_backward)
