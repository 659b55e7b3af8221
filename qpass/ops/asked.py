"""A quantized product as a kernel is asked for it: operands in its layout, quantized, and back."""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass.graph._jax import varying_axes
from qpass.numerics import Operand, QTensor, Quantizer, common_cuts, quantize
from qpass.ops.axes_of_product import Layout, flatten, flatten_like_result, lay_out, restore
from qpass.ops.dot_spec import DotSpec
from qpass.ops.in_place import Right, right_operand
from qpass.ops.layer import Layer, tensor
from qpass.ops.matmul import describe, quantized_matmul
from qpass.ops.rows import is_by_rows, quantize_rows
from qpass.ops.static import whole_range
from qpass.ops.zero_points import KernelCall, Sizes, kernel_call, unchanged
from qpass_kernels import Kernel, Product
from qpass_kernels.epilogue import Epilogue


@dataclass(frozen=True)
class Follow:
    """What follows a product in its kernel.

    Attributes:
        epilogue: see `qpass_kernels.epilogue`.
        operands: what it asks for, of the result's shape; the bias with 1 for all axes but those
            that only the weight has.
        out: dtype name of the result.
    """

    epilogue: Epilogue
    operands: tuple[jax.Array, ...]
    out: str


@dataclass(frozen=True, eq=False)
class Asked:
    """A product as a kernel is asked for it.

    Attributes:
        spec: the product.
        layout: the order of its axes.
        call: what the kernel gets, and what is done to its result.
        right: the right operand, where it lies.
        shapes: of the activation and the weight.
    """

    spec: DotSpec
    layout: Layout
    call: KernelCall
    right: Right
    shapes: tuple[tuple, tuple]

    def answered(self, follow: Follow | None = None) -> jax.Array:
        """The product by the kernel; with something after it only where `is_plain`."""
        lhs, _, _, *rest = self.call.operands
        after = {} if follow is None else _in_layout(self.spec, self.layout, follow, lhs.shape[0])
        out = quantized_matmul(
            lhs,
            rest[0] if rest else None,
            self.right.codes,
            self.right.scale,
            group=self.call.group,
            out=self.call.out if follow is None else follow.out,
            kernels=self.spec.kernels,
            index=self.right.index,
            stored=self.right.stored,
            **after,
        )
        return self.made_of(out)

    @property
    def is_plain(self) -> bool:
        """Whether nothing is left to do with a kernel's result: no operand has zero points."""
        return self.call.finish is unchanged

    def made_of(self, out: jax.Array) -> jax.Array:
        """The product, from the kernel's result."""
        spec = self.spec
        return restore(self.call.finish(out), self.layout, spec.dims, spec.weight, *self.shapes)


def ask(spec: DotSpec, x: jax.Array, given: QTensor | Layer, fed: dict) -> Asked:
    """What a kernel is asked for: ``x``, quantized if it is to be, by the weight."""
    w = tensor(given)
    layout = lay_out(spec.dims, spec.weight, x.ndim, w)
    call = _kernel_call(spec, layout, x, w, fed)
    _, rhs, rhs_scale, *_ = call.operands
    right = right_operand(given, layout, rhs, rhs_scale)
    return Asked(spec, layout, call, right, (x.shape, w.shape))


def product(
    spec: DotSpec, x: jax.Array, given: QTensor | Layer, fed: dict, follow: Follow | None = None
) -> jax.Array:
    """The product by a kernel; with something after it only where it `Asked.is_plain`."""
    return ask(spec, x, given, fed).answered(follow)


def _in_layout(spec: DotSpec, layout: Layout, follow: Follow, batch: Any) -> dict[str, Any]:
    """What follows a product, as the kernel is given it."""
    extra = []
    for name, value in zip(follow.epilogue.operands, follow.operands, strict=True):
        value = flatten_like_result(value, layout, spec.dims, spec.weight)
        if name == "bias":
            value = jnp.broadcast_to(value.astype(jnp.float32)[:, 0], (batch, value.shape[2]))
        extra.append(value if name == "bias" else value.astype(follow.out))
    return {"epilogue": follow.epilogue, "extra": extra}


def quantized_in_place(spec: DotSpec, x: jax.Array, w: QTensor, fed: dict) -> QTensor:
    """The activation quantized in its own layout; groups lie along the axis that ends K."""
    assert spec.act is not None
    contract = lay_out(spec.dims, spec.weight, x.ndim, w).x_contract
    return _quantize_act(x, spec.act, contract, fed, spec.kernels)


def own_key(fed: dict | None, operand: int, x: jax.Array) -> jax.Array | None:
    """The key of ``x``, the activation (0) or the weight (1), where the site is fed one.

    Devices of a ``shard_map`` that hold other parts of ``x`` have other keys. Those that hold the
    same must round alike, so only axes that ``x`` varies over count.
    """
    key = (fed or {}).get("key")
    if key is None:
        return None
    places = [lax.axis_index(axis) for axis in sorted(varying_axes(x), key=str)]
    return reduce(jax.random.fold_in, [operand, *places], key)


def _quantize_act(
    x: jax.Array, act: Quantizer, contract: tuple[int, ...], fed: dict, kernels: tuple[Kernel, ...]
) -> QTensor:
    """The activation quantized, with what its site is fed for that."""
    act, bounds = whole_range(act, fed.get("bounds", {}).get("act"), x.ndim)
    if bounds is None and is_by_rows(x, act, contract):
        return quantize_rows(x, act, len(contract), kernels)
    return quantize(x, act, contract, bounds=bounds, key=own_key(fed, 0, x))


def _kernel_call(spec: DotSpec, layout: Layout, x: Any, w: QTensor, fed: dict) -> KernelCall:
    """What the kernel is asked for; both operands are cut in groups where one of them is."""
    sizes = tuple(w.shape[d] for d in layout.w_contract)
    roles = (layout.w_batch, layout.w_free, layout.w_contract)
    if spec.act is None:
        padded = w.padded(layout.w_contract)
        lhs = floats(flatten(x, layout, padded))
        return kernel_call(lhs, w.canonical(*roles), Sizes(sizes, padded), spec.out)
    act = quantized_in_place(spec, x, w, fed)
    cuts = common_cuts(w.cuts(layout.w_contract), act.cuts(layout.x_contract))
    lhs = act.canonical(layout.x_batch, layout.x_free, layout.x_contract, cuts)
    padded = w.padded(layout.w_contract, cuts)
    rhs = w.canonical(*roles, cuts)
    return kernel_call(as_kernels_take(lhs), rhs, Sizes(sizes, padded), spec.out)


def floats(x: jax.Array) -> Operand:
    """Float ``[B, M, K]`` as an operand."""
    return Operand(x, None, None, x.shape[2])


def as_kernels_take(lhs: Operand) -> Operand:
    """Kernels take no floats with scales on the left: those of tables are multiplied here."""
    is_kept = lhs.scale is None or lhs.codes.dtype != jnp.float32
    return lhs if is_kept else floats(values(lhs))


def values(a: Operand) -> jax.Array:
    """What codes stand for, float32 ``[B, R, K]``."""

    def along(x: jax.Array) -> jax.Array:
        return x if x.shape[2] == 1 else jnp.repeat(x, a.group, 2)[..., : a.codes.shape[2]]

    codes = a.codes.astype(jnp.float32)
    return (codes if a.zero is None else codes - along(a.zero)) * along(a.scale)


def outline(spec: DotSpec, x: Any, w: QTensor) -> tuple[Product, bool]:
    """The kernels' description of this product, and whether it `is_plain`; from shapes alone."""
    known: list[tuple] = []

    def operands(x: Any, w: QTensor) -> tuple[jax.Array, ...]:
        asked = ask(spec, x, w, {"key": jax.random.key(0)})
        call, right = asked.call, asked.right
        known.append((asked.is_plain, call.group, call.out, right.stored))
        lhs, _, _, *rest = call.operands
        return lhs, right.codes, right.scale, *rest

    shapes = jax.eval_shape(operands, x, w)
    is_plain, *told = known[-1]
    return describe(shapes, *told), is_plain
