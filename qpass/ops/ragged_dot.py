"""``ragged_dot_general``: the products of mixtures of experts, with quantized experts.

Rows of the left operand belong to experts, sorted, and each is multiplied by the matrix of its own
(JAX's first mode; the gradient of the left operand is such a product too). Scales of the right
operand follow from the contraction as everywhere: one for each expert and column, or groups of the
contracted axis. In the gradient of experts (the second mode), rows are summed over, those of each
expert by themselves; both operands have a scale for each column. Where the experts' axis is a batch
axis (the third mode), the product is a plain one. Gradients go straight through; the products for
them are ordinary ragged ones, of floats.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from qpass.graph._jax import JaxprEqn
from qpass.graph.dimensions import dimensions
from qpass.graph.sites import Site
from qpass.numerics import Operand, QTensor, Scheme, common_cuts
from qpass.ops.asked import as_kernels_take, floats, quantized_in_place
from qpass.ops.axes_of_product import Layout, flatten, lay_out, restore
from qpass.ops.decoded import decoded
from qpass.ops.dot_general import quantized_dot, seen, without_clipped
from qpass.ops.dot_op import DOT_GENERAL
from qpass.ops.dot_spec import DotSpec
from qpass.ops.in_place import Right, right_operand
from qpass.ops.layer import Layer, tensor
from qpass.ops.op import Decided, Op, Ran
from qpass.ops.ragged_matmul import describe, ragged_matmul
from qpass.ops.ragged_rows import sum_rows
from qpass.ops.sharded import explicit_sharding
from qpass.ops.straight_through import dequantize
from qpass_kernels import Kernel, select_ragged
from qpass_kernels.reference import sealed

LEFT = "its weight is the operand whose rows are sorted by expert"
BESIDE_ROWS = "more is summed over, or batched, than the rows that experts divide"
ONE_SIDE = "sums over rows that experts divide take two quantized operands"
GROUPS_OF_ROWS = "groups along rows that experts divide"
ZERO_POINTS = "zero points in sums over rows that experts divide"
NESTED = "rows of experts inside of other rows"
SHARDED = "shardings are part of the types here"


@dataclass(frozen=True)
class RaggedSpec:
    """A ``ragged_dot_general`` with a quantized weight, in JAX's first mode or its second.

    Attributes:
        dot: the contraction as of a plain product; in the first mode its right operand is the
            weight.
        ragged: axis of the left operand that is divided among experts.
        expert: axis of the right operand that counts them; None in the second mode.
    """

    dot: DotSpec
    ragged: int
    expert: int | None

    @property
    def of_experts(self) -> int:
        """The axis that counts experts, in the first mode."""
        assert self.expert is not None
        return self.expert

    @property
    def numbers(self) -> lax.RaggedDotDimensionNumbers:
        """As JAX has it."""
        experts = [] if self.expert is None else [self.expert]
        return lax.RaggedDotDimensionNumbers(self.dot.dims, [self.ragged], experts)


@dataclass(frozen=True)
class _Call:
    """What the primitive is asked for: batches of operands, and elements of K that share scales."""

    operands: tuple[jax.Array, ...]
    group: int


def _why_not(site: Site) -> str | None:
    mode = _mode(site.eqn)
    if explicit_sharding(site.eqn.outvars[0].aval) is not None:
        return SHARDED
    if mode == "contracting":
        contract, batch = dimensions(site.eqn)
        return BESIDE_ROWS if batch[0] or len(contract[0]) > 1 else None
    if mode == "batch":
        return None
    if site.weight == 0 or site.cotangent == 1:
        return LEFT
    return NESTED if math.prod(_outer(site.eqn)) != 1 else None


def _mode(eqn: JaxprEqn) -> str:
    ragged = int(eqn.params["ragged_dot_dimension_numbers"].lhs_ragged_dimensions[0])
    (contract, _), (batch, _) = dimensions(eqn)
    return "contracting" if ragged in contract else "batch" if ragged in batch else "rows"


def _outer(eqn: JaxprEqn) -> list[int]:
    """Sizes of the free axes of the left operand before the one that is divided."""
    ragged = int(eqn.params["ragged_dot_dimension_numbers"].lhs_ragged_dimensions[0])
    (contract, _), (batch, _) = dimensions(eqn)
    shape = eqn.invars[0].aval.shape
    return [shape[d] for d in range(ragged) if d not in (*contract, *batch)]


def _why_not_scheme(site: Site, scheme: Scheme) -> str | None:
    if _mode(site.eqn) != "contracting":
        return None
    both = [q for q in (scheme.weight, scheme.act) if q]
    if len(both) < 2:
        return ONE_SIDE
    if any(q.granularity.group for q in both):
        return GROUPS_OF_ROWS
    return None if all(q.symmetric for q in both) else ZERO_POINTS


def _spec(decision: Decided, eqn: JaxprEqn, kernels: tuple[Kernel, ...]) -> RaggedSpec | DotSpec:
    """The ragged product; a plain one where the experts' axis is a batch axis."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    dot = DotSpec(
        dims=dimensions(eqn),
        weight=decision.weight,
        act=decision.scheme.act,
        out=eqn.outvars[0].aval.dtype.name,
        precision=eqn.params["precision"],
        kernels=kernels,
    )
    if _mode(eqn) == "batch":
        return dot
    (ragged,), experts = numbers.lhs_ragged_dimensions, numbers.rhs_group_dimensions
    return RaggedSpec(dot, int(ragged), int(experts[0]) if experts else None)


def _run(spec: RaggedSpec | DotSpec, x: Any, w: Any, others: tuple, fed: Any) -> Any:
    if isinstance(spec, DotSpec):
        return quantized_dot(spec, x, w, fed)
    return quantized_ragged(spec, x, w, others[0], fed)


# Jitted so that products of one shape are traced once, however many layers there are.
@partial(jax.jit, static_argnums=0)
def quantized_ragged(
    spec: RaggedSpec, x: jax.Array, w: QTensor | Layer, group_sizes: jax.Array, fed: Any = None
) -> jax.Array:
    """The ragged product of float ``x`` and quantized ``w``, in JAX's own output layout.

    Args:
        spec: dimension numbers, and how to quantize ``x``.
        x: float array.
        w: the experts; their latent float array, if any, receives their gradient.
        group_sizes: integers ``[E]``, or one list for each batch.
        fed: what the site is handed from outside (`qpass.given`); None for nothing.
    """
    given, fed = fed or {}, lax.stop_gradient(fed or {})
    if spec.dot.act is not None and spec.dot.act.is_masked:
        x = without_clipped(spec.dot, x, tensor(w), given)
    # The latent weight stays the last array: `_jvp` finds its tangent there.
    arrays, tree = jax.tree.flatten((fed, group_sizes, w))
    return _ragged((spec, tree), x, *arrays)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _ragged(static: tuple, x: jax.Array, *arrays: jax.Array) -> jax.Array:
    spec, tree = static
    fed, group_sizes, given = jax.tree.unflatten(tree, arrays)
    w = tensor(given)
    if spec.expert is None:
        return _summed(spec, x, w, group_sizes, fed)
    layout = _lay_out(spec, x.ndim, w)
    call = _call(spec, layout, x, w, group_sizes, fed)
    stack = _stack(spec, layout, given, call)
    params = {"group": call.group, "out": spec.dot.out, "kernels": spec.dot.kernels}

    def product(lhs, rhs, rhs_scale, sizes, *lhs_scale):
        scale = lhs_scale[0] if lhs_scale else None
        if stack is not None:
            rhs, rhs_scale = stack.codes, stack.scale
        index = None if stack is None else stack.index
        return ragged_matmul(lhs, scale, rhs, rhs_scale, sizes, **params, index=index)

    out = _over_batches(product, call.operands)
    return restore(out, layout, spec.dot.dims, 1, x.shape, w.shape)


def _summed(
    spec: RaggedSpec, x: jax.Array, w: QTensor, group_sizes: jax.Array, fed: dict
) -> jax.Array:
    """The second mode: ``[E, lhs free, rhs free]``, rows summed over by expert."""
    sides = {spec.dot.weight: w, 1 - spec.dot.weight: quantized_in_place(spec.dot, x, w, fed)}
    rows, free = spec.dot.dims[0], []
    operands = []
    for side in (0, 1):
        q = sides[side]
        axes = tuple(d for d in range(q.ndim) if d not in rows[side])
        operands.append(q.canonical((), axes, rows[side]))
        free += [q.shape[d] for d in axes]
    lhs, rhs = operands
    total = sum_rows(lhs.codes[0], rhs.codes[0], group_sizes.astype(jnp.int32))
    total = sealed(total * lhs.scale[0] * rhs.scale[0].T)
    return jnp.reshape(total, (-1, *free)).astype(spec.dot.out)


def _stack(spec: RaggedSpec, layout: Layout, w: QTensor | Layer, call: _Call) -> Right | None:
    """The stack that a layer of experts lies in; None where it cannot be read in place."""
    _, codes, scale, *_ = call.operands
    if not isinstance(w, Layer) or codes.shape[0] != 1 or w.stack.zero is not None:
        return None
    place = replace(layout, w_batch=(*layout.w_batch, spec.of_experts))
    right = right_operand(w, place, codes[0], scale[0])
    return None if right.index is None or right.stored is not None else right


def _over_batches(product: Any, operands: tuple[jax.Array, ...]) -> jax.Array:
    """One batch, as there nearly always is, needs no loop."""
    if operands[0].shape[0] == 1:
        return product(*(x[0] for x in operands))[None]
    return jax.vmap(product)(*operands)


def _jvp(static: tuple, primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    spec, tree = static
    x, *arrays = primals
    fed, group_sizes, w = jax.tree.unflatten(tree, arrays)
    w = tensor(w)
    out = _ragged(static, *primals)
    dx, dw = tangents[0], tangents[-1] if w.latent is not None else None
    terms = []
    if not isinstance(dx, SymbolicZero):
        terms.append(_float_ragged(spec, dx, dequantize(w), group_sizes))
    if dw is not None and not isinstance(dw, SymbolicZero):
        terms.append(_float_ragged(spec, seen(spec.dot, x, w, fed), dw, group_sizes))
    tangent = sum(terms[1:], terms[0]) if terms else jnp.zeros_like(out)
    return out, tangent


_ragged.defjvp(_jvp, symbolic_zeros=True)


def _float_ragged(spec: RaggedSpec, x: Any, w: Any, group_sizes: jax.Array) -> jax.Array:
    lhs, rhs = (w, x) if spec.dot.weight == 0 else (x, w)
    return lax.ragged_dot_general(
        lhs,
        rhs,
        group_sizes,
        spec.numbers,
        precision=spec.dot.precision,
        preferred_element_type=jnp.dtype(spec.dot.out),
    )


def _lay_out(spec: RaggedSpec, x_ndim: int, w: QTensor) -> Layout:
    """As of the plain product, the experts' axis in none of the lists (the first mode)."""
    layout = lay_out(spec.dot.dims, 1, x_ndim, w)
    return replace(layout, w_free=tuple(d for d in layout.w_free if d != spec.of_experts))


def _call(
    spec: RaggedSpec, layout: Layout, x: Any, w: QTensor, group_sizes: Any, fed: dict
) -> _Call:
    """Operands by batch: lhs ``[B, M, K]``, rhs ``[B, E, N, K]``, scales alike, ``[B, E]``."""
    roles = ((*layout.w_batch, spec.of_experts), layout.w_free, layout.w_contract)
    if spec.dot.act is None:
        lhs = floats(flatten(x, layout, w.padded(layout.w_contract)))
        rhs = w.canonical(*roles)
    else:
        act = quantized_in_place(spec.dot, x, w, fed)
        cuts = common_cuts(w.cuts(layout.w_contract), act.cuts(layout.x_contract))
        lhs = act.canonical(layout.x_batch, layout.x_free, layout.x_contract, cuts)
        lhs = as_kernels_take(_without_zero(lhs))
        rhs = w.canonical(*roles, cuts)
    rhs = _without_zero(rhs)
    experts = w.shape[spec.of_experts]
    codes, scale = (jnp.reshape(a, (-1, experts, *a.shape[1:])) for a in (rhs.codes, rhs.scale))
    sizes = _sizes(spec, layout, x, group_sizes)
    rest = () if lhs.scale is None else (lhs.scale,)
    return _Call((lhs.codes, codes, scale, sizes, *rest), min(lhs.group, rhs.group))


def _without_zero(a: Operand) -> Operand:
    """Codes less their zero points, in float32: kernels for ragged products know no such points."""
    if a.zero is None:
        return a
    zero = a.zero
    if zero.shape[2] > 1:
        zero = jnp.repeat(zero, a.group, 2)[..., : a.codes.shape[2]]
    return a._replace(codes=a.codes.astype(jnp.float32) - zero, zero=None)


def _sizes(spec: RaggedSpec, layout: Layout, x: Any, group_sizes: Any) -> jax.Array:
    """How many rows ``[B, E]`` each expert has of the flattened left operand."""
    (_, _), (batch, _) = spec.dot.dims
    inner = math.prod(x.shape[d] for d in layout.x_free if d > spec.ragged)
    shape = tuple(x.shape[d] for d in batch)
    experts = group_sizes.shape[-1]
    if group_sizes.ndim == 1:
        sizes = jnp.broadcast_to(group_sizes, (*shape, experts))
    else:
        sizes = jnp.reshape(group_sizes, (*shape, experts))
    order = (*(batch.index(d) for d in layout.x_batch), len(batch))
    return jnp.reshape(lax.transpose(sizes, order), (-1, experts)).astype(jnp.int32) * inner


def _ran(spec: RaggedSpec | DotSpec, x: Any, w: QTensor, platform: str) -> Ran:
    if isinstance(spec, DotSpec):
        return DOT_GENERAL.ran(spec, x, w, platform)
    if spec.expert is None:
        return Ran("xla", told=decoded(spec.dot, x, w))
    group: list[int] = []
    sizes = jax.ShapeDtypeStruct((w.shape[spec.of_experts],), jnp.int32)

    def operands(x: Any, w: QTensor, sizes: Any) -> tuple[jax.Array, ...]:
        layout = _lay_out(spec, x.ndim, w)
        call = _call(spec, layout, x, w, sizes, {"key": jax.random.key(0)})
        group.append(call.group)
        return tuple(a[0] for a in call.operands)

    shapes = jax.eval_shape(operands, x, w, sizes)
    product = describe(shapes, group[-1], spec.dot.out)
    picked = select_ragged(spec.dot.kernels, platform, product)
    return Ran(picked.ragged.name, picked.refused, told=decoded(spec.dot, x, w))


RAGGED_DOT = Op("ragged_dot_general", _why_not, _why_not_scheme, _spec, _run, _ran)
