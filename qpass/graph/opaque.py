"""What a plan lists beside products: sub-programs that nobody can look into, and linear algebra."""

from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np

from qpass.graph._jax import FIRST_ORDER, JaxprEqn, params_jaxprs
from qpass.graph.dataflow import Dataflow
from qpass.graph.derivatives import CONTRACTIONS, contains_contraction
from qpass.graph.higher_order import is_opaque
from qpass.suggest import shortened

# Of products that are left as they are, because nothing is left to do; the plan lists them.
ALREADY = "quantized already, by a transformation inside this one"

_CUDNN = "runs a kernel of cuDNN"
_PYTHON = "runs Python on the host"
HIDDEN: Mapping[str, str] = MappingProxyType(
    {
        "call_exported": "runs a program that was exported",
        "call_hi_primitive": "hides its program",
        "cudnn_fusion": _CUDNN,
        "ffi_call": "runs foreign code",
        "scaled_matmul": _CUDNN,
        "scaled_matmul_wrapper": _CUDNN,
        **{
            f"dot_product_attention{kind}_{way}{wrapper}": _CUDNN
            for kind in ("", "_fp8")
            for way in ("fwd", "bwd")
            for wrapper in ("", "_wrapper")
        },
    }
)
HOST: Mapping[str, str] = MappingProxyType({"io_callback": _PYTHON, "pure_callback": _PYTHON})
_FACTORS, _SOLVES = "factors a matrix", "solves equations"
LINEAR: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("cholesky", "geqrf", "geqp3", "lu", "qr", "schur", "svd"), _FACTORS),
        **dict.fromkeys(("eig", "eigh", "hessenberg", "tridiagonal"), _FACTORS),
        **dict.fromkeys(("triangular_solve", "tridiagonal_solve"), _SOLVES),
        "fft": "is a fixed transform",
    }
)
"""Of JAX's own primitives those that multiply matrices in ways that no rule quantizes."""
SHOWN = 5


def why_opaque(eqn: JaxprEqn) -> str | None:
    """Why ``eqn`` is left alone; None where it holds no product, as far as can be seen."""
    name = eqn.primitive.name
    if name in CONTRACTIONS:
        return None
    if name == "quantized_matmul":
        return ALREADY
    hidden = _hidden(eqn)
    if hidden is not None:
        return f"{name} {hidden}: qpass cannot look inside"
    if is_opaque(eqn) and any(map(contains_contraction, params_jaxprs(eqn))):
        return f"the body of {name} is opaque: a kernel, or a primitive unknown to qpass"
    if name in LINEAR:
        return f"{name} {LINEAR[name]}: it is no product, and stays float"
    return None


def _hidden(eqn: JaxprEqn) -> str | None:
    """What ``eqn`` runs that its parameters do not show as a jaxpr, in words.

    Python on the host counts where floating numbers come back from it. A primitive that JAX does
    not have counts where it could multiply: two floating operands of rank 2, a floating result.
    """
    name = eqn.primitive.name
    if "_prim" in eqn.params:
        return HIDDEN["call_hi_primitive"]
    if name in HIDDEN:
        return HIDDEN[name]
    if not any(map(_is_floating, eqn.outvars)):
        return None
    if name in HOST:
        return HOST[name]
    matrices = [v for v in eqn.invars if _is_floating(v) and v.aval.ndim > 1]
    is_unknown = len(matrices) > 1 and name not in FIRST_ORDER and not params_jaxprs(eqn)
    return "is no primitive of JAX's own" if is_unknown else None


def _is_floating(var: Any) -> bool:
    dtype = getattr(var.aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, np.inexact)


def opaque_findings(dataflow: Dataflow) -> tuple[str, ...]:
    """A text on how many sub-programs are not looked into, which, and where; none without any.

    What is quantized already is none of them, nor is linear algebra: nothing in them is unknown.
    """
    met = Counter(_places(dataflow))
    if not met:
        return ()
    listed = shortened((f"{place}{_times(n)}" for place, n in met.items()), SHOWN)
    count = met.total()
    noun = "1 sub-program" if count == 1 else f"{count} sub-programs"
    return (f"{noun} cannot be looked into; products inside stay as they are: {listed}.",)


def _places(dataflow: Dataflow) -> Iterator[str]:
    for found, reason in dataflow.opaque:
        name = found.eqn.primitive.name
        if reason != ALREADY and name not in LINEAR:
            yield f"{name} at {found.place.source}" if found.place.source else name
    for error in dataflow.untraceable.values():
        yield f"a custom derivative rule that cannot be traced: {error}"


def _times(count: int) -> str:
    return f" (×{count})" if count > 1 else ""
