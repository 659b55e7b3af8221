"""Linear functions with a transpose of their own, as a JAX primitive.

A derivative rule is linear in its tangents, and JAX finds gradients by transposing it. A primitive
that says itself what its transpose is can have another one than the formula that it evaluates: a
quantized product. Forward mode evaluates the formula and reverse mode runs the transpose, under
every transformation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes, lax

from qpass.graph._jax import Primitive, ad, batching, mlir, varying_axes


class Linear(Protocol):
    """A function of an array and of residuals, linear in the first; compared by value."""

    def __call__(self, tangent: jax.Array, /, *residuals: jax.Array) -> jax.Array:
        """The result."""
        ...

    def transpose(self, cotangent: jax.Array, /, *residuals: jax.Array) -> jax.Array:
        """The cotangent of ``tangent`` from that of the result."""
        ...


def apply_linear(function: Linear, tangent: jax.Array, *residuals: jax.Array) -> jax.Array:
    """``function(tangent, *residuals)``, to be transposed as the function says.

    Inside a ``shard_map`` a tangent that is the same on all devices meets residuals that are not;
    its cotangents are summed over the devices.
    """
    axes = frozenset[str]().union(*map(varying_axes, residuals)) - varying_axes(tangent)
    if axes:
        tangent = lax.pcast(tangent, tuple(sorted(axes, key=str)), to="varying")
    return linear_p.bind(tangent, *residuals, function=function)


@dataclass(frozen=True)
class _Mapped:
    """A linear function over a leading axis of those operands that have one."""

    function: Linear
    axes: tuple[int | None, ...]

    def __call__(self, tangent: jax.Array, /, *residuals: jax.Array) -> jax.Array:
        return jax.vmap(self.function, self.axes)(tangent, *residuals)

    def transpose(self, cotangent: jax.Array, /, *residuals: jax.Array) -> jax.Array:
        axes = (0, *self.axes[1:])
        out = jax.vmap(self.function.transpose, axes)(cotangent, *residuals)
        return jnp.sum(out, axis=0) if self.axes[0] is None else out


def _abstract(*avals: Any, function: Linear) -> Any:
    return jax.make_jaxpr(function)(*avals).out_avals[0]


def _transpose(cotangent: Any, *operands: Any, function: Linear) -> list[Any]:
    tangent, *residuals = operands
    if type(cotangent) is ad.Zero:
        return [ad.Zero(tangent.aval), *[None] * len(residuals)]
    return [function.transpose(cotangent, *residuals), *[None] * len(residuals)]


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, function: Linear) -> tuple[Any, Any]:
    """Of the formula: second derivatives of the transpose are its own, taken when it has run."""
    full = [_instantiated(p, t) for p, t in zip(primals, tangents, strict=True)]
    _, tangent = jax.jvp(function, tuple(primals), tuple(full))
    return linear_p.bind(*primals, function=function), tangent


def _instantiated(primal: Any, tangent: Any) -> Any:
    if jnp.issubdtype(jax.typeof(primal).dtype, np.inexact):
        return ad.instantiate_zeros(tangent)
    return np.zeros(jnp.shape(primal), dtypes.float0)


def _batch(operands: Sequence[Any], dims: Sequence[Any], *, function: Linear) -> tuple[Any, int]:
    """One more leading axis of those operands that are mapped."""
    moved = [x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(operands, dims, strict=True)]
    mapped = _Mapped(function, tuple(None if d is None else 0 for d in dims))
    return linear_p.bind(*moved, function=mapped), 0


def _lower(ctx: Any, *operands: Any, function: Linear) -> Any:
    return mlir.lower_fun(function, multiple_results=False)(ctx, *operands)


linear_p = Primitive("linear_product")
linear_p.def_impl(lambda *operands, function: function(*operands))
linear_p.def_abstract_eval(_abstract)
ad.primitive_transposes[linear_p] = _transpose
ad.primitive_jvps[linear_p] = _jvp
batching.primitive_batchers[linear_p] = _batch
mlir.register_lowering(linear_p, _lower)
