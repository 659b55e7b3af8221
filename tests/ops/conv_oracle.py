"""Convolutions in float64 by numpy: every window is cut out, whatever the parameters."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax import lax


@dataclass(frozen=True)
class Case:
    """Shapes of the input and of the kernel, and the keyword arguments of JAX's convolution."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    axes: tuple[str, str, str]
    more: Mapping[str, Any] = field(default_factory=dict)

    def run(self, params: Any, x: Any) -> Any:
        """JAX's own, of a parameter ``w``."""
        n = len(self.x) - 2
        given = {"window_strides": (1,) * n, "padding": "SAME", **self.more}
        return lax.conv_general_dilated(x, params["w"], dimension_numbers=self.axes, **given)


NHWC = ("NHWC", "HWIO", "NHWC")
CASES = {
    "1-D": Case((2, 9, 4), (3, 4, 6), ("NWC", "WIO", "NWC"), {"window_strides": (2,)}),
    "2-D": Case((2, 7, 6, 4), (3, 3, 4, 5), NHWC, {"window_strides": (2, 1)}),
    "3-D": Case((1, 4, 5, 4, 2), (2, 3, 1, 2, 3), ("NDHWC", "DHWIO", "NDHWC")),
    "order of PyTorch": Case((2, 4, 7, 6), (5, 4, 3, 2), ("NCHW", "OIHW", "NCHW")),
    "odd order": Case((4, 6, 2, 7), (5, 3, 4, 2), ("CWNH", "OHIW", "WNCH")),
    "dilated": Case((2, 9, 9, 3), (3, 2, 3, 4), NHWC, {"rhs_dilation": (2, 3)}),
    "transposed": Case(
        (2, 4, 4, 3), (3, 3, 3, 4), NHWC, {"lhs_dilation": (2, 2), "padding": ((1, 2), (2, 1))}
    ),
    "cropped": Case((2, 8, 8, 3), (3, 3, 3, 4), NHWC, {"padding": ((-1, 1), (2, -2))}),
    "point": Case((2, 5, 4, 6), (1, 1, 6, 5), NHWC),
    "point with strides": Case(
        (2, 5, 4, 6), (1, 1, 6, 5), NHWC, {"window_strides": (2, 2), "padding": ((1, 1), (0, 1))}
    ),
    "groups": Case((2, 6, 5, 6), (3, 2, 3, 8), NHWC, {"feature_group_count": 2}),
    "depthwise": Case((2, 6, 5, 6), (3, 3, 1, 6), NHWC, {"feature_group_count": 6}),
    "depthwise, two each": Case(
        (2, 6, 5, 3), (3, 3, 1, 6), NHWC, {"feature_group_count": 3, "window_strides": (2, 2)}
    ),
}


def convolved(case: Case, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The convolution in float64."""
    params = _numbers(case)
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    x = np.transpose(np.asarray(x, np.float64), numbers.lhs_spec)
    w = np.transpose(np.asarray(w, np.float64), numbers.rhs_spec)
    x, w = _spread(x, params["lhs_dilation"]), _spread(w, params["rhs_dilation"])
    for d, (low, high) in enumerate(params["padding"], 2):
        wide = [(0, 0)] * x.ndim
        wide[d] = (max(low, 0), max(high, 0))
        x = np.pad(x, wide)
        x = x.take(range(max(-low, 0), x.shape[d] - max(-high, 0)), axis=d)
    spatial = tuple(range(2, x.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], spatial)
    steps = (slice(None, None, s) for s in params["window_strides"])
    windows = windows[(slice(None), slice(None), *steps)]
    n, k = len(spatial), w.shape[0] // groups
    parts = [
        np.tensordot(
            windows[:, g * w.shape[1] : (g + 1) * w.shape[1]],
            w[g * k : (g + 1) * k],
            ((1, *range(2 + n, 2 + 2 * n)), (1, *range(2, 2 + n))),
        )
        for g in range(groups)
    ]
    out = np.moveaxis(np.concatenate(parts, -1), -1, 1)
    return np.transpose(out, np.argsort(numbers.out_spec))


def _numbers(case: Case) -> Mapping[str, Any]:
    """The parameters as JAX resolves them: padding in numbers, orders of axes."""
    import jax

    w = {"w": jax.ShapeDtypeStruct(case.w, "float32")}
    x = jax.ShapeDtypeStruct(case.x, "float32")
    return jax.make_jaxpr(case.run)(w, x).eqns[-1].params


def _spread(x: np.ndarray, steps: tuple[int, ...]) -> np.ndarray:
    """Zeros between neighbours."""
    sizes = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], steps, strict=True)]
    out = np.zeros((*x.shape[:2], *sizes))
    out[(slice(None), slice(None), *(slice(None, None, s) for s in steps))] = x
    return out
