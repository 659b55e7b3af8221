"""One read of a weight, quantized for what it is multiplied by."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qpass.errors import QuantizeError
from qpass.graph.dimensions import told_apart
from qpass.methods.gptq import GPTQ, solve
from qpass.numerics import QTensor, block_sizes, quantize
from qpass.numerics.axes import inverse
from qpass.numerics.blocks import expand
from qpass.numerics.quantize import find_range, find_scales
from qpass.plan import Decision


@dataclass(frozen=True, eq=False)
class Solved:
    """A weight as its product reads it.

    Attributes:
        values: values of codes, float32 of the shape of the operand.
        lo: least value that codes of each block cover, float32.
        hi: greatest.
    """

    values: jax.Array
    lo: jax.Array
    hi: jax.Array

    def tensor(self, decision: Decision) -> QTensor:
        """The same as a quantized operand of the decision's product."""
        action, contract = decision.quantized, _sides(decision, self.values.ndim).contract
        dtype = decision.site.eqn.invars[action.weight].aval.dtype
        bounds = (self.lo, self.hi)
        values = self.values.astype(dtype)
        return quantize(values, action.quantizer, tuple(sorted(contract)), bounds=bounds)


def operand_blocks(decision: Decision, shape: tuple[int, ...]) -> tuple[int, ...]:
    """How many neighbours share a scale along each axis of the weight as its product reads it."""
    contract = tuple(sorted(_sides(decision, len(shape)).contract))
    return block_sizes(shape, decision.quantized.quantizer.granularity, contract)


def solve_read(method: GPTQ, decision: Decision, w: jax.Array, hessian: jax.Array) -> Solved:
    """Quantize what one product reads.

    Args:
        method: how.
        decision: of the product.
        w: its weight, float32.
        hessian: ``f32[..., K, K]``, with the axes of `qpass.stats.Gathered` but those of layers.

    Raises:
        QuantizeError: the Hessian is not that of any data.
    """
    quantizer, sides = method.ranged(decision.quantized.quantizer), _sides(decision, w.ndim)
    blocks = operand_blocks(decision, w.shape)
    hessian = jnp.reshape(hessian, (-1, *hessian.shape[-2:]))
    squares = sides.operand(jnp.diagonal(hessian, axis1=-2, axis2=-1)[..., None], w.shape)
    lo, hi = find_range(w, blocks, quantizer, squares)
    found = find_scales(lo, hi, quantizer, w.dtype)
    scale, zero = (
        None if s is None else sides.matrices(_spread(s, w.shape, blocks))
        for s in (found.value, found.zero)
    )
    values = _each(method, decision, hessian, sides.matrices(w), scale, zero)
    return Solved(sides.operand(values, w.shape), lo, hi)


def _each(
    method: GPTQ,
    decision: Decision,
    hessians: jax.Array,
    matrices: jax.Array,
    scale: Any,
    zero: Any,
) -> jax.Array:
    """One matrix after the other, as of experts; with scales and zero points of all elements."""
    solved = []
    quantizer = decision.quantized.quantizer
    for k, hessian in enumerate(hessians):
        own = None if zero is None else zero[k]
        values = solve(matrices[k], hessian, scale[k], own, quantizer, method)
        if values is None:
            raise QuantizeError(
                f"give more data, or a larger damp= than {method.damp}: the Hessian of "
                f"{decision.site.id} cannot be inverted."
            )
        solved.append(values)
    return jnp.stack(solved)


@dataclass(frozen=True)
class _Sides:
    """Axes of an operand: those that tell rows of the activation apart, summed over, and free."""

    apart: tuple[int, ...]
    contract: tuple[int, ...]
    free: tuple[int, ...]

    def matrices(self, x: jax.Array) -> jax.Array:
        """As ``f32[B, K, N]``."""
        sizes = [int(np.prod([x.shape[d] for d in part])) for part in self._parts]
        return lax.transpose(x.astype(jnp.float32), self._order).reshape(sizes)

    def operand(self, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Back from ``[B, K, N]``; where N is 1, with size 1 along the free axes."""
        free = [shape[d] if x.shape[-1] != 1 else 1 for d in self.free]
        x = x.reshape(*(shape[d] for d in (*self.apart, *self.contract)), *free)
        return lax.transpose(x, inverse(self._order))

    @property
    def _parts(self) -> tuple[tuple[int, ...], ...]:
        return self.apart, self.contract, self.free

    @property
    def _order(self) -> tuple[int, ...]:
        return (*self.apart, *self.contract, *self.free)


def _sides(decision: Decision, ndim: int) -> _Sides:
    apart, contract = told_apart(decision.site.eqn, decision.quantized.weight)
    return _Sides(apart, contract, tuple(d for d in range(ndim) if d not in (*apart, *contract)))


def _spread(scale: jax.Array, shape: tuple[int, ...], blocks: tuple[int, ...]) -> jax.Array:
    return jnp.broadcast_to(expand(scale, shape, blocks), shape)
