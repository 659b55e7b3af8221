"""A way to compute a quantized convolution, and what the plan says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

from qpass.numerics import QTensor
from qpass.ops.conv_operands import Act
from qpass.ops.decoded import decoded
from qpass.ops.dot_spec import DotSpec
from qpass.ops.op import Ran
from qpass.ops.window import Window

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
