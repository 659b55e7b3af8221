"""The ways to compute a quantized convolution, and which is taken where.

* `ByKernel`: the windows are the rows of a product with the kernel as its matrix, which kernels for
  products multiply. A window of one element is the input itself; others are copied out of the
  codes.
* `ByTaps`: where each feature has a kernel of its own (depthwise), a sum over the kernel's
  elements, each times the input shifted by its place: XLA makes one loop of it.
* `ByIntegers`: XLA's convolution of int8 into int32, which its library for CPU is fast at
  (`qpass.ops.conv_integers`).
* `ByXla`: XLA's own convolution, of the codes as floats, which hold them exactly.
"""

from __future__ import annotations

import math
from typing import Any

import jax

from qpass.numerics import QTensor, QType, dtype_of
from qpass.ops.conv_by_kernel import ByKernel
from qpass.ops.conv_by_xla import ByIntegers, ByTaps, ByXla
from qpass.ops.conv_form import Form
from qpass.ops.dot_spec import DotSpec
from qpass.ops.window import Window
from qpass_kernels.reference import is_safe


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


def _is_depthwise(window: Window, w: QTensor) -> bool:
    """Whether each kernel sees one feature."""
    return w.shape[window.numbers.rhs_spec[1]] == 1 and window.groups > 1
