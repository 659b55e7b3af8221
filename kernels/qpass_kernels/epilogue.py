"""What may follow a product before its result is written: the one formula that all kernels share.

In float32, in this order: `+ bias`, activation, `* other`, `+ residual`; then the cast.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from jax import lax

Activation = Literal["none", "relu", "silu", "gelu", "gelu_tanh"]


@dataclass(frozen=True)
class Epilogue:
    """What follows a product; nothing by default, and then it is false.

    Attributes:
        bias: add one `[B, N]`, float32, to every row.
        activation: "none", or which function comes next: "relu", "silu", "gelu" (with the error
            function) or "gelu_tanh".
        multiply: times an array `[B, M, N]`, of the type of the result.
        residual: plus an array `[B, M, N]`, of the type of the result.

    Raises:
        ValueError: an activation that nobody knows.
    """

    bias: bool = False
    activation: Activation = "none"
    multiply: bool = False
    residual: bool = False

    def __post_init__(self):
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"Epilogue.activation is {self.activation!r}; allowed here: {known}")

    def __bool__(self) -> bool:
        return self != NOTHING

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of the arrays that it asks for, in their order."""
        return tuple(name for name in ("bias", "multiply", "residual") if getattr(self, name))

    @property
    def beside(self) -> tuple[str, ...]:
        """Names of those that have the shape of the result."""
        return self.operands[self.bias :]

    def __str__(self) -> str:
        parts = [
            "+ bias" * self.bias,
            self.activation if self.activation != "none" else "",
            "* other" * self.multiply,
            "+ residual" * self.residual,
        ]
        return ", ".join(filter(None, parts))


def apply(epilogue: Epilogue, total: Any, operands: Iterable[Any]) -> Any:
    """Apply an epilogue to float32 sums.

    Args:
        epilogue: what to do.
        total: float32 sums after scales, the whole `[B, M, N]` or a tile of it.
        operands: float32 arrays as `epilogue.operands` names them, of a shape that broadcasts to
            that of the sums. Taken one by one when they are needed: a kernel may load them late.
    """
    given = iter(operands)
    if epilogue.bias:
        total = total + next(given)
    total = ACTIVATIONS[epilogue.activation](total)
    if epilogue.multiply:
        total = total * next(given)
    if epilogue.residual:
        total = total + next(given)
    return total


def finish(epilogue: Epilogue, total: Any, operands: Iterable[Any], out: Any) -> Any:
    """Apply an epilogue to all of a product, and cast to the type of the result.

    Args:
        epilogue: what to do.
        total: float32 `[B, M, N]`.
        operands: bias `[B, N]`, the others `[B, M, N]`, of any float dtype.
        out: dtype of the result.
    """
    named = zip(epilogue.operands, operands, strict=True)
    wide = (_as_rows(name, x).astype(jnp.float32) for name, x in named)
    return apply(epilogue, total, wide).astype(out)


def _as_rows(name: str, x: Any) -> Any:
    return x[:, None, :] if name == "bias" else x


def _gelu(x: Any) -> Any:
    """With the error function; not its complement, which no kernel has."""
    return 0.5 * x * (1 + lax.erf(x * 0.5**0.5))


def _gelu_tanh(x: Any) -> Any:
    inner = (2 / jnp.pi) ** 0.5 * (x + 0.044715 * (x * x * x))
    return 0.5 * x * (1 + jnp.tanh(inner))


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "none": lambda x: x,
    "relu": lambda x: jnp.maximum(x, 0.0),
    "silu": lambda x: x * lax.logistic(x),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}
NOTHING = Epilogue()
