"""The ways to compute a quantized convolution, and which is taken where.

* `ByKernel`: the windows are the rows of a product with the kernel as its matrix, which kernels for
  products multiply. A window of one element is the input itself; others are copied out of the
  codes.
* `ByTaps`: where each feature has a kernel of its own (depthwise), a sum over the kernel's
  elements, each times the input shifted by its place: XLA makes one loop of it.
* `ByIntegers`: XLA's convolution of int8 into int32, which its library for CPU is fast at.
* `ByXla`: XLA's own convolution, of the codes as floats, which hold them exactly.

None of them multiplies by a scale before it has summed up. Where an activation has zero points, its
padding has their value: zero points are taken off after that, or the padding is filled with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from qpass.numerics import Operand, QTensor, QType, decoding, dtype_of, kernel_codes
from qpass.ops.asked import as_kernels_take, floats, quantized_in_place
from qpass.ops.decoded import decoded
from qpass.ops.dot_spec import DotSpec
from qpass.ops.matmul import describe, quantized_matmul
from qpass.ops.op import Ran
from qpass.ops.rows import has_plain_rows
from qpass.ops.window import Window
from qpass.ops.zero_points import KernelCall, Sizes, kernel_call
from qpass_kernels import select
from qpass_kernels.kernel import Chores
from qpass_kernels.reference import is_safe, sealed

type Act = QTensor | jax.Array

AS_FLOATS = "no faster than float32's: codes are turned into floats, and XLA convolves these"


@dataclass(frozen=True)
class Form:
    """A way to compute it.

    Attributes:
        dot: operands, result and activation.
        window: how the kernel is laid over the input.
    """

    dot: DotSpec
    window: Window

    def __call__(self, x: Act, w: QTensor) -> jax.Array:
        """The convolution of ``x``, quantized or float, with the kernel ``w``."""
        raise NotImplementedError

    def ran(self, x: Any, w: QTensor, platform: str) -> Ran:
        """What the plan says of it, from the shapes of the float ``x`` and of ``w``."""
        slow = AS_FLOATS if platform == "cpu" else ""
        return Ran("xla", slow=slow, told=decoded(self.dot, x, w))


@dataclass(frozen=True)
class ByKernel(Form):
    """A product of windows, by a kernel for products."""

    def __call__(self, x: Act, w: QTensor) -> jax.Array:
        """See `Form`."""
        call = self._call(x, w)
        lhs, rhs, rhs_scale, *lhs_scale = call.operands
        out = quantized_matmul(
            lhs,
            lhs_scale[0] if lhs_scale else None,
            rhs,
            rhs_scale,
            group=call.group,
            out=call.out,
            kernels=self.dot.kernels,
        )
        return self._restored(call.finish(out), x, w)

    def ran(self, x: Any, w: QTensor, platform: str) -> Ran:
        """See `Form`."""
        known: list[KernelCall] = []

        def operands(x: Any, w: QTensor) -> tuple[jax.Array, ...]:
            known.append(self._call(quantized(self.dot, x, w), w))
            return known[-1].operands

        shapes = jax.eval_shape(operands, x, w)
        product = describe(shapes, known[-1].group, known[-1].out, None)
        picked = select(self.dot.kernels, platform, product)
        from_type = w.qtype.name if decoding(w.qtype, packed=True) else ""
        formula = self.dot.act is not None and not has_plain_rows(self.dot.act)
        slow = picked.kernel.slow(picked.product, Chores(False, from_type, formula))
        told = (*self._copied(w), *decoded(self.dot, x, w))
        return Ran(picked.kernel.name, picked.refused, slow, told)

    def _copied(self, w: QTensor) -> tuple[str, ...]:
        size = math.prod(self.window.kernel(w))
        return () if size == 1 else (f"windows are copied out: {size} times the input's codes",)

    def _call(self, x: Act, w: QTensor) -> KernelCall:
        left, right = self._rows(x, w), self._matrix(w)
        k = (right.codes.shape[2],)
        return kernel_call(as_kernels_take(left), right, Sizes(k, k), self.dot.out)

    def _rows(self, x: Act, w: QTensor) -> Operand:
        """Windows as rows: ``[groups, N * places, kernel elements * features of a group]``."""
        image, result = _image(self.window, x), self.window.result(x, w)
        taps = self.window.taps(image.codes, self.window.kernel(w), result)
        codes = _by_group(jnp.stack([*taps], -2), self.window.groups)
        if image.scale is None:
            return floats(codes)
        places = math.prod(result)

        def of_rows(a: jax.Array | None) -> jax.Array | None:
            if a is None:
                return None
            return jnp.broadcast_to(jnp.repeat(a, places, 1), (*codes.shape[:2], 1))

        return Operand(codes, of_rows(image.scale), of_rows(image.zero), codes.shape[2])

    def _matrix(self, w: QTensor) -> Operand:
        """The kernel as ``[groups, outputs of a group, kernel elements * features]``."""
        out, feature, *spatial = self.window.numbers.rhs_spec
        if self.window.groups == 1:
            return w.canonical((), (out,), (*spatial, feature))
        sizes = (self.window.groups, w.shape[out] // self.window.groups)
        parts = w.reshape((*w.shape[:out], *sizes, *w.shape[out + 1 :]))
        assert parts is not None  # each output has a scale of its own, or all share one
        moved = [d + (d > out) for d in (*spatial, feature)]
        return parts.canonical((out,), (out + 1,), moved)

    def _restored(self, out: jax.Array, x: Act, w: QTensor) -> jax.Array:
        """``[groups, N * places, outputs of a group]`` with the axes of the result."""
        sizes = (x.shape[self.window.numbers.lhs_spec[0]], *self.window.result(x, w))
        whole = jnp.moveaxis(out, 0, 1)
        return self.window.to_result(lax.reshape(whole, (*sizes, out.shape[0] * out.shape[2])))


@dataclass(frozen=True)
class ByTaps(Form):
    """A sum over the elements of kernels that see one feature each."""

    def __call__(self, x: Act, w: QTensor) -> jax.Array:
        """See `Form`."""
        image, (kernel, scale) = _image(self.window, x), as_floats(w, jnp.dtype("float32"))
        out, feature, *spatial = self.window.numbers.rhs_spec
        kernel = lax.transpose(kernel, (*spatial, out, feature))
        own = (self.window.groups, w.shape[out] // self.window.groups)
        sizes = self.window.kernel(w)
        kernel = lax.reshape(kernel, (math.prod(sizes), *own))
        zero = 0 if image.zero is None else _of_examples(image.zero, len(spatial) + 1)
        taps = self.window.taps(sealed(image.codes), sizes, self.window.result(x, w))
        first, *rest = (
            (tap.astype(jnp.float32) - zero)[..., None] * kernel[k] for k, tap in enumerate(taps)
        )
        total = sum(rest, first)
        total = self.window.to_result(lax.reshape(total, (*total.shape[:-2], w.shape[out])))
        return scaled(self.dot, self.window, total, _scale(x), scale)

    def ran(self, x: Any, w: QTensor, platform: str) -> Ran:
        """See `Form`."""
        return Ran("xla", told=decoded(self.dot, x, w))


@dataclass(frozen=True)
class ByXla(Form):
    """XLA's convolution of codes as floats."""

    def __call__(self, x: Act, w: QTensor) -> jax.Array:
        """See `Form`."""
        kind = _float_kind(x, w)
        image, x_scale = as_floats(x, kind)
        kernel, w_scale = as_floats(w, kind)
        total = self.window.convolve(image, kernel, jnp.float32, self.dot.precision)
        return scaled(self.dot, self.window, total, x_scale, w_scale)


@dataclass(frozen=True)
class ByIntegers(Form):
    """XLA's convolution of int8 codes into int32, which is exact; weights have no zero points."""

    def __call__(self, x: Act, w: QTensor) -> jax.Array:
        """See `Form`."""
        assert isinstance(x, QTensor)  # a form for integers on both sides
        image, (kernel, scale) = _image(self.window, x), self._kernel(w)
        codes = _row_major(image.codes.astype(jnp.int8))
        total = self.window.in_order().convolve(codes, kernel, jnp.int32, None)
        total = total.astype(jnp.float32)
        if image.zero is not None:
            sums = jnp.sum(kernel, axis=range(kernel.ndim - 1), dtype=jnp.int32)
            total = total - _of_examples(image.zero, total.ndim - 1) * sums.astype(jnp.float32)
        total = self.window.to_result(total)
        return scaled(self.dot, self.window, total, _scale(x), scale)

    def ran(self, x: Any, w: QTensor, platform: str) -> Ran:
        """See `Form`."""
        return Ran("xla", told=decoded(self.dot, x, w))

    def _kernel(self, w: QTensor) -> tuple[jax.Array, jax.Array]:
        """Codes ``[*spatial, I, O]`` and scales."""
        plain = w.plain().in_order()
        codes, unit, _ = kernel_codes(plain.codes, w.qtype)
        out, feature, *spatial = self.window.numbers.rhs_spec
        codes = lax.transpose(codes, (*spatial, feature, out)).astype(jnp.int8)
        return _row_major(codes), plain.scale * unit


def _row_major(x: jax.Array) -> jax.Array:
    """In memory in the order of its axes: else XLA convolves codes a hundred times more slowly."""
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))


def forms(dot: DotSpec, window: Window, x: Any, w: QTensor) -> tuple[Form, Form]:
    """How it is computed on CPU, and elsewhere."""
    return form_on("cpu", dot, window, x, w), form_on("", dot, window, x, w)


def form_on(platform: str, dot: DotSpec, window: Window, x: Any, w: QTensor) -> Form:
    """How it is computed on a platform; for CPU, what was fastest there."""
    is_point = window.is_point(w) and not _is_depthwise(window, w)
    if platform != "cpu":
        return (ByKernel if is_point else ByXla)(dot, window)
    if _is_depthwise(window, w):
        return ByTaps(dot, window)
    product = ByKernel(dot, window)
    if is_point and not product.ran(_float_of(x), w, "cpu").slow:
        return product
    return (ByIntegers if _are_integers(dot, window, w) else ByXla)(dot, window)


def _float_of(x: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _are_integers(dot: DotSpec, window: Window, w: QTensor) -> bool:
    """Whether both operands have integer codes whose products add up in int32, weights no zeros."""
    features = w.shape[window.numbers.rhs_spec[1]]
    sides = [w.qtype, dot.act.qtype] if dot.act else []
    exact = is_safe(math.prod(window.kernel(w)) * features)
    return exact and w.zero is None and len(sides) == 2 and all(_is_integer(q) for q in sides)


def _is_integer(qtype: QType) -> bool:
    return dtype_of(qtype) in ("int8", "int4")


def quantized(dot: DotSpec, x: Any, w: QTensor) -> Act:
    """The activation as a form gets it, where only shapes count."""
    if dot.act is None:
        return x
    return quantized_in_place(dot, x, w, {"key": jax.random.key(0)})


def as_floats(x: Act, dtype: Any) -> tuple[jax.Array, jax.Array | None]:
    """Codes less their zero points as floats, and what these are multiplied by afterwards."""
    if not isinstance(x, QTensor):
        return x.astype(dtype), None
    x = x.plain().in_order()
    codes, unit, shift = kernel_codes(x.codes, x.qtype)
    value = codes.astype(dtype)
    if x.zero is not None:
        value = value - (x.zero.astype(dtype) - shift)
    return value, x.scale * unit


def scaled(
    dot: DotSpec, window: Window, total: jax.Array, x: jax.Array | None, w: jax.Array | None
) -> jax.Array:
    """A sum of codes times the scales of both operands."""
    out = window.numbers.out_spec
    if x is not None:
        total = total * _along(x, window.numbers.lhs_spec[0], out[0])
    if w is not None:
        total = total * _along(w, window.numbers.rhs_spec[0], out[1])
    return total.astype(dot.out)


def _along(scale: jax.Array, axis: int, place: int) -> jax.Array:
    """Scales along one axis of an operand, along one of the result."""
    ndim = scale.ndim
    flat = lax.squeeze(scale, [d for d in range(ndim) if d != axis])
    return lax.expand_dims(flat, [d for d in range(ndim) if d != place])


def _image(window: Window, x: Act) -> Operand:
    """The padded input ``[N, *spatial, C]``, scales and zero points ``[1, N, 1]``."""
    example, feature, *spatial = window.numbers.lhs_spec
    order = (example, *spatial, feature)
    if not isinstance(x, QTensor):
        image = lax.transpose(x, order)
        return Operand(window.padded(image, jnp.zeros((), x.dtype)), None, None, 0)
    flat = x.canonical((), (example,), order[1:])
    image = lax.reshape(flat.codes, tuple(x.shape[d] for d in order))
    fill = _fill(x, flat)
    return flat._replace(codes=window.padded(image, fill.astype(image.dtype)))


def _fill(x: QTensor, flat: Operand) -> jax.Array:
    """The code of zero: one for all examples, or for each."""
    if flat.zero is None:
        return jnp.zeros(())
    return flat.zero[0, 0, 0] if x.scale.size == 1 else flat.zero[0, :, 0]


def _of_examples(zero: jax.Array, more: int) -> jax.Array:
    """``[1, N, 1]`` as ``[N, 1, …]`` with that many axes after the first."""
    return lax.reshape(zero, (zero.shape[1], *[1] * more))


def _by_group(x: jax.Array, groups: int) -> jax.Array:
    """``[N, *places, taps, C]`` as ``[groups, N * places, taps * C / groups]``."""
    *lead, taps, c = x.shape
    rows = lax.reshape(x, (math.prod(lead), taps, groups, c // groups))
    rows = lax.transpose(rows, (2, 0, 1, 3))
    return lax.reshape(rows, (groups, math.prod(lead), taps * (c // groups)))


def _scale(x: Act) -> jax.Array | None:
    """The scales of an activation as `as_floats` has them."""
    return as_floats(x, jnp.dtype("float32"))[1]


def _float_kind(x: Act, w: QTensor) -> Any:
    """A float type of the program that holds the codes exactly; float32 where it does not."""
    sides = [side for side in (x, w) if isinstance(side, QTensor)]
    return jnp.float32 if any(s.qtype.kind == "table" for s in sides) else jnp.dtype(x.dtype)


def _is_depthwise(window: Window, w: QTensor) -> bool:
    """Whether each kernel sees one feature."""
    return w.shape[window.numbers.rhs_spec[1]] == 1 and window.groups > 1
