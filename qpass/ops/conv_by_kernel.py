"""Convolutions as products: windows are rows, which kernels for products multiply by the kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass.numerics import Operand, QTensor, decoding
from qpass.ops.asked import as_kernels_take, floats
from qpass.ops.conv_form import Form
from qpass.ops.conv_operands import Act, image_of, quantized
from qpass.ops.decoded import decoded
from qpass.ops.matmul import describe, quantized_matmul
from qpass.ops.op import Ran
from qpass.ops.rows import has_plain_rows
from qpass.ops.zero_points import KernelCall, Sizes, kernel_call
from qpass_kernels import select
from qpass_kernels.kernel import Chores


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
        image, result = image_of(self.window, x), self.window.result(x, w)
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


def _by_group(x: jax.Array, groups: int) -> jax.Array:
    """``[N, *places, taps, C]`` as ``[groups, N * places, taps * C / groups]``."""
    *lead, taps, c = x.shape
    rows = lax.reshape(x, (math.prod(lead), taps, groups, c // groups))
    rows = lax.transpose(rows, (2, 0, 1, 3))
    return lax.reshape(rows, (groups, math.prod(lead), taps * (c // groups)))
