"""Weights: how a parameter leaf is stored, and its quantization inside and outside of a program."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
from jax import lax

from qpass.errors import QuantizeError
from qpass.numerics import (
    Mse,
    Packed,
    PowerOfTwo,
    QTensor,
    Quantizer,
    Range,
    WeightedMse,
    count_nonfinite,
    quantize,
    with_sums,
)
from qpass.ops.static import whole_range
from qpass.ops.straight_through import without_clipped


@dataclass(frozen=True)
class Storage:
    """How a leaf is stored.

    Attributes:
        quantizer: type and granularity.
        contract: axes of the leaf that its products contract.
        separate: axes of the leaf that no product sees (stacked layers): own scales for each index.
        sums: keep its column sums as well, for activations with zero points.
    """

    quantizer: Quantizer
    contract: tuple[int, ...]
    separate: tuple[int, ...]
    sums: bool = False

    def __str__(self) -> str:
        layers = f", one set of scales for each index of {self.separate}" if self.separate else ""
        sums = ", with column sums" if self.sums else ""
        return f"{self.quantizer} along axes {self.contract}{layers}{sums}"


# Jitted so that weights of one shape are traced once, however many layers there are.
@partial(jax.jit, static_argnames="storage")
def encode_weight(
    x: jax.Array,
    storage: Storage,
    bounds: tuple[jax.Array, jax.Array] | None = None,
    importance: jax.Array | None = None,
    key: jax.Array | None = None,
) -> QTensor:
    """Quantize a leaf, contracted axes last in memory (K-minor), as every kernel reads it.

    Args:
        x: the leaf.
        storage: how.
        bounds: its range: scalars where that is static, of the scales' shape where it is learned.
        importance: how much an error in each element counts, for ranges that weigh errors.
        key: for stochastic rounding.
    """
    quantizer, bounds = whole_range(storage.quantizer, bounds, x.ndim)
    return _stored(x, replace(storage, quantizer=quantizer), bounds, importance, key)


@partial(jax.jit, static_argnames="storage")
def encode_within(x: jax.Array, storage: Storage, bounds: tuple[jax.Array, jax.Array]) -> QTensor:
    """A leaf as `encode_weight` stores it, with bounds that were found elsewhere.

    Args:
        x: the leaf.
        storage: how.
        bounds: least and greatest value that codes of each block cover, of the scales' shape.
    """
    return _stored(x, storage, bounds)


def _stored(
    x: jax.Array,
    storage: Storage,
    bounds: tuple[jax.Array, jax.Array] | None,
    importance: jax.Array | None = None,
    key: jax.Array | None = None,
) -> QTensor:
    contract, separate = storage.contract, storage.separate
    q = quantize(x, storage.quantizer, contract, separate, True, key, importance, bounds)
    return with_sums(q, contract) if storage.sums else q


def stored_nbytes(aval: Any, storage: Storage) -> int:
    """Bytes of codes, scales and what lies beside, of a leaf of this shape and dtype."""
    return abstract_weight(aval, storage).nbytes


def abstract_weight(aval: Any, storage: Storage) -> QTensor:
    """What `encode_weight` gives for a leaf of this shape and dtype, without its arrays."""
    x = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    return jax.eval_shape(partial(encode_weight, storage=shaped(storage)), x)


def kind(q: QTensor) -> tuple:
    """All that two tensors need to have alike to be stored alike; zero points may be floats."""
    arrays = [None if x is None else (x.shape, x.dtype) for x in (q.codes, q.scale, q.outer)]
    zero = None if q.zero is None else q.zero.shape  # float32 where a file has it between codes
    return q.qtype, q.groups, q.order, isinstance(q.codes, Packed), zero, *arrays


def shaped(storage: Storage) -> Storage:
    """What gives tensors of the same shapes and needs nothing beside the array."""
    plain = unweighted(storage)
    return replace(plain, quantizer=plain.quantizer.nearest())


def weighs(quantizer: Quantizer) -> bool:
    """Whether its range weighs errors by importance, which has to be captured."""
    return _unweighted(quantizer.range) != quantizer.range


def unweighted(storage: Storage) -> Storage:
    """The same with errors that all count alike: what is left where no importance is known."""
    quantizer = storage.quantizer
    return replace(storage, quantizer=quantizer.ranged(_unweighted(quantizer.range)))


def _unweighted(how: Range) -> Range:
    if isinstance(how, PowerOfTwo):
        return replace(how, inner=_unweighted(how.inner))
    return Mse(how.steps, how.least) if isinstance(how, WeightedMse) else how


def fake_quantize_weight(
    x: jax.Array,
    storage: Storage,
    bounds: tuple[jax.Array, jax.Array] | None = None,
    key: jax.Array | None = None,
) -> QTensor:
    """Quantize a float leaf inside a program; gradients go to ``x``, straight or masked.

    A range that weighs errors has nothing to weigh them by here; see `qpass.given.find_fault`.

    The barrier makes codes and scales as opaque to the compiler as if they had come from outside,
    so that what follows is computed exactly as for a stored tensor.
    """
    known = unweighted(storage)
    q = lax.optimization_barrier(encode_weight(x, known, bounds, key=key))
    return replace(q, latent=without_clipped(x, q, storage.quantizer, bounds))


def enter_program(
    values: Sequence[Any],
    storage: Mapping[int, Storage],
    keys: Mapping[int, jax.Array],
    bounds: Mapping[int, tuple[jax.Array, jax.Array]] = MappingProxyType({}),
) -> list[Any]:
    """A program's inputs as its rewritten form reads them: float weights are fake-quantized.

    Args:
        values: one float array or QTensor for each input.
        storage: how the inputs that are stored weights are quantized, by index.
        keys: for those that are rounded stochastically, by index.
        bounds: ranges that are learned, by index.
    """
    return [
        value
        if k not in storage or isinstance(value, QTensor)
        else fake_quantize_weight(value, storage[k], bounds.get(k), keys.get(k))
        for k, value in enumerate(values)
    ]


def check_finite(x: jax.Array, path: str) -> None:
    """Refuse a weight that holds NaN or infinities.

    Raises:
        QuantizeError: naming the leaf and how many values are not finite.
    """
    refuse_nonfinite(int(count_nonfinite(x)), x.size, path)


def refuse_nonfinite(bad: int, size: int, path: str) -> None:
    """Refuse a weight of which `bad` of `size` values are NaN or infinite.

    Raises:
        QuantizeError: naming the leaf, where there is any.
    """
    if bad:
        raise QuantizeError(
            f"cannot quantize {path}: {bad} of {size} values are NaN or infinite. "
            "Mend the weight, or keep it float with Rule(path=..., keep=True)."
        )
