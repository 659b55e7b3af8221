"""Weights: how a parameter leaf is stored, and its quantization inside and outside of a program."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
from jax import lax

from qpass.errors import QuantizeError
from qpass.numerics import QTensor, Quantizer, count_nonfinite, quantize


@dataclass(frozen=True)
class Storage:
    """How a leaf is stored.

    Attributes:
        quantizer: type and granularity.
        contract: axes of the leaf that its products contract.
        separate: axes of the leaf that no product sees (stacked layers): own scales for each index.
    """

    quantizer: Quantizer
    contract: tuple[int, ...]
    separate: tuple[int, ...]

    def __str__(self) -> str:
        layers = f", one set of scales for each index of {self.separate}" if self.separate else ""
        return f"{self.quantizer} along axes {self.contract}{layers}"


# Jitted so that weights of one shape are traced once, however many layers there are.
@partial(jax.jit, static_argnames="storage")
def encode_weight(x: jax.Array, storage: Storage) -> QTensor:
    """Quantize a leaf, contracted axes last in memory (K-minor), as every kernel reads it."""
    return quantize(x, storage.quantizer, storage.contract, storage.separate, pack=True)


def stored_nbytes(aval: Any, storage: Storage) -> int:
    """Bytes of codes and scales of a leaf of this shape and dtype."""
    x = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    return jax.eval_shape(partial(encode_weight, storage=storage), x).nbytes


def fake_quantize_weight(x: jax.Array, storage: Storage) -> QTensor:
    """Quantize a float leaf inside a program; gradients go to ``x`` unchanged.

    The barrier makes codes and scales as opaque to the compiler as if they had come from outside,
    so that what follows is computed exactly as for a stored tensor.
    """
    q = encode_weight(x, storage)
    return replace(lax.optimization_barrier(q), latent=x)


def enter_program(values: Sequence[Any], storage: Mapping[int, Storage]) -> list[Any]:
    """A program's inputs as its rewritten form reads them: float weights are fake-quantized.

    Args:
        values: one float array or QTensor for each input.
        storage: how the inputs that are stored weights are quantized, by index.
    """
    return [
        value
        if k not in storage or isinstance(value, QTensor)
        else fake_quantize_weight(value, storage[k])
        for k, value in enumerate(values)
    ]


def check_finite(x: jax.Array, path: str) -> None:
    """Refuse a weight that holds NaN or infinities.

    Raises:
        QuantizeError: naming the leaf and how many values are not finite.
    """
    bad = int(count_nonfinite(x))
    if bad:
        raise QuantizeError(
            f"cannot quantize {path}: {bad} of {x.size} values are NaN or infinite. "
            "Mend the weight, or keep it float with Rule(path=..., keep=True)."
        )
