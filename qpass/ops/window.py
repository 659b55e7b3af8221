"""Windows of a convolution: what is multiplied by its kernel at each place of the result."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
from jax import lax

from qpass.graph._jax import JaxprEqn
from qpass.numerics.axes import inverse

type Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Window:
    """How a convolution lays its kernel over its input: the parameters that JAX gives it.

    Attributes:
        numbers: which axis is what, in the input, the kernel and the result.
        strides: steps of the kernel.
        padding: zeros before and after the input.
        gaps: steps between elements of the input, which zeros are put between (``lhs_dilation``).
        reach: steps between elements of the kernel (``rhs_dilation``).
        groups: into how many the features are cut, each with outputs of its own.
    """

    numbers: lax.ConvDimensionNumbers
    strides: tuple[int, ...]
    padding: Pairs
    gaps: tuple[int, ...]
    reach: tuple[int, ...]
    groups: int

    def convolve(self, lhs: jax.Array, rhs: jax.Array, out: Any, precision: Any) -> jax.Array:
        """The convolution by XLA."""
        return lax.conv_general_dilated(
            lhs,
            rhs,
            self.strides,
            self.padding,
            self.gaps,
            self.reach,
            self.numbers,
            self.groups,
            precision=precision,
            preferred_element_type=out,
        )

    def in_order(self) -> Window:
        """The window over ``[N, *spatial, C]``, padded already, by kernels ``[*spatial, I, O]``."""
        n = len(self.strides)
        image, kernel = (0, n + 1, *range(1, n + 1)), (n + 1, n, *range(n))
        numbers = lax.ConvDimensionNumbers(image, kernel, image)
        return replace(self, numbers=numbers, padding=((0, 0),) * n, gaps=(1,) * n)

    def kernel(self, w: Any) -> tuple[int, ...]:
        """Spatial sizes of the kernel."""
        return tuple(w.shape[d] for d in self.numbers.rhs_spec[2:])

    def result(self, x: Any, w: Any) -> tuple[int, ...]:
        """Spatial sizes of the result."""
        operands = (jax.ShapeDtypeStruct(a.shape, "float32") for a in (x, w))
        plain = partial(self.convolve, out=None, precision=None)
        shape = jax.eval_shape(plain, *operands).shape
        return tuple(shape[d] for d in self.numbers.out_spec[2:])

    def is_point(self, w: Any) -> bool:
        """Whether a window is one element of the input: each place is a product by one matrix."""
        return all(n == 1 for n in self.kernel(w))

    def to_result(self, x: jax.Array) -> jax.Array:
        """``[N, *spatial, C]`` in the order of the result's axes."""
        return lax.transpose(x, inverse(_features_last(self.numbers.out_spec)))

    def padded(self, x: jax.Array, fill: jax.Array) -> jax.Array:
        """``x [N, *spatial, C]`` with its padding and what is put between its elements.

        Args:
            x: the input.
            fill: what stands for zero: a scalar, or one for each example.
        """
        sides = zip(self.padding, self.gaps, strict=True)
        config = [*((low, high, gap - 1) for (low, high), gap in sides), (0, 0, 0)]
        if not any(map(any, config)):
            return x
        if fill.ndim == 0:
            return lax.pad(x, fill, [(0, 0, 0), *config])
        return jax.vmap(lambda image, zero: lax.pad(image, zero, config))(x, fill)

    def taps(
        self, x: jax.Array, kernel: Sequence[int], result: Sequence[int]
    ) -> Iterator[jax.Array]:
        """For each element of the kernel what it is multiplied by: ``[N, *result, C]``.

        Args:
            x: the padded input.
            kernel: its spatial sizes.
            result: those of the result.
        """
        for place in itertools.product(*map(range, kernel)):
            first = [p * step for p, step in zip(place, self.reach, strict=True)]
            ends = zip(first, result, self.strides, strict=True)
            last = [start + (n - 1) * stride + 1 for start, n, stride in ends]
            n, *_, c = x.shape
            yield lax.slice(x, (0, *first, 0), (n, *last, c), (1, *self.strides, 1))


def window_of(eqn: JaxprEqn) -> Window:
    """The window of a ``conv_general_dilated``, with plain numbers."""
    p = eqn.params
    strides, gaps, reach = (
        tuple(map(int, p[name])) for name in ("window_strides", "lhs_dilation", "rhs_dilation")
    )
    padding = tuple((int(low), int(high)) for low, high in p["padding"])
    numbers = p["dimension_numbers"]
    return Window(numbers, strides, padding, gaps, reach, int(p["feature_group_count"]))


def _features_last(spec: Sequence[int]) -> tuple[int, ...]:
    """Axes that are examples, spatial ones and features, in this order."""
    return (spec[0], *spec[2:], spec[1])
