"""Convolutions by XLA: of integer codes, of codes as floats, or summed element by element."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass.numerics import QTensor, kernel_codes
from qpass.ops.conv_form import Form
from qpass.ops.conv_integers import integer_conv
from qpass.ops.conv_operands import Act, as_floats, image_of, of_examples, scale_of, scaled
from qpass.ops.decoded import decoded
from qpass.ops.op import Ran
from qpass_kernels.reference import sealed


@dataclass(frozen=True)
class ByTaps(Form):
    """A sum over the elements of kernels that see one feature each."""

    def __call__(self, x: Act, w: QTensor) -> jax.Array:
        """See `Form`."""
        image, (kernel, scale) = image_of(self.window, x), as_floats(w, jnp.dtype("float32"))
        out, feature, *spatial = self.window.numbers.rhs_spec
        kernel = lax.transpose(kernel, (*spatial, out, feature))
        own = (self.window.groups, w.shape[out] // self.window.groups)
        sizes = self.window.kernel(w)
        kernel = lax.reshape(kernel, (math.prod(sizes), *own))
        zero = 0 if image.zero is None else of_examples(image.zero, len(spatial) + 1)
        taps = self.window.taps(sealed(image.codes), sizes, self.window.result(x, w))
        first, *rest = (
            (tap.astype(jnp.float32) - zero)[..., None] * kernel[k] for k, tap in enumerate(taps)
        )
        total = sum(rest, first)
        total = self.window.to_result(lax.reshape(total, (*total.shape[:-2], w.shape[out])))
        return scaled(self.dot, self.window, total, scale_of(x), scale)

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
        image, (kernel, scale) = image_of(self.window, x), self._kernel(w)
        total = integer_conv(image.codes.astype(jnp.int8), kernel, self.window.in_order())
        if image.zero is not None:
            sums = jnp.sum(kernel, axis=range(kernel.ndim - 1), dtype=jnp.int32)
            total = total - of_examples(image.zero, total.ndim - 1) * sums.astype(jnp.float32)
        total = self.window.to_result(total)
        return scaled(self.dot, self.window, total, scale_of(x), scale)

    def ran(self, x: Any, w: QTensor, platform: str) -> Ran:
        """See `Form`."""
        return Ran("xla", told=decoded(self.dot, x, w))

    def _kernel(self, w: QTensor) -> tuple[jax.Array, jax.Array]:
        """Codes ``[*spatial, I, O]`` and scales."""
        plain = w.plain().in_order()
        codes, unit, _ = kernel_codes(plain.codes, w.qtype)
        out, feature, *spatial = self.window.numbers.rhs_spec
        codes = lax.transpose(codes, (*spatial, feature, out)).astype(jnp.int8)
        return codes, plain.scale * unit


def _float_kind(x: Act, w: QTensor) -> Any:
    """A float type of the program that holds the codes exactly; float32 where it does not."""
    sides = [side for side in (x, w) if isinstance(side, QTensor)]
    return jnp.float32 if any(s.qtype.kind == "table" for s in sides) else jnp.dtype(x.dtype)
